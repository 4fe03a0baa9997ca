"""Records as a reader of committed ones sees them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, TopicPartition

from bus.bench import product

PATIENCE_SECONDS = 120.0


class Tape:
    """All that a reader of committed records has seen of these topics. Moves forward only."""

    def __init__(self, config: dict[str, Any], watch: product.Watch, names: list[str]) -> None:
        self._watch, self._names = watch, names
        self._next: dict[tuple[str, int], int] = {}
        self.lanes: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        reading = {"isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "error"}
        self._consumer = Consumer(config | reading | {"group.id": "stage", "enable.auto.commit": False})

    def add(self, names: Iterable[str]) -> None:
        self._names += [name for name in names if name not in self._names]

    def forward(self) -> None:
        """Up to where committed records can be read by now."""
        ends = self._watch.ends(self._names, IsolationLevel.READ_COMMITTED)
        waiting = {place: end for place, end in ends.items() if end > self._next.get(place, 0)}
        self._consumer.assign([TopicPartition(t, p, self._next.get((t, p), 0)) for t, p in waiting])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting:
            assert time.monotonic() < deadline, f"not read to the end: {waiting}"
            found: list[Any] = self._consumer.consume(2_000, 0.1)
            for message in found:
                place = (message.topic(), message.partition())
                if message.error() is None:
                    self.lanes[place[0]][place[1]].append(message)
                    self._next[place] = message.offset() + 1
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    self._next[place] = message.offset()
                if self._next[place] >= waiting.get(place, 0):
                    waiting.pop(place, None)
        self._consumer.unassign()
