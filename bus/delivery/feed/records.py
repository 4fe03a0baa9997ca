"""Reading agencies' topics from explicit offsets: a bounded number of consumers, each in a thread of its own, in no group.

A consumer is lent for one read and reads nothing between two of them; who waits for a new delivery holds none.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus.delivery.deliveries import Unreadable
from bus.engine import client, lanes

READ_SECONDS = 5.0
"""Longest one read may take; what came by then is the answer."""
MOST_READ_BYTES = 8_388_608
"""Of values in one read; the record that goes beyond it is still read."""
_POLL_SECONDS = 0.05
_CHUNK = 500
_GROUP = "feed-unused"
_NOT_YET = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)
"""As right after an agreement was applied, until every broker knows the topic and the right to it."""
_SETTINGS = {
    "group.id": _GROUP,
    "error_cb": client.ignore,
    "fetch.wait.max.ms": 10,
    "queued.min.messages": 1_000,
    "queued.max.messages.kbytes": 16_384,
    "fetch.message.max.bytes": 262_144,
}

Made = TypeVar("Made")
Item = tuple[int, bytes, bytes]
"""(offset, key, value)."""


class Moved(Exception):
    """Records were deleted between the look and the read: look again."""


@dataclass(slots=True)
class Batch:
    """`items`: by lane, in order, nothing left out; `ends`: lanes read to their present end, and the offset of that."""

    items: dict[int, list[Item]] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    count: int = 0
    size: int = 0


Bounds = Mapping[int, tuple[int, int]]
"""Lane -> (offset of the first record that is there, offset after the last committed one)."""


class Records:
    """`readers`: how many reads at a time. To be used from one event loop."""

    def __init__(self, config: Mapping[str, Any], readers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = dict(config), clock
        self._pool = ThreadPoolExecutor(readers, "feed-reader")
        self._looks = ThreadPoolExecutor(2, "feed-look")
        self._own = threading.local()
        self._consumers: list[Consumer] = []
        self._admin = AdminClient(self._config | {"logger": client.QUIET, "error_cb": client.ignore})

    async def bounds(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """Where each (topic, lane) begins and ends. Raises Unreadable."""
        return await asyncio.get_running_loop().run_in_executor(self._looks, self._bounds, places)

    async def ends(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Raises Unreadable."""
        return await asyncio.get_running_loop().run_in_executor(self._looks, self._ends, places)

    async def read(self, topic: str, starts: Mapping[int, int], most: int, first: int | None = None) -> Batch:
        """About `most` records, more or fewer, of these lanes from these offsets; of `first` one at least, if there is one.

        Raises Unreadable, Moved.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, topic, starts, most, first)

    async def work(self, work: Callable[..., Made], *args: Any) -> Made:
        """In one of the readers' threads: what takes longer than the loop may be held up."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def close(self) -> None:
        for pool in (self._pool, self._looks):
            pool.shutdown(wait=True, cancel_futures=True)
        for consumer in self._consumers:
            consumer.close()

    def _bounds(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        try:
            lows = lanes.offsets(self._admin, places, earliest)
        except KafkaException as error:
            raise Unreadable(client.text(error)) from None
        return {place: (lows[place], end) for place, end in self._ends(places).items()}

    def _ends(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        try:
            return lanes.offsets(self._admin, places, latest, IsolationLevel.READ_COMMITTED)
        except KafkaException as error:
            raise Unreadable(client.text(error)) from None

    def _read(self, topic: str, starts: Mapping[int, int], most: int, first: int | None) -> Batch:
        consumer = self._consumer()
        found = Batch()
        deadline = self._clock() + READ_SECONDS
        try:
            consumer.assign([TopicPartition(topic, lane, at) for lane, at in starts.items()])
            while not _done(found, starts, most, first) and self._clock() < deadline:
                first_one = consumer.poll(_POLL_SECONDS)
                if first_one is not None:  # `consume` with a time would wait for all of it
                    for message in [first_one, *consumer.consume(min(most, _CHUNK), 0)]:
                        _take(found, message)
        except KafkaException as error:
            raise Unreadable(client.text(error)) from None
        finally:
            consumer.unassign()
        if not found.count and not found.ends and starts:
            raise Unreadable(f"nothing came from Kafka in {READ_SECONDS:g} s")
        return found

    def _consumer(self) -> Consumer:
        """This thread's."""
        found: Consumer | None = getattr(self._own, "consumer", None)
        if found is None:
            found = self._own.consumer = Consumer(self._config | client.READER | _SETTINGS)
            self._consumers.append(found)
        return found


def _done(found: Batch, starts: Mapping[int, int], most: int, first: int | None) -> bool:
    if len(found.ends) == len(starts):
        return True
    served = first is None or first in found.items or first in found.ends
    return served and (found.count >= most or found.size >= MOST_READ_BYTES)


def _take(found: Batch, message: Any) -> None:
    error, lane = message.error(), message.partition()
    if error is None:
        value: bytes = message.value() or b""
        found.items.setdefault(lane, []).append((message.offset(), message.key() or b"", value))
        found.count += 1
        found.size += len(value)
        found.ends.pop(lane, None)
    elif error.code() == KafkaError._PARTITION_EOF:
        found.ends[lane] = message.offset()
    elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise Moved
    elif error.code() in _NOT_YET:
        raise Unreadable(f"{error.name()}: the topic or the right to read it is not there yet")
    elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED and error.code() not in client.PASSING:
        raise KafkaException(error)
