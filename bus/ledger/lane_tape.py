"""One lane of many topics, read side by side: whoever asks gets the next entry of the topic asked for, in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bus.ledger.entries import Distil, Entry
from bus.ledger.reading import ReadTimeout

STALL_SECONDS = 60.0
"""A topic that gives neither a record nor its end for so long is a fault."""
_BATCH_RECORDS = 2_000
_POLL_SECONDS = 0.2
_MOST, _FEW = 4_000, 1_000
"""Entries of one topic that are kept ready; above the first it is paused, below the second it goes on."""


class TapeError(RuntimeError):
    """A lane cannot be read; the message says which record, why, and what to do."""


def consumer_config(connection: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Committed records, by assignment; `group` is not joined."""
    return {
        **connection,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": 16_384,
        "fetch.wait.max.ms": 50,
        "log_level": 0,
    }


class LaneTape:
    """`patience_seconds`: how long, all together, an end is doubted where more ought to stand: the markers of one transaction
    reach the partitions one after another. clock: monotonic seconds."""

    def __init__(
        self,
        consumer: Consumer,
        lane: int,
        distil: Callable[[str], Distil],
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consumer, self.lane, self._make, self._clock = consumer, lane, distil, clock
        self._patience = patience_seconds
        self._distil: dict[str, Distil] = {}
        self._ready: dict[str, deque[Entry]] = {}
        self._come: dict[str, int] = {}
        self._ended = set[str]()
        self._paused = set[str]()
        self.records = 0

    def open(self, starts: Mapping[str, int]) -> None:
        """Read these topics too, from these offsets on."""
        for topic in starts:
            self._distil[topic], self._ready[topic], self._come[topic] = self._make(topic), deque(), starts[topic]
        self._consumer.incremental_assign([TopicPartition(topic, self.lane, at) for topic, at in starts.items()])

    def is_open(self, topic: str) -> bool:
        return topic in self._ready

    def position(self, topic: str) -> int:
        """The offset at which the next entry stands, or may come to stand."""
        ready = self._ready[topic]
        return int(ready[0].offset) if ready else self._come[topic]

    def close(self) -> None:
        self._consumer.incremental_unassign([TopicPartition(topic, self.lane) for topic in self._ready])

    def back(self, topic: str, entries: Iterable[Entry]) -> None:
        """What was looked at and is to come again, in its order."""
        self._ready[topic].extendleft(reversed(list(entries)))

    def next(self, topic: str, doubt: bool = False) -> Entry | None:
        """None at the topic's present end; with `doubt` only after waiting for more. Raises TapeError, ReadTimeout."""
        ready = self._ready[topic]
        if topic in self._paused and len(ready) < _FEW:
            self._paused.discard(topic)
            self._consumer.resume([TopicPartition(topic, self.lane)])
        if not ready:
            self._read(topic, doubt)
        return ready.popleft() if ready else None

    def _read(self, topic: str, doubt: bool) -> None:
        ready, began = self._ready[topic], self._clock()
        while not ready:
            if topic in self._ended:
                if not doubt or self._patience <= 0:
                    return
                asked = self._clock()
                self._fetch()
                self._patience -= self._clock() - asked
                continue
            if not self._fetch() and self._clock() - began > STALL_SECONDS:
                raise ReadTimeout(f"{topic!r} lane {self.lane}: nothing came for {STALL_SECONDS:.0f} s: is the broker up?")

    def _fetch(self) -> bool:
        """Whether anything came."""
        messages: list[Any] = self._consumer.consume(_BATCH_RECORDS, _POLL_SECONDS)
        for message in messages:
            topic, error = message.topic(), message.error()
            if message.partition() not in (self.lane, None) and (error is None or error.code() == KafkaError._PARTITION_EOF):
                continue  # of the lane before
            if error is None:
                self._take(topic, message)
            elif error is not None and error.code() == KafkaError._PARTITION_EOF:
                self._ended.add(topic)
            elif error is not None and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise KafkaException(error)
        return bool(messages)

    def _take(self, topic: str, message: Any) -> None:
        self._ended.discard(topic)
        self.records += 1
        self._come[topic] = message.offset() + 1
        try:
            self._ready[topic].append(self._distil[topic](message))
        except (ValueError, TypeError, RecursionError) as error:
            place = f"{topic!r} lane {self.lane} offset {message.offset()}"
            raise TapeError(f"{place} is not what belongs there ({type(error).__name__}): who wrote it?") from None
        if len(self._ready[topic]) >= _MOST and topic not in self._paused:
            self._paused.add(topic)
            self._consumer.pause([TopicPartition(topic, self.lane)])
