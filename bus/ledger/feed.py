"""What a subscriber can tell from its own topic alone: whether a record was lost, repeated or moved.

Pure: records in, findings out. Of a delivery only what stands before the data is read (event id, `seq`, agreement), so no
schema is needed and no person's data is looked at. What stands at the very end of a lane and was lost leaves no trace there:
the next delivery's `seq` will tell.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from bus.avro import varint
from bus.avro.frame import HEADER_BYTES, Malformed

MOST_RECORDS = 20_000_000
"""Records one check takes: their event ids are kept, `_KEPT_BYTES` each."""
MOST_RANGES = 10_000
"""Ranges of missing numbers kept in one lane; of what comes late beyond them it is not known that it was missing."""
MOST_TOLD = 20
"""Findings of one kind told of a lane; all are counted."""
_ID_BYTES, _LANE_BYTES, _OFFSET_BYTES = 16, 2, 6
_KEPT_BYTES = _ID_BYTES + _LANE_BYTES + _OFFSET_BYTES


class FeedError(ValueError):
    """A feed cannot be checked; the message says why and what to do."""


@dataclass(slots=True)
class Findings:
    """One kind: how many, and the first of them."""

    count: int = 0
    first: list[list[int]] = field(default_factory=list)

    def add(self, *what: int) -> None:
        self.count += 1
        if len(self.first) < MOST_TOLD:
            self.first.append(list(what))


@dataclass(slots=True)
class Lane:
    """One lane. `due`: the number that the next record must bear; None: any, for what stood before was deleted by retention."""

    due: int | None
    records: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    late: Findings = field(default_factory=Findings)
    """[offset, seq] of numbers that come behind a greater one, where they had been missing."""
    repeated: Findings = field(default_factory=Findings)
    """[offset, seq] of numbers given before."""
    repeated_events: Findings = field(default_factory=Findings)
    """[offset, lane and offset of the first] of events delivered before."""
    foreign: Findings = field(default_factory=Findings)
    """[offset] of deliveries under another agreement, or that cannot be read."""
    _missing: list[list[int]] = field(default_factory=list)
    """[first, last], in order."""

    def take(self, offset: int, seq: int) -> None:
        self.records += 1
        if self.first_seq is None:
            self.first_seq = seq
        if self.due is None or seq >= self.due:
            if self.due is not None and seq > self.due and len(self._missing) < MOST_RANGES:
                self._missing.append([self.due, seq - 1])
            self.due, self.last_seq = seq + 1, seq
        elif self._fill(seq) or seq < self.first_seq:
            self.late.add(offset, seq)
        else:
            self.repeated.add(offset, seq)

    def _fill(self, seq: int) -> bool:
        """Whether the number was missing; it no longer is."""
        place = bisect_right(self._missing, seq, key=itemgetter(0)) - 1
        if place < 0 or seq > self._missing[place][1]:
            return False
        first, last = self._missing[place]
        self._missing[place : place + 1] = [r for r in ([first, seq - 1], [seq + 1, last]) if r[0] <= r[1]]
        return True

    def missing(self) -> int:
        return sum(last - first + 1 for first, last in self._missing)

    def clean(self) -> bool:
        return not (self._missing or self.late.count or self.repeated.count or self.repeated_events.count or self.foreign.count)

    def told(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "records": self.records,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "missing": self.missing(),
            "missing_ranges": self._missing[:MOST_TOLD],
            "late": self.late.count,
            "late_at": _places(self.late, "offset", "seq"),
            "repeated": self.repeated.count,
            "repeated_at": _places(self.repeated, "offset", "seq"),
            "repeated_events": self.repeated_events.count,
            "repeated_events_at": _places(self.repeated_events, "offset", "first_lane", "first_offset"),
            "foreign": self.foreign.count,
            "foreign_at": _places(self.foreign, "offset"),
        }


def _places(found: Findings, *names: str) -> list[dict[str, int]]:
    return [dict(zip(names, one, strict=True)) for one in found.first]


class Feed:
    """The check of one topic. `begins`: lane -> offset of the first record that is read; nothing was deleted before offset 0."""

    def __init__(self, agreement: str, begins: Mapping[int, int]) -> None:
        self._name = varint.encode_text(agreement)
        self.lanes = {lane: Lane(1 if begin == 0 else None) for lane, begin in sorted(begins.items())}
        self._ids = [bytearray() for _ in range(256)]
        """By the id's first byte: id, lane and offset of every record, one behind the other."""
        self.records = 0

    def add(self, lane: int, offset: int, value: bytes | None) -> None:
        """The next record of a lane, in order. Raises FeedError when there are too many."""
        if self.records == MOST_RECORDS:
            raise FeedError(f"more than {MOST_RECORDS:,} records: begin later, with --since")
        self.records += 1
        found = self.lanes[lane]
        head = _head(value, self._name)
        if head is None:
            found.records += 1
            found.foreign.add(offset)
            return
        event_id, seq = head
        found.take(offset, seq)
        where = lane.to_bytes(_LANE_BYTES, "big") + offset.to_bytes(_OFFSET_BYTES, "big")
        self._ids[event_id[0]] += event_id + where

    def finish(self) -> bool:
        """Looks for events that were delivered twice; whether all is well. To be called once, after the last record."""
        for bucket in self._ids:
            for lane, offset, first_lane, first_offset in _twice(bucket):
                self.lanes[lane].repeated_events.add(offset, first_lane, first_offset)
            bucket.clear()
        return all(lane.clean() for lane in self.lanes.values())


def _twice(bucket: bytearray) -> Iterator[tuple[int, int, int, int]]:
    """(lane, offset, lane and offset of the first) of each id that stands there again."""
    first: dict[bytes, bytes] = {}
    for at in range(0, len(bucket), _KEPT_BYTES):
        event_id, where = bytes(bucket[at : at + _ID_BYTES]), bytes(bucket[at + _ID_BYTES : at + _KEPT_BYTES])
        before = first.setdefault(event_id, where)
        if before is not where:
            yield (*_place(where), *_place(before))


def _place(where: bytes) -> tuple[int, int]:
    return int.from_bytes(where[:_LANE_BYTES], "big"), int.from_bytes(where[_LANE_BYTES:], "big")


def _head(value: bytes | None, name: bytes) -> tuple[bytes, int] | None:
    """Event id and `seq` of a framed delivery under the agreement; None when it is none."""
    if value is None or value[:1] != b"\0":
        return None
    try:
        seq, end = varint.decode(value, HEADER_BYTES + _ID_BYTES)
    except (IndexError, Malformed):
        return None
    if seq < 1 or value[end : end + len(name)] != name:
        return None
    return value[HEADER_BYTES : HEADER_BYTES + _ID_BYTES], seq
