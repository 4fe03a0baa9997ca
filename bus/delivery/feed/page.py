"""One answer of the feed, made of what was read: events in order, and after each the cursor with which to go on.

Pure. The numbers (`seq`) of a lane are without gaps; where the next one is not there, it was deleted, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bus.core.outcome import Op
from bus.delivery import cloudevents
from bus.delivery.feed.cursor import ANY, LIVE, Cursor, Place
from bus.delivery.feed.records import Batch, Bounds

MOST_BYTES = 4_194_304
"""Of the events in one answer, as JSON; the event that goes beyond it is still in it."""

Told = tuple[Mapping[str, Any], str, bytes]
"""A decoded delivery as its reader may see it, its dataset, and the key as its reader may see that."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Deliveries of a lane that are not there any more. `last` None: nobody knows how many."""

    lane: int
    first: int
    last: int | None

    def told(self) -> dict[str, Any]:
        return {"lane": self.lane, "first_seq": self.first, "last_seq": self.last}


class Gone(Exception):
    """What the cursor asks for next was deleted."""

    def __init__(self, lost: list[Lost]) -> None:
        super().__init__("deleted")
        self.lost = lost


@dataclass(slots=True)
class Page:
    """`events`: JSON and the cursor after it; `next`: where to go on, at or after the last of these; `lost`: before the first."""

    events: list[tuple[str, Cursor]]
    next: Cursor
    lost: list[Lost]


Last = Callable[[int, int], bool]
"""(lane, offset) -> whether no later delivery of the same row is in the snapshot."""


def starts(cursor: Cursor, bounds: Bounds) -> dict[int, int]:
    """Lane -> offset at which to read, of those that may have something."""
    return {
        lane: max(place.offset, bounds[lane][0])
        for lane, place in cursor.places.items()
        if max(place.offset, bounds[lane][0]) < bounds[lane][1]
    }


def overtaken(cursor: Cursor, bounds: Bounds) -> list[int]:
    """Lanes whose place is before the first record that is there: only the record that is first now says what is missing."""
    return [lane for lane, place in cursor.places.items() if place.seq != ANY and place.offset < bounds[lane][0]]


def missing(place: Place, lane: int, seq: int) -> Lost | None:
    """What lies between the last number told and this one."""
    before = 0 if place.seq == ANY else place.seq
    if seq == before + 1:
        return None
    return Lost(lane, before + 1, seq - 1 if seq > before else None)


def make(
    cursor: Cursor,
    batch: Batch,
    bounds: Bounds,
    decode: Callable[[bytes, bytes, int], Told],
    most: int,
    last: Last | None = None,
    most_bytes: int = MOST_BYTES,
) -> Page:
    """At most `most` events. `last`: for a cursor in its snapshot. Raises Gone where a lane does not go on with the next one."""
    page = Page([], cursor, [])
    size = 0
    for lane, (offset, key, value) in _turns(batch, cursor):
        if len(page.events) >= most or size >= most_bytes:
            return page
        place = page.next.places[lane]
        if place.until != LIVE and offset >= place.until:
            place = replace(place, until=LIVE)
        delivery, dataset, seen_key = decode(value, key, lane)
        gap = missing(place, lane, delivery["seq"])
        if gap and place.seq != ANY:
            raise Gone([gap])
        if gap:
            page.lost.append(gap)
        event = _event(delivery, dataset, seen_key, lane, place, offset, last)
        page.next = replace(page.next.at(lane, place.read(offset, delivery["seq"])), turn=lane + 1)
        if event is not None:
            page.events.append((event, page.next))
            size += len(event)
    for lane, end in batch.ends.items():
        page.next = page.next.at(lane, _ended(page.next.places[lane], end, bounds[lane][0]))
    return page


def _turns(batch: Batch, cursor: Cursor) -> Iterator[tuple[int, tuple[int, bytes, bytes]]]:
    """One record of each lane after the other, beginning with the lane whose turn it is."""
    order = sorted(batch.items, key=lambda lane: (lane < cursor.turn, lane))
    queues = {lane: iter(batch.items[lane]) for lane in order}
    while queues:
        for lane in list(queues):
            item = next(queues[lane], None)
            if item is None:
                del queues[lane]
            else:
                yield lane, item


def _event(
    delivery: Mapping[str, Any], dataset: str, key: bytes, lane: int, place: Place, offset: int, last: Last | None
) -> str | None:
    if place.until == LIVE or last is None:
        return text(cloudevents.event(delivery, dataset, key, lane))
    if delivery["op"] in (Op.DELETE.value, Op.WITHDRAWN.value) or not last(lane, offset):
        return None
    made = cloudevents.event({**delivery, "op": Op.READ.value}, dataset, key, lane)
    return text({**made, "id": f"{made['id']}-snapshot", "snapshot": True})


def _ended(place: Place, end: int, low: int) -> Place:
    """Read to the end: with nothing deleted and nothing there, the first number will be 1."""
    seq = 0 if place.seq == ANY and low == 0 else place.seq
    until = LIVE if place.until != LIVE and end >= place.until else place.until
    return Place(max(place.offset, end), seq, until)


def settle(cursor: Cursor, bounds: Bounds) -> Cursor:
    """Lanes without anything to read are at their ends, and past their snapshots."""
    return Cursor({lane: _settled(place, *bounds[lane]) for lane, place in cursor.places.items()}, cursor.turn)


def _settled(place: Place, low: int, end: int) -> Place:
    at = max(place.offset, low)
    if at >= end:
        return _ended(place, end, low)
    return replace(place, until=LIVE) if place.until != LIVE and at >= place.until else place


def more(cursor: Cursor, bounds: Bounds) -> bool:
    """Whether there was more to read when the bounds were looked at. Ends of transactions count like records."""
    return any(place.offset < bounds[lane][1] for lane, place in cursor.places.items())


def text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
