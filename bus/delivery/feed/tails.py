"""Waking those who wait for a new delivery: one look at the ends of all topics that somebody waits for, ten times a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.delivery.deliveries import Unreadable
from bus.delivery.feed.records import Records

LOOK_SECONDS = 0.1
_AGAIN_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class _Waiter:
    topic: str
    come: Mapping[int, int]
    """Lane -> next offset."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Tails:
    """Of one event loop. Who waits costs an entry here, and no thread."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._waiters: set[_Waiter] = set()

    async def wait(self, topic: str, come: Mapping[int, int], seconds: float) -> bool:
        """Until there may be more than this in the topic or somebody says `wake`; False when the time was over before."""
        waiter = _Waiter(topic, come)
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await waiter.woken.wait()
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    def wake(self) -> None:
        """Everybody: something other than a delivery is new."""
        for waiter in self._waiters:
            waiter.woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        pause = LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = LOOK_SECONDS if await self._look() else _AGAIN_SECONDS

    async def _look(self) -> bool:
        """Whether all topics could be looked at."""
        places = {(one.topic, lane) for one in self._waiters for lane in one.come}
        if not places:
            return True
        try:
            self._tell(await self._records.ends(places))
        except Unreadable:
            for topic in {topic for topic, _ in places}:  # one that cannot be read is no reason to let the others wait
                with contextlib.suppress(Unreadable):
                    self._tell(await self._records.ends([place for place in places if place[0] == topic]))
            return False
        return True

    def _tell(self, ends: Mapping[tuple[str, int], int]) -> None:
        for one in self._waiters:
            if any(ends.get((one.topic, lane), 0) > at for lane, at in one.come.items()):
                one.woken.set()
