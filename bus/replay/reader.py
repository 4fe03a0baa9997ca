"""Reads an extent by assignment: no group, committed records only, and every lane ends where the extent says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from bus.replay.extent import Extent, ReplayError

STALL_SECONDS = 60.0
"""Lanes that give nothing for so long before their end are a fault."""
_BATCH_RECORDS = 1_000
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError.GROUP_AUTHORIZATION_FAILED)
"""Errors that pass, or concern a group, which a replay has not; what stays wrong is a stall."""


def consumer_config(connection: Mapping[str, Any]) -> dict[str, Any]:
    """librdkafka wants the name of a group even where none is joined."""
    return {
        **connection,
        "group.id": "developer-replay",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": 16_384,
        "fetch.wait.max.ms": 100,
    }


class Reader:
    """`open`: the lanes that have not come to their end, with the offset they end before. clock: monotonic seconds."""

    def __init__(self, consumer: Consumer, extent: Extent, clock: Callable[[], float]) -> None:
        self._consumer, self._topic, self._clock, self._extent = consumer, extent.topic, clock, extent
        self.open = {lane: end for lane, (_, end) in extent.ranges.items()}
        self._paused: set[int] = set()
        self._deadline = clock() + STALL_SECONDS
        consumer.assign([TopicPartition(extent.topic, lane, first) for lane, (first, _) in extent.ranges.items()])

    def poll(self, timeout_seconds: float) -> list[Message]:
        """The next records of the extent, at most 1000, in order within each lane. Raises ReplayError."""
        messages = self._consumer.consume(_BATCH_RECORDS, timeout_seconds)
        if messages or self._paused >= self.open.keys():
            self._deadline = self._clock() + STALL_SECONDS
        elif self._clock() > self._deadline:
            raise ReplayError(f"{self._topic}: nothing came for {STALL_SECONDS:.0f} s before the end: is the broker up?")
        before = set(self.open)
        accepted = [message for message in messages if self._accept(message)]
        if over := before - self.open.keys():
            self._consumer.pause([TopicPartition(self._topic, lane) for lane in over])
        return accepted

    def hold(self, full: Iterable[int], starved: Iterable[int]) -> None:
        """Stop fetching lanes of which enough is waiting, go on with those that run dry."""
        stop = set(full) & self.open.keys() - self._paused
        go = set(starved) & self._paused
        if stop:
            self._consumer.pause([TopicPartition(self._topic, lane) for lane in stop])
        if go:
            self._consumer.resume([TopicPartition(self._topic, lane) for lane in go])
        self._paused = (self._paused | stop) - go

    def _accept(self, message: Message) -> bool:
        lane, error = message.partition(), message.error()
        if error is not None:
            self._judge(error)
            if error.code() == KafkaError._PARTITION_EOF and lane is not None:
                self.open.pop(lane, None)
            return False
        end = self.open.get(lane or 0)
        offset, at_ms = message.offset() or 0, message.timestamp()[1]
        if end is None:
            return False
        if offset + 1 >= end or self._extent.is_past(at_ms):
            del self.open[lane or 0]
        return offset < end and self._extent.covers(at_ms)

    def _judge(self, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF or error.code() in _PASSING:
            return
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise ReplayError(f"{self._topic}: retention has deleted records of the range meanwhile: begin later")
        raise ReplayError(f"cannot read {self._topic}: {error.str()}")
