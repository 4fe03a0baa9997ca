"""Everything that must stand before a process of the bus can run, in the order in which one thing needs another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from kafka import KafkaAdminClient

from bus import access
from bus.avro import catalogue, dataset, derive
from bus.avro.dataset import Dataset
from bus.config import ConfigError, Settings
from bus.contracts import delivered
from bus.contracts.delivered import Delivered
from bus.core import topics
from bus.core.agreement import Agreement
from bus.engine import agreement_log, plan
from bus.engine import agreements as agreement_files
from bus.engine.agreement_log import Change
from bus.platform import agencies, agreed, cluster, database, declared, ports, presence, processes, quotas, secrets
from bus.platform.agreed import Agreed
from bus.registry import log, registration


@dataclass(frozen=True, slots=True)
class Files:
    """The schema and agreement files, read and checked against each other."""

    datasets: dict[str, Dataset]
    agreements: dict[str, Agreement]
    subjects: dict[str, Any]

    @classmethod
    def read(cls, settings: Settings) -> Self:
        """Starts nothing and asks nobody. Raises AgreementError with every problem, SchemaError, PlanError."""
        datasets = dataset.load(settings.schemas)
        agreements = agreement_files.load(settings, datasets)
        return cls(datasets, agreements, subjects(datasets, agreements))

    def digests(self, settings: Settings) -> dict[str, str]:
        """What a bus is started with -> SHA-256 of its canonical form, in hexadecimal. Where a file lies is no part of it."""
        tree = dataclasses.asdict(settings)
        for place in ("home", "agreements", "schemas", "parties"):
            del tree[place]
        return {
            "agreements": hashlib.sha256(b"".join(a.grant_hash for a in self.agreements.values())).hexdigest(),
            "schemas": _digest({name: one.row for name, one in self.datasets.items()}),
            "settings": _digest(tree),
        }


@dataclass(frozen=True, slots=True)
class Declared:
    """What was there to declare, and what the cluster lacked."""

    datasets: dict[str, Dataset]
    agreements: dict[str, Agreement]
    digests: dict[str, str]
    domains: list[str]
    created_topics: list[str]
    changed_users: list[str]
    agreed: Agreed
    """`agreements` are those that both parties stand by."""


def declare(settings: Settings) -> Declared:
    """Secrets, users, topics, rights, schemas; then the embedded databases, if PostgreSQL runs. Raises ConfigError."""
    files = Files.read(settings)
    if settings.kafka.bootstrap and not settings.secret_file("kafka-admin").exists():
        place = settings.secret_file("kafka-admin")
        raise ConfigError(f"put the password of the user admin of {settings.kafka.bootstrap} into {place} (mode 0600)")
    secrets.keys(settings)
    ports.ensure(settings)
    created, users, found = _bring(settings, files)
    agreements = found.of(files.agreements)
    agreement_log.publish(settings, agreements)
    domains = agencies.create(settings) if processes.running(settings, database.NAME) else []
    return Declared(files.datasets, agreements, files.digests(settings), domains, created, users, found)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change of the agreement files did to a running bus."""

    change: Change
    created_topics: list[str]
    changed_users: list[str]
    digests: dict[str, str]
    agreed: Agreed


def apply(settings: Settings) -> Applied:
    """Bring a running bus to the agreement files as they are now, and to what the parties say of them: what ended ends first,
    then topics, schemas, users and rights, then the agreements themselves, all at once. Raises AgreementError, with nothing done,
    when any is wrong; ConfigError.
    """
    files = Files.read(settings)
    digests = files.digests(settings)
    if presence.changed(settings, {"schemas": digests["schemas"]}):
        raise ConfigError("schemas have changed since the bus started; nothing was applied: run `bus down`, then `bus up`")
    ended = _end(settings, files)
    created, users, found = _bring(settings, files)
    change = agreement_log.publish(settings, found.of(files.agreements))
    change = dataclasses.replace(change, off=tuple(sorted({*change.off, *ended})))
    applied = Applied(change, created, users, digests, found)
    presence.applied(settings, digests)
    return applied


def stop(settings: Settings, name: str) -> None:
    """End one agreement in force, and take its rights away. What the files say does not matter: nothing of them is put into force
    beside it, and none that is wrong is in its way. Raises ConfigError.
    """
    left = {other: one for other, one in published(settings).items() if other != name}
    agreement_log.publish(settings, left)
    with cluster.admin(settings) as client:
        _admit(client, settings, dataset.load(settings.schemas), left)


def _admit(
    client: KafkaAdminClient, settings: Settings, datasets: Mapping[str, Dataset], agreements: Mapping[str, Agreement]
) -> list[str]:
    """Users, their rights and quotas, exactly those that these need. The users changed."""
    names = declared.principals(datasets, agreements)
    users = cluster.create_users(client, settings, names)
    cluster.grant(client, declared.rights(datasets, agreements))
    quotas.bring(client, settings, names)
    return users


def _end(settings: Settings, files: Files) -> tuple[str, ...]:
    """Publishes what is in force without what both parties no longer stand by: nothing waits for that."""
    before = published(settings)
    ended = agreed.look(settings, files.agreements, before).ended if before else ()
    if ended:
        agreement_log.publish(settings, {name: one for name, one in before.items() if name not in ended})
    return ended


def published(settings: Settings) -> dict[str, Agreement]:
    """What is in force; nothing before the first publication."""
    try:
        return agreement_log.read(access.confluent(settings, "admin")).agreements()
    except agreement_log.Malformed:
        return {}


def _bring(settings: Settings, files: Files) -> tuple[list[str], list[str], Agreed]:
    """Signatures, users, topics, rights, schemas. The topics created, the users changed, and which agreements are agreed on.
    Raises ContractError, with nothing done.
    """
    datasets = files.datasets
    with cluster.admin(settings) as client:
        there = {topic["name"] for topic in client.describe_topics()}
        before = published(settings) if topics.AGREEMENTS in there else {}
        if topics.SCHEMAS in there:
            _require_delivered(settings, files, before)
        signed = {topics.SIGNATURES: declared.topics_of(datasets, {}, settings.kafka.lanes)[topics.SIGNATURES]}
        cluster.create_topics(client, signed, settings.kafka.replication)
        found = agreed.bring(settings, files.agreements, before)
        agreements = found.of(files.agreements)
        created = cluster.create_topics(
            client, declared.topics_of(datasets, agreements, settings.kafka.lanes), settings.kafka.replication
        )
        users = _admit(client, settings, datasets, agreements)
    wanted = subjects(datasets, agreements)
    registration.ensure(settings, wanted, delivered.levels(wanted))
    return created, users, found


def _require_delivered(settings: Settings, files: Files, before: Mapping[str, Agreement]) -> None:
    """Raises ContractError when a dataset has changed so that the consumers of an agreement would notice."""
    config = access.confluent(settings, "admin")
    listed = []
    register = dataset.register_of(files.datasets)
    for agreement in files.agreements.values():
        earlier = {g.dataset: g for g in before[agreement.id].grants} if agreement.id in before else {}
        schemas = plan.delivery_schemas(files.datasets, register, agreement)
        for grant, (subject, schema) in zip(agreement.grants, schemas.items(), strict=True):
            listed.append(Delivered(agreement.id, grant, subject, schema, earlier.get(grant.dataset)))
    delivered.require(listed, log.read(config))


def subjects(datasets: Mapping[str, Dataset], agreements: Mapping[str, Agreement]) -> dict[str, Any]:
    """Subject -> schema of everything that a process of the bus writes."""
    register = dataset.register_of(dict(datasets))
    found: dict[str, Any] = {catalogue.value_subject(topics.AUDIT): derive.AUDIT_LINE}
    for one in datasets.values():
        found[catalogue.value_subject(one.topic)] = derive.change(one)
        found[catalogue.value_subject(topics.verified(one.name))] = derive.verified(one, register)
    for agreement in agreements.values():
        found |= plan.delivery_schemas(datasets, register, agreement)
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
