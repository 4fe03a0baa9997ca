"""What it costs the live stream that an agreement gets its past.

A private home is filled with events, which are drained. Then come events at a steady rate, twice: once alone, and once while an
agreement with `past: all` is switched on and gets all of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bus import access, config, platform
from bus.avro import dataset
from bus.avro.dataset import Dataset
from bus.bench import latency, product
from bus.bench.events import Events
from bus.config import Settings
from bus.core import topics
from bus.platform import declaration

WORKERS = 2
WARM_UP_SECONDS = 5.0
SWITCH_SECONDS = WARM_UP_SECONDS + 2.0
DRAIN_SECONDS = 10.0
PATIENCE_SECONDS = 300.0
DISTINCT_EVENTS = 20_000
_ID = slice(5, 21)


@dataclass(frozen=True, slots=True)
class Order:
    """`events`: of the past; `rate`: live ones a second, for `seconds`; `agreement`: whose grants the late one has."""

    events: int
    people: int
    rate: int
    seconds: int
    agreement: str


def measure(order: Order, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for the live stream alone and one beside the past. Raises RuntimeError when something does not arrive in time."""
    home = Path(tempfile.mkdtemp(prefix="bus-bench-"))
    settings = config.load(home, env={})
    try:
        platform.start_kafka(settings)
        platform.declare(settings)
        return _Past(settings, order, say).measure()
    finally:
        platform.stop(settings)
        shutil.rmtree(home, ignore_errors=True)


class _Past:
    """One home, from its filling to both measurements."""

    def __init__(self, settings: Settings, order: Order, say: Callable[[str], None]) -> None:
        self._settings, self._order, self._say = settings, order, say
        self._datasets = dataset.load(settings.schemas)
        self._filling, self._watch = product.Filling(settings, self._datasets, order.people), product.Watch(settings)
        self._sources = [d for d in self._datasets.values() if not d.register]
        self._logs = [settings.home / "log" / f"engine-{n}.log" for n in range(WORKERS)]

    def measure(self) -> list[dict[str, Any]]:
        self._say(f"{self._order.people:,} people and {self._order.events:,} events of the past")
        count = self._filling.register() + self._filling.produce(self._changes())
        register = product.start(self._settings, "register")
        try:
            log = self._settings.home / "log" / "register.log"
            product.wait_for("the replica", lambda: "register_ready" in log.read_text(encoding="utf-8"), [register])
            self._with_workers(self._drain)
            self._say(f"{self._order.rate} events a second alone")
            alone = self._with_workers(self._steady)
            self._say("the same beside the past")
            seconds: list[float] = []
            switch = threading.Thread(target=lambda: seconds.append(self._switch_on()))
            switch.start()
            beside = self._with_workers(self._steady)
            switch.join()
        finally:
            product.stop(register)
        if not seconds:
            raise RuntimeError("the agreement did not get its past in time")
        return [{"live": "alone", **alone}, {"live": "beside the past", **beside, "past_records": count, "past_s": seconds[0]}]

    def _changes(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Over all datasets but the register, in turn."""
        each = -(-self._order.events // len(self._sources))
        streams = [self._repeated(one, min(each, DISTINCT_EVENTS // len(self._sources))) for one in self._sources]
        return itertools.islice(itertools.chain.from_iterable(zip(*streams, strict=False)), self._order.events)

    def _repeated(self, one: Dataset, distinct: int) -> Iterator[tuple[str, bytes, bytes]]:
        made = list(self._filling.events(one).changes(distinct))
        for number in itertools.count():
            key, value = made[number % distinct]
            yield one.topic, key, value[: _ID.start] + number.to_bytes(16, "big") + value[_ID.stop :]

    def _with_workers(self, work: Callable[[list[subprocess.Popen[bytes]]], dict[str, Any]]) -> dict[str, Any]:
        running = [product.start(self._settings, f"engine-{n}") for n in range(WORKERS)]
        try:
            product.wait_for("the lanes", lambda: all("lanes_assigned" in _text(p) for p in self._logs), running)
            return work(running)
        finally:
            for process in running:
                product.stop(process)

    def _drain(self, running: list[subprocess.Popen[bytes]]) -> dict[str, Any]:
        ends = self._watch.ends(d.topic for d in self._datasets.values())
        product.wait_for(
            "the inputs to be drained",
            lambda: all(offset >= ends[place] for place, offset in self._watch.committed(ends).items()),
            running,
        )
        return {}

    def _steady(self, running: list[subprocess.Popen[bytes]]) -> dict[str, Any]:
        """Latencies in milliseconds from a record's sending to its verified event's arrival at a reader of committed records."""
        sources = [(one, self._filling.events(one)) for one in self._sources]
        arrivals = _Arrivals(self._settings, self._watch.ends(topics.verified(one.name) for one in self._sources))
        try:
            sent = _send(self._settings, sources, self._order.rate, self._order.seconds)
            deadline = time.monotonic() + DRAIN_SECONDS
            while len(sent.keys() - arrivals.at.keys()) and time.monotonic() < deadline:
                time.sleep(product.LOOK_SECONDS)
        finally:
            arrivals.close()
        if missing := len(sent.keys() - arrivals.at.keys()):
            raise RuntimeError(f"{missing} of {len(sent)} events did not arrive")
        product.wait_for("the past to be given", self._caught_up, running)
        found = sorted((arrivals.at[event_id] - at) * 1000 for event_id, at in sent.items())
        return latency.told(found)

    def _told(self, event: str) -> int:
        return sum(_text(path).count(f'"{event}"') for path in self._logs)

    def _caught_up(self) -> bool:
        return not self._told("past_begun") or self._told("past_caught_up") >= self._settings.kafka.lanes

    def _switch_on(self) -> float:
        """A little after the rate has become steady. Seconds until the agreement has its past. Raises RuntimeError."""
        time.sleep(SWITCH_SECONDS)
        files = shutil.copytree(self._settings.agreements, self._settings.home / "agreements")
        text = (files / f"{self._order.agreement}.yaml").read_text(encoding="utf-8")
        agency = self._order.agreement.partition(".")[0]
        text = text.replace(f"agency: {agency}", "agency: latecomer", 1).replace("\ndatasets:", "\npast: all\ndatasets:", 1)
        (files / "latecomer.yaml").write_text(text, encoding="utf-8")
        began = time.monotonic()
        declaration.apply(dataclasses.replace(self._settings, agreements=files))
        while self._told("past_caught_up") < self._settings.kafka.lanes:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise RuntimeError("the agreement did not get its past in time: see the log directory of the home")
            time.sleep(product.LOOK_SECONDS)
        return round(time.monotonic() - began, 1)


class _Arrivals:
    """Reads the verified topics from these ends on and notes when each event id came."""

    def __init__(self, settings: Settings, ends: dict[tuple[str, int], int]) -> None:
        reading = {
            "group.id": "bench",
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 50,
        }
        self._consumer = Consumer(access.confluent(settings, "admin") | reading | {"enable.auto.commit": False})
        self._consumer.assign([TopicPartition(topic, lane, end) for (topic, lane), end in ends.items()])
        self.at: dict[bytes, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            message: Any = self._consumer.poll(product.LOOK_SECONDS)
            if message is not None and message.error() is None:
                self.at[message.value()[_ID]] = time.monotonic()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._consumer.close()


def _send(settings: Settings, sources: list[tuple[Dataset, Events]], rate: int, seconds: float) -> dict[bytes, float]:
    """`rate` events a second, evenly, over all sources in turn. Event id -> when it was sent, of those after the warm-up."""
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


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
