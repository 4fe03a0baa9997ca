"""A run as values: what the databases did, what stands in the topics, and what the agreements say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.avro.dataset import Dataset
from tests.oracle.values import Row


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a database's journal. `op` is c, u or d; rows in the common spelling of values."""

    seq: int
    xid: int
    op: str
    before: Row | None
    after: Row | None


@dataclass(slots=True)
class Table:
    dataset: Dataset
    final: list[Row]
    journal: list[Entry]


@dataclass(slots=True)
class Event:
    """A change event, or the change event inside a verified one."""

    lane: int
    offset: int
    key: bytes
    timestamp_ms: int
    event_id: bytes
    op: str
    ts_ms: int
    source: dict[str, Any]
    before: Row | None
    after: Row | None

    @property
    def row(self) -> Row:
        """The row that the event is about: after, or before for a delete."""
        found = self.after if self.op != "d" else self.before
        return found if found is not None else {}


@dataclass(slots=True)
class Verified:
    event: Event
    verification: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    person: Row | None


@dataclass(slots=True)
class Delivery:
    lane: int
    offset: int
    key: bytes
    dataset: str
    event_id: bytes
    seq: int
    agreement: str
    grant_hash: bytes
    op: str
    ts_ms: int
    row_key: bytes
    verdict: str | None
    data: Row | None


@dataclass(slots=True)
class Raw:
    """A record as bytes: inputs that cannot be decoded, and dead letters."""

    lane: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes] = field(default_factory=dict)
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    dataset: str
    fields: tuple[tuple[str, str], ...]
    """(column or 'register.<column>', mask)."""
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    verdicts: tuple[str, ...] = ()
    share_verdict: bool = False


@dataclass(frozen=True, slots=True)
class Agreement:
    id: str
    agency: str
    grants: tuple[Grant, ...]
    valid_from_ms: int = 0
    valid_until_ms: int | None = None
    grant_hash: bytes = b"g" * 32


@dataclass(slots=True)
class History:
    """Everything one judgement needs. Topics by dataset or agreement name, records in offset order of each lane."""

    datasets: Mapping[str, Dataset]
    register: str
    agreements: list[Agreement]
    person_secret: bytes
    agreement_secret: bytes
    tables: dict[str, Table] = field(default_factory=dict)
    changes: dict[str, list[Event]] = field(default_factory=dict)
    undecodable: dict[str, list[Raw]] = field(default_factory=dict)
    """Dataset -> records of its change topic that are not change events."""
    verified: dict[str, list[Verified]] = field(default_factory=dict)
    dead: dict[str, list[Raw]] = field(default_factory=dict)
    deliveries: dict[str, list[Delivery]] = field(default_factory=dict)
    audit: list[dict[str, Any]] = field(default_factory=list)
    now_ms: int = 0
    """When the run was read, for validity windows."""
    staleness_ms: int | None = None
    """How much newer than the version used a register record may be when an event arrives; None: not judged."""

    def domains(self) -> dict[str, list[Table]]:
        found: dict[str, list[Table]] = {}
        for table in self.tables.values():
            found.setdefault(table.dataset.domain, []).append(table)
        return found
