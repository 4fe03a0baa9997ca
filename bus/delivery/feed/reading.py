"""From a cursor to the next page: looks where the topic begins and ends, reads, and says what was deleted."""

from __future__ import annotations

from functools import partial

from bus.core import topics
from bus.delivery.deliveries import Deliveries, Unreadable
from bus.delivery.feed import page
from bus.delivery.feed.cursor import ANY, LIVE, Cursor, Place
from bus.delivery.feed.page import Gone, Last, Lost, Page
from bus.delivery.feed.records import Batch, Bounds, Moved, Records
from bus.delivery.feed.snapshots import Snapshots
from bus.delivery.served import Outlet

_TRIES = 3
_SNAPSHOT_READ = 2_000
"""Records that are read for one page of a snapshot: most are not the last of their row."""


class Reading:
    """`lanes`: how many every topic has."""

    def __init__(self, records: Records, deliveries: Deliveries, lanes: int) -> None:
        self._records, self._deliveries, self.lanes = records, deliveries, lanes
        self._snapshots = Snapshots(records)

    async def snapshot(self, feed: Outlet, lanes: list[int]) -> Cursor:
        """The beginning of the state as it is now. Raises Unreadable."""
        bounds = await self._bounds(feed, lanes)
        return page.settle(Cursor({lane: Place(0, ANY, until=bounds[lane][1]) for lane in lanes}), bounds)

    async def page(self, feed: Outlet, cursor: Cursor, most: int) -> tuple[Page, bool]:
        """At most `most` events, and whether there is more to read. Raises Gone, Unreadable, TooLarge."""
        for _ in range(_TRIES):
            try:
                return await self._page(feed, cursor, most)
            except Moved:
                continue
        raise Unreadable("records are deleted faster than they can be read")

    async def _page(self, feed: Outlet, cursor: Cursor, most: int) -> tuple[Page, bool]:
        bounds = await self._bounds(feed, list(cursor.places))
        if lost := await self._lost(feed, cursor, bounds):
            raise Gone(lost)
        cursor = page.settle(cursor, bounds)
        starts = page.starts(cursor, bounds)
        if not starts:
            return Page([], cursor, []), False
        if cursor.snapshot:
            made = await self._of_snapshot(feed, cursor, bounds, starts, most)
        else:
            first = min(starts, key=lambda lane: (lane < cursor.turn, lane))
            batch = await self._records.read(topics.agency(feed.agreement.id), starts, most, first)
            made = await self._make(feed, cursor, batch, bounds, most, None)
        return made, page.more(made.next, bounds)

    async def _of_snapshot(self, feed: Outlet, cursor: Cursor, bounds: Bounds, starts: dict[int, int], most: int) -> Page:
        """One lane at a time; a lane that is past its snapshot waits for the others."""
        topic = topics.agency(feed.agreement.id)
        lane = min(lane for lane, place in cursor.places.items() if place.until != LIVE and lane in starts)
        until = cursor.places[lane].until
        row_of = partial(_row, self._deliveries, feed)
        last = await self._snapshots.last(topic, lane, bounds[lane][0], until, row_of)
        batch = await self._records.read(topic, {lane: starts[lane]}, _SNAPSHOT_READ)
        items = batch.items.get(lane, [])
        whole = bool(batch.ends) or bool(items and items[-1][0] >= until)
        batch.items = {lane: [item for item in items if item[0] < until]}
        batch.ends = {lane: until} if whole else {}
        return await self._make(feed, cursor, batch, bounds, most, last)

    async def _make(self, feed: Outlet, cursor: Cursor, batch: Batch, bounds: Bounds, most: int, last: Last | None) -> Page:
        decode = partial(self._deliveries.told, feed)
        return await self._records.work(page.make, cursor, batch, bounds, decode, most, last)

    async def _lost(self, feed: Outlet, cursor: Cursor, bounds: Bounds) -> list[Lost]:
        found = []
        for lane in page.overtaken(cursor, bounds):
            place, (low, end) = cursor.places[lane], bounds[lane]
            batch = await self._records.read(topics.agency(feed.agreement.id), {lane: low}, 1) if low < end else Batch()
            if items := batch.items.get(lane):
                delivery, _, _ = await self._records.work(self._deliveries.decode, feed, items[0][2])
                lost = page.missing(place, lane, delivery["seq"])
            else:
                lost = Lost(lane, place.seq + 1, None)
            found += [lost] if lost else []
        return found

    async def _bounds(self, feed: Outlet, lanes: list[int]) -> dict[int, tuple[int, int]]:
        topic = topics.agency(feed.agreement.id)
        return {lane: at for (_, lane), at in (await self._records.bounds([(topic, lane) for lane in lanes])).items()}


def _row(deliveries: Deliveries, feed: Outlet, key: bytes, value: bytes) -> bytes:
    found, _, _ = deliveries.decode(feed, value)
    return key + bytes(found["row_key"])
