"""How soon an engine goes on after a restart when its register holds millions: from the start of its process to its first
committed output, with a backlog waiting.

Ours keeps the replica on disk; it is written straight into LMDB (bus.bench.population) under the identity of this broker's
topic, which itself stays empty: a register process that resumes only reads what came since. Kafka Streams gets the same people
in its topic. Its store in memory is read anew at each start; RocksDB's stays in the state directory, and is also tried empty.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import IsolationLevel
from confluent_kafka.admin import AdminClient

from bus import access, config
from bus.avro import catalogue, dataset, derive
from bus.bench import check, contestants, filling, kafka_streams, ours, population, product, reference, run
from bus.bench.contestants import Contestant, Process
from bus.bench.drain import Usage, usage
from bus.bench.filling import Load
from bus.bench.product import Watch
from bus.bench.reference import Population
from bus.bench.workload import IDENTITY, PIN, Event, Identity, Workload
from bus.config import Settings
from bus.core import topics
from bus.engine import register
from bus.registry import log as registry

Figures = dict[str, Any]
LOOK_SECONDS = 0.01
PATIENCE_SECONDS = 900.0
_HEAP_GB, _HEAP_BYTES_A_PERSON = 2, 700
"""Java's heap for the store in memory: 9 GB for 10 million people."""
_TOPIC_BYTES_A_PERSON = 600
"""Disk: the topic of Kafka Streams, and RocksDB's files."""
Start = Callable[[], list[Process]]


@dataclass(frozen=True, slots=True)
class Order:
    """`backlog`: events of one domain that wait at each of the `restarts` of each way."""

    people: int
    backlog: int
    restarts: int
    seed: int
    streams: bool

    @property
    def load(self) -> Load:
        return Load(self.backlog, self.people, self.seed, 1)


def measure(order: Order, say: Callable[[str], None]) -> list[Figures]:
    """A row for each way of starting, medians. Raises ConfigError, and RuntimeError when an engine fails or errs."""
    if order.streams:
        kafka_streams.find_jdk()
    with run.own_home(order.load, None) as settings:
        each = population.BYTES_A_PERSON + (_TOPIC_BYTES_A_PERSON if order.streams else 0)
        population.require_disk(settings.home, order.people * each)
        return _ours(settings, order, say) + (_streams(settings, order, say) if order.streams else [])


def _ours(settings: Settings, order: Order, say: Callable[[str], None]) -> list[Figures]:
    one = ours.Ours(settings, Workload(order.people, order.seed), 1)
    one.declare()
    client = access.confluent(settings, "admin") | {"log_level": 0}
    datasets = dataset.load(settings.schemas)
    people = dataset.register_of(datasets)
    schema_id = registry.read(client).id_for(catalogue.value_subject(people.topic), derive.change(people))
    identity, _ = register.identity_of(AdminClient(client), people, schema_id)
    say(f"ours: making {order.people:,} people")
    secret = settings.secret("person-key")
    wanted = population.Order(settings.home, settings.schemas, order.people, order.seed, secret, schema_id, identity)
    population.fill(wanted, say)
    product.Filling(settings, datasets, order.people).streams(people)
    one.reset(at_end=False)
    way = Way(settings, one, order, say)
    holder = product.start(settings, "register")
    try:
        rows = [way.measure("worker", lambda: [product.start(settings, "engine-0")], restores=False)]
    finally:
        product.stop(holder)
    rows.append(way.measure("register process and worker", lambda: one.start(steady=True)))
    way.check(topics.verified(f"{way.domain}.{Workload(order.people, order.seed).table}"))
    return rows


def _streams(settings: Settings, order: Order, say: Callable[[str], None]) -> list[Figures]:
    one = kafka_streams.KafkaStreams(settings, Workload(order.people, order.seed), 2)
    one.declare()
    say(f"Kafka Streams: making {order.people:,} people")
    filling.in_processes(_fill_slice, [(str(settings.home), order.load, *part) for part in _slices(order.people)])
    one.reset(at_end=False)
    heap = f"-Xmx{_HEAP_GB + -(-order.people * _HEAP_BYTES_A_PERSON // 1_000_000_000)}g"
    way = Way(settings, one, order, say)

    def started(store: str, heap: str) -> Start:
        return lambda: one.start_with(True, store, heap, instance=kafka_streams.NAME)

    on_disk = started(kafka_streams.ROCKSDB, kafka_streams.HEAP)
    rows = [
        way.measure(f"store in memory, {heap}", started(kafka_streams.MEMORY, heap)),
        way.measure("RocksDB, empty", on_disk, one.forget_state),
        way.measure("RocksDB, kept", on_disk),
    ]
    way.check(f"verified.{way.domain}")
    return rows


def _slices(people: int, size: int = 250_000) -> Iterator[tuple[int, int]]:
    return ((first, min(people, first + size)) for first in range(0, people, size))


def _fill_slice(home: str, load: Load, first: int, last: int) -> None:
    settings = config.load(Path(home), env={})
    kafka_streams.KafkaStreams(settings, Workload(load.people, load.seed), 1).fill_people(first, last)


class Backlog:
    """Events of one domain about people of a large register, and the statuses that they must get."""

    def __init__(self, workload: Workload, domain: str, count: int) -> None:
        someone, known = workload.someone(), dict[str, tuple[int, reference.Values]]()

        def identity(number: int) -> Identity:
            row = someone(number)
            known[row[PIN]] = number, tuple(row.values())
            pin, name, birth, sex, province = (row[column] for column, _ in IDENTITY)
            return pin, name, birth, sex, province

        self.events: list[Event] = list(workload.events(domain, count, identity))
        people: Population = known
        self.statuses = Counter(reference.verify(event.row, people)[0] for event in self.events)


class Way:
    """Restarts of one engine, however it is started."""

    def __init__(self, settings: Settings, one: Contestant, order: Order, say: Callable[[str], None]) -> None:
        self._settings, self._one, self._order, self._say = settings, one, order, say
        workload = Workload(order.people, order.seed)
        self.domain = workload.domains[0]
        self._backlog, self._times = Backlog(workload, self.domain, order.backlog), 0

    def measure(self, name: str, start: Start, before: Callable[[], None] = lambda: None, restores: bool = True) -> Figures:
        """One row; the first start does not count. `restores`: whether the register is opened or read in it."""
        found: list[tuple[float, float | None, int]] = []
        for number in range(self._order.restarts + 1):
            before()
            found.append(self._once(start, restores))
            self._say(f"{self._one.name}, {name}, {number or 'warm-up'}: {found[-1][0]:.2f} s to the first output")
        counted = found[1:]
        restored = [seconds for _, seconds, _ in counted if seconds is not None]
        return {
            "engine": self._one.name,
            "mode": "restart",
            "way": name,
            "people": self._order.people,
            "first_output_seconds": round(statistics.median(seconds for seconds, *_ in counted), 2),
            "longest_seconds": round(max(seconds for seconds, *_ in counted), 2),
            "restore_seconds": round(statistics.median(restored), 2) if restored else None,
            "peak_rss_mb": max(mb for *_, mb in counted),
        }

    def _once(self, start: Start, restores: bool) -> tuple[float, float | None, int]:
        encode = self._one.encoder()
        product.produce(access.confluent(self._settings, "admin"), (encode(event) for event in self._backlog.events))
        self._times += 1
        watch = Watch(self._settings, self._one.group)
        before = self._outputs(watch)
        began = time.monotonic()
        processes = start()
        try:
            used = usage(processes)
            self._until(lambda: self._outputs(watch) > before, used)
            seconds = time.monotonic() - began
            ends = watch.ends(self._one.inputs)
            self._until(lambda: all(at >= ends[place] for place, at in watch.committed(ends).items()), used)
            return seconds, self._one.restore_seconds() if restores else None, used.peak_rss_mb()
        finally:
            contestants.stop(processes)

    def _outputs(self, watch: Watch) -> int:
        return sum(watch.ends(self._one.outputs, IsolationLevel.READ_COMMITTED).values())

    def _until(self, done: Callable[[], bool], used: Usage) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            used.cpu()  # also sees one that has ended
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._one.name} does not move: see the log directory of the home")
            time.sleep(LOOK_SECONDS)

    def check(self, topic: str) -> None:
        """Every event of every restart has come out once, with its status. Raises RuntimeError."""
        decode = self._one.decoder()
        found = Counter(decode(topic, message.value())[1] for message in check.committed(self._settings, topic))
        wanted = Counter({status: count * self._times for status, count in self._backlog.statuses.items()})
        if found != wanted:
            raise RuntimeError(f"{self._one.name}: {dict(found)} came out instead of {dict(wanted)}")


def table(rows: list[Figures]) -> str:
    """In Markdown."""
    shown = ("first_output_seconds", "longest_seconds", "restore_seconds", "peak_rss_mb")
    lines = ["| | start to first output, s | longest | of which the register, s | peak RSS, MB |", "|---|---|---|---|---|"]
    for row in rows:
        cells = itertools.chain([f"{row['engine']}: {row['way']}"], ("-" if row[n] is None else f"{row[n]:,}" for n in shown))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
