"""Faust's Kafka transport, with a worker consumer that sees committed records only and can begin at a moment.

Faust reads uncommitted records unless `processing_guarantee` is exactly_once, so a processor would count output of the
engine's aborted transactions. Its exactly_once loses and repeats records; we take at-least-once and idempotent effects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

import aiokafka
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, Message
from faust.types.transports import ConsumerCallback, TransportT
from faust.types.tuples import ack_lock

from bus.processors.delivered import Delivered

_LOOKUP_SECONDS = 30.0
_FETCH_MIN_BYTES = 262_144
"""So much, or half a second: windows of a minute need no answer to every transaction, and each answer costs the broker."""


class CommittedThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        if not hasattr(consumer, "_isolation_level"):
            raise RuntimeError("this aiokafka keeps its isolation level elsewhere: processors would read aborted records")
        consumer._isolation_level = "read_committed"  # taken over by the fetcher when the consumer starts
        consumer._fetch_min_bytes = _FETCH_MIN_BYTES
        return consumer

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Called by Faust after each assignment: where reading begins, per partition."""
        start_at = cast(CommittedTransport, self.transport).start_at
        if start_at is None:
            return await super().seek_to_committed()
        found: Mapping[TP, int] = await self.call_thread(self._seek_to_time, int(start_at() * 1000))
        return found

    async def _seek_to_time(self, begin_ms: int) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        if not assigned:
            return {}
        async with asyncio.timeout(_LOOKUP_SECONDS):
            at = await consumer.offsets_for_times(dict.fromkeys(assigned, begin_ms))
            ends = await consumer.end_offsets(assigned)
        offsets = {tp: at[tp].offset if at.get(tp) else ends[tp] for tp in assigned}
        for tp, offset in offsets.items():
            consumer.seek(tp, offset)
        return offsets


class CommittedConsumer(driver.Consumer):
    """Faust's consumer takes a hole in the offsets for a record that is still being worked on unless it noticed the hole,
    and it does not notice one behind offset 0: in transactional topics it may never commit again. And it keeps every hole
    it noticed. This one commits by what was delivered."""

    def __init__(self, transport: TransportT, callback: ConsumerCallback, *args: Any, **options: Any) -> None:
        self._delivered = Delivered()

        async def deliver(message: Message) -> None:
            self._delivered.add(message.tp, message.offset)
            await callback(message)

        super().__init__(transport, deliver, *args, **options)

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return CommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        self._delivered.clear()
        await super().perform_seek()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Holes do not matter here."""

    def _new_offset(self, tp: TP) -> int | None:
        with ack_lock:
            settled = self._delivered.settle(tp, self._acked_index[tp])
            if not settled:
                return None
            self._acked_index[tp].difference_update(settled)
            self._acked[tp] = sorted(self._acked_index[tp])
        return settled[-1] + 1


class CommittedTransport(driver.Transport):
    """`start_at`: a clock that says from which Unix time (seconds) a newly assigned partition is read; None: from the
    group's committed offset."""

    Consumer = CommittedConsumer

    def __init__(self, app: AppT, start_at: Callable[[], float] | None = None, **options: Any) -> None:
        super().__init__(app.conf.broker_consumer, app, **options)
        self.start_at = start_at
