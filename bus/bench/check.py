"""What came out, read as any subscriber reads it (committed records only), against what must have."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, TopicPartition

from bus import access, config
from bus.bench import filling, reference
from bus.bench.contestants import PATIENCE_SECONDS, Decode
from bus.bench.filling import Load
from bus.bench.product import Watch
from bus.bench.reference import Count, Counts
from bus.config import Settings

_CHUNK = 2_000


def check(settings: Settings, name: str, load: Load, expected: Counts) -> list[str]:
    """What is wrong with the outputs; nothing: they are right."""
    topics = filling.contestant(name, settings, load).outputs
    found = filling.in_processes(_read_topic, [(str(settings.home), name, load, topic) for topic in topics])
    problems = [problem for _, holes in found for problem in holes]
    return compare(expected, reference.merged(counts for counts, _ in found)) + problems


def compare(expected: Counts, found: Counts) -> list[str]:
    problems = []
    for topic in sorted(expected.keys() | found.keys()):
        wanted, got = expected.get(topic, Count()), found.get(topic, Count())
        if wanted.records != got.records or wanted.status != got.status:
            problems.append(
                f"{topic}: {got.records} records {dict(got.status)} instead of {wanted.records} {dict(wanted.status)}"
            )
        elif wanted.hash != got.hash:
            problems.append(f"{topic}: as many records as there should be, but other ones")
    return problems


class Counting:
    """Adds up records of one topic, and sees whether each lane's sequence numbers, where it has any, are 1, 2, 3, …"""

    def __init__(self, topic: str, decode: Decode) -> None:
        self._topic, self._decode = topic, decode
        self.count = Count()
        self._last: dict[int, int] = {}
        self._holes: dict[int, str] = {}

    def add(self, lane: int, key: bytes, value: bytes) -> None:
        _, status, values, number = self._decode(self._topic, value)
        self.count.add(key, status, values)
        if number is None:
            return
        last = self._last.get(lane, 0)
        if number != last + 1:
            self._holes.setdefault(lane, f"{self._topic}, lane {lane}: number {number} follows {last}")
        self._last[lane] = number

    def problems(self) -> list[str]:
        return list(self._holes.values())


def _read_topic(home: str, name: str, load: Load, topic: str) -> tuple[Counts, list[str]]:
    settings = config.load(Path(home), env={})
    counting = Counting(topic, filling.contestant(name, settings, load).decoder())
    for message in committed(settings, topic):
        counting.add(message.partition(), message.key(), message.value())
    return {topic: counting.count}, counting.problems()


def committed(settings: Settings, topic: str) -> Iterator[Any]:
    """Every committed record of a topic at rest. Raises RuntimeError when its end is not reached."""
    reading = {"isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "error"}
    consumer = Consumer(access.confluent(settings, "admin") | reading | {"group.id": "bench-check", "enable.auto.commit": False})
    waiting = {lane for (_, lane), end in Watch(settings).ends([topic], IsolationLevel.READ_COMMITTED).items() if end}
    consumer.assign([TopicPartition(topic, lane, 0) for lane in waiting])
    moved = time.monotonic()
    while waiting:
        found: list[Any] = consumer.consume(_CHUNK, 0.2)
        if found:
            moved = time.monotonic()
        elif time.monotonic() - moved > PATIENCE_SECONDS:
            raise RuntimeError(f"{topic}: the end was not reached")
        for message in found:
            if message.error() is None:
                yield message
            elif message.error().code() == KafkaError._PARTITION_EOF:
                waiting.discard(message.partition())
            else:
                raise RuntimeError(f"{topic}: {message.error().str()}")
    consumer.close()
