"""What must come out, worked out event by event in plain Python: no code of either engine, no bytes, no schema.

Expected and actual outputs are compared as multisets of (key, comparable values): for each topic the number, the number by
status, and a sum of hashes that does not depend on the order.

Two rules of the bus differ from the peers' specification and are told by `Side.deletes_are_bare`: a delete reaches an agency
without data, and whatever its verdict (the agency may hold the row); a verdict it does not ask for is not told.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.bench.workload import IDENTITY, MATCHED, PIN, PROVINCE, Agreement, Event, Row, Workload
from bus.core.identity import lane_of

HASH_BYTES = 16
_MASK = (1 << 8 * HASH_BYTES) - 1
_PLACES = tuple([name for name, _ in IDENTITY].index(name) for name in MATCHED)
Values = tuple[Any, ...]
Output = tuple[str, bytes, str | None, Values]
"""(topic, key, status, comparable values)."""
Population = Mapping[str, tuple[int, Values]]
"""PIN -> (offset of the register's record in its lane, the row)."""


@dataclass(frozen=True, slots=True)
class Side:
    """How one engine names topics and keys. `pseudonym` gives (message key, field)."""

    verified: Callable[[str], str]
    agency: Callable[[Agreement], str]
    key: Callable[[str], bytes]
    pseudonym: Callable[[Agreement, str], tuple[bytes, str]]
    deletes_are_bare: bool


@dataclass(slots=True)
class Count:
    """What one topic holds."""

    records: int = 0
    status: Counter[str] = field(default_factory=Counter)
    hash: int = 0

    def add(self, key: bytes, status: str | None, values: Values) -> None:
        self.records += 1
        self.status[status or "-"] += 1
        digest = hashlib.blake2b(key + repr(values).encode(), digest_size=HASH_BYTES).digest()
        self.hash = self.hash + int.from_bytes(digest, "big") & _MASK

    def merge(self, other: Count) -> None:
        self.records += other.records
        self.status += other.status
        self.hash = self.hash + other.hash & _MASK

    def as_json(self) -> dict[str, Any]:
        return {"records": self.records, "status": dict(self.status), "hash": f"{self.hash:032x}"}

    @staticmethod
    def of_json(found: dict[str, Any]) -> Count:
        return Count(found["records"], Counter(found["status"]), int(found["hash"], 16))


Counts = dict[str, Count]
"""By topic."""


def tally(outputs: Iterable[Output]) -> Counts:
    found: Counts = {}
    for topic, key, status, values in outputs:
        found.setdefault(topic, Count()).add(key, status, values)
    return found


def merged(parts: Iterable[Counts]) -> Counts:
    found: Counts = {}
    for part in parts:
        for topic, count in part.items():
            found.setdefault(topic, Count()).merge(count)
    return found


def population(workload: Workload, key: Callable[[str], bytes], lanes: int) -> Population:
    """The register after all its records; the later one of a person counts."""
    offsets, found = [0] * lanes, dict[str, tuple[int, Values]]()
    for row, _ in workload.persons():
        lane = lane_of(key(row[PIN]), lanes)
        found[row[PIN]] = offsets[lane], tuple(row.values())
        offsets[lane] += 1
    return found


def outputs(workload: Workload, side: Side, people: Population, events: Iterable[Event]) -> Iterator[Output]:
    """Everything that must come out for these events."""
    subscribed = {d: [a for a in workload.agreements if d in a.domains] for d in workload.domains}
    for event in events:
        row = event.row
        status, mismatched, offset, person = verify(row, people)
        images = tuple(None if image is None else tuple(image.values()) for image in (event.before, event.after))
        verified = (event.op, event.ts_ms, *images, status, mismatched, offset, person)
        yield side.verified(event.domain), side.key(row[PIN]), status, verified
        for agreement in subscribed[event.domain]:
            if agreement.admits(province=row[PROVINCE]):
                yield from _delivery(side, agreement, event, status)


def verify(row: Row, people: Population) -> tuple[str, Values, int | None, Values | None]:
    """(status, fields that differ, the register's offset, its row)."""
    if row[PIN] not in people:
        return "NOT_FOUND", (), None, None
    offset, person = people[row[PIN]]
    differ = tuple(f for f, place in zip(MATCHED, _PLACES, strict=True) if _folded(row[f]) != _folded(person[place]))
    return "MISMATCH" if differ else "MATCH", differ, offset, person


def _folded(value: Any) -> Any:
    return value.strip().casefold() if isinstance(value, str) else value


def _delivery(side: Side, agreement: Agreement, event: Event, status: str) -> Iterator[Output]:
    """One record or none."""
    row, bare = event.row, side.deletes_are_bare and event.op == "d"
    asked = agreement.admits(status=status)
    if not asked and not bare:
        return
    shown: str | None = status if asked else None
    key, data = side.key(row[PIN]), [row[f] for f in agreement.fields]
    if agreement.pseudonymise:
        key, data[agreement.fields.index(PIN)] = side.pseudonym(agreement, row[PIN])
    yield side.agency(agreement), key, shown, (event.op, event.ts_ms, shown, None if bare else tuple(data))
