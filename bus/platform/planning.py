"""What `bus agreement apply` would do, without doing it: the cluster and what is in force beside the agreement files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kafka.admin import ACL

from bus import access
from bus.config import Settings
from bus.contracts import delivered
from bus.core import difference
from bus.core.agreement import Agreement
from bus.platform import agreed, cluster, declared, quotas
from bus.platform.declaration import Files, published, subjects
from bus.registry import log


@dataclass(frozen=True, slots=True)
class Plan:
    """In order. `starts`, `stops`: agreements; `changes`: agreement -> words; `waits`: agreement -> why it does not deliver."""

    starts: tuple[str, ...]
    stops: tuple[str, ...]
    changes: dict[str, tuple[str, ...]]
    waits: dict[str, str]
    signs: tuple[tuple[str, str], ...]
    """(agreement, mock party) that this home would sign for."""
    topics: tuple[str, ...]
    users: tuple[str, ...]
    locked: tuple[str, ...]
    rights: tuple[str, ...]
    taken: tuple[str, ...]
    """Rights that would be taken away."""
    quotas: tuple[str, ...]
    schemas: tuple[str, ...]
    """'subject, version n', and 'subject, level L'."""

    def __bool__(self) -> bool:
        """Whether there is anything to do; what waits for a signature is for its party to do."""
        return any(
            (self.starts, self.stops, self.changes, self.signs, self.topics, self.users, self.locked, self.rights, self.taken)
        ) or bool(self.quotas or self.schemas)


def make(settings: Settings) -> Plan:
    """Reads only. Raises AgreementError with every problem of the files, ConfigError."""
    files = Files.read(settings)
    with cluster.admin(settings) as client:
        there = {topic["name"] for topic in client.describe_topics()}
        before = published(settings)
        found = agreed.look(settings, files.agreements, before)
        after = found.of(files.agreements)
        wanted = declared.topics_of(files.datasets, after, settings.kafka.lanes)
        principals = declared.principals(files.datasets, after)
        made, locked = cluster.users_differing(client, settings, principals)
        missing, surplus = cluster.rights_differing(client, declared.rights(files.datasets, after))
        had, needed = quotas.found(client), quotas.wanted(settings, principals)
    return Plan(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        {name: _words(before[name], one) for name, one in after.items() if name in before and before[name] != one},
        found.others(),
        found.signed,
        tuple(sorted(wanted.keys() - there)),
        tuple(sorted(made)),
        tuple(sorted(locked)),
        tuple(sorted(map(_right, missing))),
        tuple(sorted(map(_right, surplus))),
        tuple(sorted(name for name in had.keys() | needed.keys() if had.get(name) != needed.get(name))),
        _schemas(settings, subjects(files.datasets, after)),
    )


def _words(old: Agreement, new: Agreement) -> tuple[str, ...]:
    listed = [f"{dataset}: {said}" for dataset, every in difference.words(old, new).items() for said in every]
    return (*difference.terms(old, new), *listed)


def _right(acl: ACL) -> str:
    pattern = acl.resource_pattern
    what = pattern.resource_name + ("*" if pattern.pattern_type.name == "PREFIXED" else "")
    return f"{acl.principal.removeprefix('User:')} {acl.operation.name} {pattern.resource_type.name.lower()} {what}"


def _schemas(settings: Settings, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    known = log.read(access.confluent(settings, "admin"))
    listed = []
    for subject, schema in sorted(wanted.items()):
        if known.propose(subject, schema):
            latest = known.latest(subject)
            listed.append(f"{subject}, version {latest.version + 1 if latest else 1}")
    levels = delivered.levels(wanted)
    return (*listed, *(f"{subject}, level {levels[subject]}" for subject in log.differing(known, levels)))
