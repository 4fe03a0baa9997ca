"""Everything that must stand before a process of the bus can run, in the order in which one thing needs another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bus.avro import catalogue, dataset, derive
from bus.avro.dataset import Dataset
from bus.config import ConfigError, Settings
from bus.core import topics
from bus.core.agreement import Agreement
from bus.engine import agreements as agreement_files
from bus.engine import plan
from bus.platform import agencies, cluster, database, declared, processes, secrets
from bus.registry import log


@dataclass(frozen=True, slots=True)
class Declared:
    """What was there to declare, and what the cluster lacked."""

    datasets: dict[str, Dataset]
    agreements: dict[str, Agreement]
    domains: list[str]
    created_topics: list[str]
    changed_users: list[str]


def declare(settings: Settings) -> Declared:
    """Secrets, users, topics, rights, schemas; then the embedded databases, if PostgreSQL runs. Raises ConfigError."""
    datasets = dataset.load(settings.schemas)
    agreements = agreement_files.load(settings, datasets)
    if settings.kafka.bootstrap and not settings.secret_file("kafka-admin").exists():
        place = settings.secret_file("kafka-admin")
        raise ConfigError(f"put the password of the user admin of {settings.kafka.bootstrap} into {place} (mode 0600)")
    secrets.keys(settings)
    with cluster.admin(settings) as client:
        users = cluster.create_users(client, settings, declared.principals(datasets, agreements))
        created = cluster.create_topics(
            client, declared.topics_of(datasets, agreements, settings.kafka.lanes), settings.kafka.replication
        )
        cluster.grant(client, declared.rights(datasets, agreements))
    log.ensure(settings, subjects(datasets, agreements))
    domains = agencies.create(settings) if processes.running(settings, database.NAME) else []
    return Declared(datasets, agreements, domains, created, users)


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
