"""Latency at a steady rate: from the moment in an event's ts_ms to the reception of each of its outputs by a reader of committed
records. The reader is a process of its own, so that sending does not hold it up."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bus import access, config
from bus.avro import varint
from bus.bench import contestants, drain, filling, latency
from bus.bench.contestants import Contestant
from bus.bench.filling import Load
from bus.bench.product import Watch
from bus.bench.reference import Counts
from bus.bench.workload import Event, Workload
from bus.config import Settings

WARM_UP_SECONDS = 10.0
FIRST_SECONDS = 120.0
FIRST_RATE = 40
SETTLE_SECONDS = 30.0
_MARK_MS = 1_760_000_000_001
"""The time in an event that is made in advance; replaced when it is sent. No column of the workload can hold it."""
_MARK = varint.encode(_MARK_MS)


class Sender:
    """Sends the workload's events in order, each with the time at which it goes out."""

    def __init__(self, settings: Settings, one: Contestant, load: Load, count: int) -> None:
        made = Workload(load.people, load.seed)
        each = [made.events(domain, count // len(made.domains) + 1) for domain in made.domains]
        encode = one.encoder()
        mixed = itertools.chain.from_iterable(zip(*each, strict=True))
        self._todo = [(event, *encode(event._replace(ts_ms=_MARK_MS))) for event in mixed]
        self._sent: list[int] = []
        settings_of = {"partitioner": "murmur2_random", "compression.type": "lz4", "enable.idempotence": True, "linger.ms": 2}
        self._producer = Producer(access.confluent(settings, "admin") | settings_of)

    def send(self, rate: int, seconds: float) -> None:
        began = time.time()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            while (now := time.time()) < due:
                self._producer.poll(max(0.001, due - now))
            _, topic, key, value = self._todo[len(self._sent)]
            stamp = int(now * 1000)
            self._producer.produce(topic, value.replace(_MARK, varint.encode(stamp)), key)
            self._sent.append(stamp)
        if self._producer.flush(30):
            raise RuntimeError("events could not be sent")

    def events(self) -> Iterator[Event]:
        """What was sent, as it was sent."""
        return (event._replace(ts_ms=at) for (event, *_), at in zip(self._todo, self._sent, strict=False))


def measure(settings: Settings, one: Contestant, load: Load, rate: int, seconds: float) -> tuple[dict[str, Any], Counts]:
    """(figures, expected outputs); the group begins at the inputs' ends. Raises RuntimeError."""
    total = int(rate * (WARM_UP_SECONDS + seconds) + FIRST_RATE * FIRST_SECONDS)
    sender = Sender(settings, one, load, total)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    first, stop = context.Event(), context.Event()
    reader = context.Process(target=_receive, args=(str(settings.home), one.name, load, first, stop, theirs), daemon=True)
    reader.start()
    processes = one.start(steady=True)
    try:
        used = drain.usage(processes)
        _await_first(sender, first, used)
        sender.send(rate, WARM_UP_SECONDS)
        cpu, began, since = used.cpu(), time.monotonic(), int(time.time() * 1000)
        sender.send(rate, seconds)
        cpu, took = used.cpu() - cpu, time.monotonic() - began
        expected = filling.expected_of(one, load, sender.events())
        _settle(settings, one)
        stop.set()
        found: list[tuple[int, float]] = ours.recv()
        late = sorted(latency for at, latency in found if at >= since)
    finally:
        stop.set()
        contestants.stop(processes)
        reader.join(10)
    return _figures(one.name, late, rate, seconds, cpu / took) | {"peak_rss_mb": used.peak_rss_mb()}, expected


def _figures(name: str, late: list[float], rate: int, seconds: float, cores: float) -> dict[str, Any]:
    if not late:
        raise RuntimeError(f"{name}: nothing came out")
    return {
        "engine": name,
        "mode": "steady",
        "rate": rate,
        "seconds": seconds,
        "samples": len(late),
        **latency.told(late),
        "cpu_seconds_per_million": round(cores / rate * 1e6, 1),
    }


def _await_first(sender: Sender, first: Flag, used: drain.Usage) -> None:
    deadline = time.monotonic() + FIRST_SECONDS
    while not first.is_set():
        used.cpu()
        if time.monotonic() > deadline:
            raise RuntimeError("no output of the first events: see the log directory of the home")
        sender.send(FIRST_RATE, 0.5)


def _settle(settings: Settings, one: Contestant) -> None:
    """Until everything sent is committed. Raises RuntimeError."""
    watch = Watch(settings, one.group)
    ends = watch.ends(one.inputs)
    deadline = time.monotonic() + SETTLE_SECONDS
    while any(done < ends[place] for place, done in watch.committed(ends).items()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{one.name} fell behind")
        time.sleep(0.2)
    time.sleep(1)  # the reader's last fetch


def _receive(home: str, name: str, load: Load, first: Flag, stop: Flag, answer: Connection) -> None:
    """Answers with [(ts_ms, latency in ms)] of every output."""
    settings = config.load(Path(home), env={})
    one = filling.contestant(name, settings, load)
    reading = {"isolation.level": "read_committed", "fetch.wait.max.ms": 100, "fetch.queue.backoff.ms": 5}
    given = access.confluent(settings, "admin") | reading
    consumer = Consumer(given | {"group.id": "bench-reader", "enable.auto.commit": False, "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(topic, lane, 0) for topic in one.outputs for lane in range(contestants.LANES)])
    got: list[tuple[float, str, bytes]] = []
    while not stop.is_set():
        message: Any = consumer.poll(0.2)
        if message is None:
            continue
        batch: list[Any] = [message, *consumer.consume(5_000, 0)]
        now = time.time() * 1000
        got += [(now, m.topic(), m.value()) for m in batch if m.error() is None]
        first.set()
    decode = one.decoder()
    answer.send([(ts_ms, now - ts_ms) for now, topic, value in got for ts_ms, *_ in [decode(topic, value)]])
    consumer.close()
