"""The transactional producer of one worker, and what its errors mean.

After an error three things can be the case, and they are kept apart by exception (bus.engine.client): the transaction must be
aborted and can be (`Abort`), nobody can tell what became of it or the producer is unusable (`Indefinite`: throw it away, make a
new one, read again where things stand), or a human is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from bus.core import failpoint
from bus.core.failpoint import Point
from bus.engine.client import Abort, Calls, Indefinite, Stop, Stopped
from bus.engine.exchange import Exchange
from bus.engine.membership import Membership
from bus.engine.outbox import Outbox, Place, Sealed

CALL_SECONDS = 30.0
"""Longest time for one step of the protocol, broker restarts included."""
_SLICE_SECONDS = 0.5
"""A step is waited for in slices, so that a stop is noticed in between."""
PENDING_BYTES = 16_777_216
"""What may be on its way, compressed; one batch can come on top."""
T = TypeVar("T")


class Transactions:
    """One producer and its transactions. `open` says whether one is begun.

    No transaction begins before every request of the one before is answered: one that was lost under way and arrives later would
    end the next transaction as well, half done (KAFKA-17754), for up to EndTxn's version 4 nothing tells them apart but the
    producer's epoch. So an unanswered request costs the producer, and an abort is a new epoch.

    The event loop is this object's own and runs only within its calls: nothing happens between them.
    """

    def __init__(
        self, config: Mapping[str, Any], transactional_id: str, stop: Stop, calls: Calls, clock_ms: Callable[[], int]
    ) -> None:
        """`config`: of bus.access.aiokafka. Raises HumanNeeded, Indefinite (try again) or Stopped. Fences earlier producers and
        ends what they left open."""
        self._stop, self._calls, self._clock_ms = stop, calls, clock_ms
        self.open = False
        self._loop = asyncio.new_event_loop()
        self._exchange = self._run(_made(config, transactional_id))
        failpoint.hit(Point.BEFORE_PRODUCER)
        try:
            self._run(self._exchange.open())
        except Abort as error:
            self.discard()
            raise Indefinite(str(error)) from error
        except BaseException:
            self.discard()
            raise
        self._outbox = self._new_outbox()
        failpoint.hit(Point.AFTER_PRODUCER)

    def begin(self) -> None:
        """Raises Indefinite when this producer is no longer of use, or in a transaction already."""
        if self._loop.is_closed() or self.open:
            raise Indefinite("the transaction before is still open" if self.open else "this producer was thrown away")
        self._run(self._exchange.begin())
        self.open = True

    @property
    def produce(self) -> Callable[..., None]:
        """produce(topic, value, key, lane[, headers]) within the open transaction: bound once, for it is called for each output.

        Raises Abort or Indefinite, of this or of an earlier record; Stopped.
        """
        return self._outbox.produce

    def commit(self, offsets: Mapping[Place, int], metadata: bytes) -> None:
        """All or nothing, with the input offsets of this member (`consumer_group_metadata`). After Abort nothing was committed;
        after Indefinite nobody knows."""
        member = Membership.of(metadata)
        if member.generation < 0:
            raise Abort("this consumer is no member of its group")  # brokers take such offsets from anybody
        self.flush(member.group)
        failpoint.hit(Point.BEFORE_OFFSETS)
        self._run(self._exchange.commit_offsets(offsets, member))
        failpoint.hit(Point.AFTER_OFFSETS)
        self.end()
        failpoint.hit(Point.AFTER_COMMIT)

    def flush(self, group: str) -> None:
        """What was produced is with the brokers, and this group's offsets may be committed with it. Raises as `commit`."""

        async def sent() -> None:
            for batch in self._outbox.seal():
                self._exchange.put(batch)
                await self._exchange.has_room(PENDING_BYTES)
            await self._exchange.flush(group)

        self._run(sent())

    def end(self) -> None:
        """Commit. Raises Indefinite: a refused commit may have been one."""
        try:
            self._run(self._exchange.end(commit=True))
        except Abort as error:
            raise Indefinite(str(error)) from error
        self.open = False

    def abort(self) -> None:
        """Raises Indefinite when even that fails."""
        if not self.open:
            return
        failpoint.hit(Point.BEFORE_ABORT)
        try:
            self._run(self._exchange.renew())
        except Abort as error:
            raise Indefinite(str(error)) from error
        self._outbox = self._new_outbox()
        failpoint.hit(Point.AFTER_ABORT)
        self.open = False

    def discard(self) -> None:
        """Drop the producer with all that it still holds; the broker aborts its transaction when the next one begins."""
        self.open = False
        if self._loop.is_closed():
            return
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._exchange.close())
        if left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left, timeout=_SLICE_SECONDS))
        self._loop.close()

    def _new_outbox(self) -> Outbox:
        return Outbox(*self._exchange.producer, self._clock_ms, self._full)

    def _full(self, batch: Sealed) -> None:
        """Off with it, and a look at what came back; waits where too much is on its way."""

        async def sent() -> None:
            self._exchange.put(batch)
            await asyncio.sleep(0)
            await self._exchange.has_room(PENDING_BYTES)

        self._run(sent())
        if self._exchange.failed is not None:
            raise self._exchange.failed

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises what it raises; Indefinite when it takes too long, Stopped when it takes long and the process is to end."""
        task = self._loop.create_task(work)
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            with self._calls:
                self._loop.run_until_complete(asyncio.wait({task}, timeout=_SLICE_SECONDS))
            if task.done():
                return task.result()
            if self._stop.asked or time.monotonic() > deadline:
                task.cancel()
                raise Stopped if self._stop.asked else Indefinite(f"no answer within {CALL_SECONDS:.0f} s")


async def _made(config: Mapping[str, Any], transactional_id: str) -> Exchange:
    return Exchange(config, transactional_id)
