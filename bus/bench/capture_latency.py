"""From a single-row transaction to a reader of committed records that is a process of its own: by the time that the row itself
says (clock_timestamp() of its insert), which both captures carry."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, TopicPartition

from bus import access, config
from bus.bench import captures, latency, wide
from bus.bench.captures import Capture
from bus.bench.drain import Usage
from bus.bench.product import Watch
from bus.config import Settings

WARM_UP_SHARE = 0.2
SETTLE_SECONDS = 30.0
Arrival = tuple[float, bytes]
"""(Unix seconds, value)."""


def measure(settings: Settings, one: Capture, domain: str, seed: int, rate: int, seconds: float) -> dict[str, Any]:
    """Latencies in milliseconds, and what the capture spent meanwhile. Raises RuntimeError when a change does not arrive."""
    topic, wanted = one.topic(domain), int(rate * seconds)
    ends = Watch(settings).ends([topic], IsolationLevel.READ_COMMITTED)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    ready, stop = context.Event(), context.Event()
    reader = context.Process(target=_receive, args=(str(settings.home), ends, wanted, ready, stop, there), daemon=True)
    reader.start()
    try:
        if not ready.wait(SETTLE_SECONDS):
            raise RuntimeError("the reader of the latencies does not start")
        used = Usage(one.processes())
        before, began = used.cpu(), time.monotonic()
        with captures.connect(settings, domain) as db:
            reached = wide.at_rate(db, seed, rate, seconds)
        spent, took = used.cpu() - before, time.monotonic() - began
        if not here.poll(SETTLE_SECONDS):
            raise RuntimeError(f"{one.name}: not all changes arrived within {SETTLE_SECONDS:.0f} s")
        arrivals: list[Arrival] = here.recv()
    finally:
        stop.set()
        reader.join(SETTLE_SECONDS)
    decode = one.decoder(domain)
    late = sorted(_late_ms(at, decode(value).after) for at, value in arrivals[int(WARM_UP_SHARE * wanted) :])
    return {
        "changes": len(late),
        "changes_per_second": round(reached),
        **latency.told(late),
        "cpu_us_per_change": round(spent / wanted * 1e6, 1),
        "cpu_share": round(spent / took, 3),
        "peak_rss_mb": used.peak_rss_mb(),
    }


def _late_ms(at: float, image: wide.Image | None) -> float:
    assert image is not None
    return at * 1000 - float(image[-1]) / 1000


def _receive(home: str, ends: dict[tuple[str, int], int], wanted: int, ready: Flag, stop: Flag, answer: Connection) -> None:
    """Answers with what arrives from `ends` on, once there are `wanted` records."""
    settings = config.load(Path(home), env={})
    reading = {"isolation.level": "read_committed", "auto.offset.reset": "error", "fetch.wait.max.ms": 100}
    given = access.confluent(settings, "admin") | reading | {"fetch.queue.backoff.ms": 5}
    consumer = Consumer(given | {"group.id": "bench-reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, lane, end) for (topic, lane), end in ends.items()])
    consumer.poll(1.0)
    ready.set()
    found: list[Arrival] = []
    while len(found) < wanted and not stop.is_set():
        message: Any = consumer.poll(0.2)
        if message is None:
            continue
        batch: list[Any] = [message, *consumer.consume(1_000, 0)]
        now = time.time()
        found += [(now, m.value()) for m in batch if m.error() is None]
    answer.send(found)
    consumer.close()
