"""The present state of what an agency was given: of each row the last delivery, unless that says that the row is gone.

It is made of what the agency's topic holds. Which deliveries are the last ones is found out by reading a lane once, up to where
the snapshot ends; what is kept of that are offsets, and nothing that a reader's cursor depends on: it can be found out again.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from bus.delivery.feed.page import Last
from bus.delivery.feed.records import Batch, Records

MOST_ROWS = 500_000
"""Of one lane."""
MOST_KEPT = 4_000_000
"""Offsets, over all lanes and agreements."""
_READ = 5_000

RowOf = Callable[[bytes, bytes], bytes]
"""(key, value) -> what stands for the row. Raises Unreadable."""


class TooLarge(Exception):
    """A lane has more rows than a snapshot may have."""


class Snapshots:
    """One is found out at a time."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._found: OrderedDict[tuple[str, int, int], array[int]] = OrderedDict()
        self._turn = asyncio.Lock()

    async def last(self, topic: str, lane: int, low: int, until: int, row_of: RowOf) -> Last:
        """Which deliveries of [low, until) are their rows' last ones. Raises TooLarge, Unreadable, Moved."""
        name = topic, lane, until
        async with self._turn:
            if name not in self._found:
                self._found[name] = await self._find(topic, lane, low, until, row_of)
                self._forget()
            self._found.move_to_end(name)
            offsets = self._found[name]
        return lambda _, offset: _holds(offsets, offset)

    async def _find(self, topic: str, lane: int, low: int, until: int, row_of: RowOf) -> array[int]:
        newest: dict[bytes, int] = {}
        at = low
        while at < until:
            batch = await self._records.read(topic, {lane: at}, _READ)
            at = await self._records.work(_note, newest, batch, lane, at, until, row_of)
        return await self._records.work(_sorted, newest)

    def _forget(self) -> None:
        while len(self._found) > 1 and sum(map(len, self._found.values())) > MOST_KEPT:
            self._found.popitem(last=False)


def _note(newest: dict[bytes, int], batch: Batch, lane: int, at: int, until: int, row_of: RowOf) -> int:
    """Where to read on."""
    for offset, key, value in batch.items.get(lane, ()):
        if offset >= until:
            return until
        newest[row_of(key, value)] = offset
        at = offset + 1
        if len(newest) > MOST_ROWS:
            raise TooLarge
    return max(at, batch.ends.get(lane, at))


def _sorted(newest: Mapping[bytes, int]) -> Any:
    return array("q", sorted(newest.values()))


def _holds(offsets: array[int], offset: int) -> bool:
    at = bisect_left(offsets, offset)
    return at < len(offsets) and offsets[at] == offset
