"""Latency at a steady rate: from the record's send to its verified event's arrival at a reader of committed records."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bus import access
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core import topics
from bus.engine.bench_events import Events

WARM_UP_SECONDS = 5.0
DRAIN_SECONDS = 10.0
_ID = slice(5, 21)


class Arrivals:
    """Reads all of `verified.*` from its end on and notes when each event id came."""

    def __init__(self, settings: Settings, names: list[str], ends: dict[tuple[str, int], int]) -> None:
        reading = {
            "group.id": "bench",
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 50,
        }
        self._consumer = Consumer(access.confluent(settings, "admin") | reading | {"enable.auto.commit": False})
        self._consumer.assign([TopicPartition(t, p, end) for (t, p), end in ends.items() if t in names])
        self.at: dict[bytes, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            message: Any = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                self.at[message.value()[_ID]] = time.monotonic()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._consumer.close()


def send(settings: Settings, sources: list[tuple[Dataset, Events]], rate: int, seconds: float) -> dict[bytes, float]:
    """`rate` events a second, evenly, over all sources in turn. Event id -> when it was sent."""
    made = itertools.cycle([(one.topic, *record) for one, events in sources for record in events.changes(200)])
    producer = Producer(access.confluent(settings, "admin") | {"partitioner": "murmur2_random", "linger.ms": 0})
    sent: dict[bytes, float] = {}
    began = time.monotonic()
    for number in range(int(rate * (WARM_UP_SECONDS + seconds))):
        due = began + number / rate
        while (now := time.monotonic()) < due:
            producer.poll(due - now)
        topic, key, value = next(made)
        event_id = (1 << 120 | number).to_bytes(16, "big")
        if due - began >= WARM_UP_SECONDS:
            sent[event_id] = now
        producer.produce(topic, value[: _ID.start] + event_id + value[_ID.stop :], key)
    producer.flush(10)
    return sent


def steady(
    settings: Settings, sources: list[tuple[Dataset, Events]], ends: dict[tuple[str, int], int], rate: int, seconds: float
) -> dict[str, float]:
    """Latencies in milliseconds while workers run. `ends`: of the verified topics, now. Raises RuntimeError on loss."""
    arrivals = Arrivals(settings, [topics.verified(one.name) for one, _ in sources], ends)
    try:
        sent = send(settings, sources, rate, seconds)
        deadline = time.monotonic() + DRAIN_SECONDS
        while len(sent.keys() - arrivals.at.keys()) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        arrivals.close()
    if missing := len(sent.keys() - arrivals.at.keys()):
        raise RuntimeError(f"{missing} of {len(sent)} events did not arrive")
    found = sorted((arrivals.at[event_id] - at) * 1000 for event_id, at in sent.items())
    picked = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: round(found[min(len(found) - 1, int(len(found) * share))], 1) for name, share in picked.items()}
