"""Measure the engine: `python -m bus.engine.bench --events 400000 --workers 2`, one JSON object on stdout.

A private home with an embedded broker gets a register of people and N recorded change events of all datasets; the
product's own register process and workers, with the agreements of deploy/agreements, take them in. Rates are over the time
from the last look before the first committed input to the first look at which everything is committed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import access, config, platform
from bus.avro import catalogue, dataset
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core import topics
from bus.engine import bench_steady
from bus.engine.bench_events import Events
from bus.engine.member import GROUP
from bus.platform import broker
from bus.registry import log as registry

DISTINCT_EVENTS = 60_000
"""Events made up; beyond that they are repeated under new event ids."""
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 600.0
STEADY_SECONDS = 20.0
_ID = slice(5, 21)
_RUN = (
    "import sys; from pathlib import Path; from bus import config; from bus.engine import {m}; "
    "{m}.run(config.load(Path(sys.argv[1]), env={{}}){a})"
)


def start(settings: Settings, process: str) -> subprocess.Popen[bytes]:
    """The product's process 'register' or 'engine-<index>' on this home, its log beside the others."""
    name, _, index = process.partition("-")
    code = _RUN.format(m="worker" if name == "engine" else name, a=f", {index}" if index else "")
    (settings.home / "log").mkdir(exist_ok=True)
    with (settings.home / "log" / f"{process}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", code, str(settings.home)], stdout=log, stderr=log)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def wait_for(what: str, done: Callable[[], bool], processes: Iterable[subprocess.Popen[bytes]] = ()) -> None:
    """Raises RuntimeError when it takes too long or one of the processes has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
            raise RuntimeError(f"waited in vain for {what}: see the log directory of the home")
        time.sleep(LOOK_SECONDS)


class Filling:
    """Puts records into topics as capture would, without its transactions."""

    def __init__(self, settings: Settings, datasets: dict[str, Dataset], people: int) -> None:
        self._config, self._datasets = access.confluent(settings, "admin"), datasets
        self._found = registry.read(self._config)
        self._people, self._secret = people, settings.secret("person-key")

    def events(self, one: Dataset) -> Events:
        schema_id = self._found.latest(catalogue.value_subject(one.topic))
        assert schema_id is not None
        return Events(one, schema_id.id, self._people, self._secret)

    def sources(self) -> list[tuple[Dataset, Events]]:
        """Every dataset but the register, with its events."""
        return [(d, self.events(d)) for d in self._datasets.values() if not d.register]

    def register(self) -> int:
        """Everybody into the register, and capture's word that the database streams. The number of records."""
        one = dataset.register_of(self._datasets)
        count = self.produce((one.topic, k, v) for k, v in self.events(one).register())
        self.streams(one)
        return count

    def streams(self, one: Dataset) -> None:
        record = {"tables": {one.table: [{"upto": None, "lsn": "0/0"}]}}
        self.produce([(topics.POSITIONS, one.domain.encode(), json.dumps(record).encode())])

    def changes(self, count: int) -> int:
        """`count` change events over all datasets but the register, in turn."""
        chosen = [d for d in self._datasets.values() if not d.register]
        each = -(-count // len(chosen))
        streams = [self._repeated(one, min(each, DISTINCT_EVENTS // len(chosen))) for one in chosen]
        mixed = itertools.chain.from_iterable(zip(*streams, strict=False))
        return self.produce(itertools.islice(mixed, count))

    def _repeated(self, one: Dataset, distinct: int) -> Iterator[tuple[str, bytes, bytes]]:
        made = list(self.events(one).changes(distinct))
        for number in itertools.count():
            key, value = made[number % distinct]
            yield one.topic, key, value[: _ID.start] + number.to_bytes(16, "big") + value[_ID.stop :]

    def produce(self, records: Iterable[tuple[str, bytes, bytes]]) -> int:
        """Raises RuntimeError when one could not be delivered."""
        return produce(self._config, records)


def produce(config: dict[str, Any], records: Iterable[tuple[str, bytes, bytes]]) -> int:
    """Put (topic, key, value) records where they belong; their number. Raises RuntimeError when one could not be delivered."""
    producer = Producer(
        config
        | {
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "enable.idempotence": True,
            "linger.ms": 50,
            "message.max.bytes": 8_000_000,
            "queue.buffering.max.messages": 100_000,
            "delivery.report.only.error": True,
        }
    )
    count, lost = 0, list[Any]()
    for count, (topic, key, value) in enumerate(records, 1):  # noqa: B007
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=lambda error, _: lost.append(error))
                break
            except BufferError:
                producer.poll(0.05)
    producer.flush(60)
    if lost or len(producer):
        raise RuntimeError(f"{len(lost)} records were not delivered: {lost[:1]}")
    return count


class Watch:
    """How far the group has come, and how much the topics hold."""

    def __init__(self, settings: Settings, group: str = GROUP) -> None:
        given = access.confluent(settings, "admin") | {"log_level": 0}
        self._consumer = Consumer(given | {"group.id": group, "enable.auto.commit": False})
        self._admin = AdminClient(given)

    def ends(
        self, names: Iterable[str], isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[tuple[str, int], int]:
        """(topic, partition) -> the log's end, or how far committed records can be read by now."""
        there = self._admin.list_topics(timeout=10).topics  # also: a restarted broker refuses the epochs known before
        wanted = [TopicPartition(n, p) for n in names for p in there[n].partitions]
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        answers = self._admin.list_offsets(dict.fromkeys(wanted, latest), isolation_level=isolation)
        return {(tp.topic, tp.partition): answer.result(30).offset for tp, answer in answers.items()}

    def names(self) -> list[str]:
        return list(self._consumer.list_topics(timeout=10).topics)

    def committed(self, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        found = self._consumer.committed([TopicPartition(t, p) for t, p in wanted], 30)
        return {(tp.topic, tp.partition): max(0, tp.offset) for tp in found}


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    cpu_seconds: float
    broker_cpu_seconds: float
    peak_rss_mb: list[int]


def drain(settings: Settings, watch: Watch, inputs: list[str], workers: int) -> Measured:
    """Run this many workers until all inputs are committed. Raises RuntimeError."""
    ends = watch.ends(inputs)
    before = watch.committed(ends)
    kafka = broker.start(settings)
    running = [start(settings, f"engine-{n}") for n in range(workers)]
    try:
        began, cpu, kafka_cpu = time.monotonic(), 0.0, 0.0
        moved = False

        def done() -> bool:
            nonlocal began, cpu, kafka_cpu, moved
            if not moved:
                look, spent, kafka_spent = time.monotonic(), _cpu(running), _seconds(kafka)
                moved = watch.committed(ends) != before
                if not moved:
                    began, cpu, kafka_cpu = look, spent, kafka_spent
            return moved and all(offset >= ends[place] for place, offset in watch.committed(ends).items())

        wait_for("the inputs to be drained", done, running)
        seconds = time.monotonic() - began
        return Measured(seconds, _cpu(running) - cpu, _seconds(kafka) - kafka_cpu, [_peak_rss_mb(p.pid) for p in running])
    finally:
        for process in running:
            stop(process)


def _cpu(processes: Iterable[subprocess.Popen[bytes]]) -> float:
    return sum(_seconds(psutil.Process(p.pid)) for p in processes)


def _seconds(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def _peak_rss_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) // 1024


def at_rate(settings: Settings, filling: Filling, watch: Watch, workers: int, rate: int) -> dict[str, float]:
    """Latency through the engine at `rate` events a second."""
    _say(f"{rate} events a second for {STEADY_SECONDS:.0f} s")
    running = [start(settings, f"engine-{n}") for n in range(workers)]
    try:
        log = [settings.home / "log" / f"engine-{n}.log" for n in range(workers)]
        wait_for("the lanes", lambda: all(_owns(path) for path in log), running)
        sources = filling.sources()
        ends = watch.ends(topics.verified(one.name) for one, _ in sources)
        return bench_steady.steady(settings, sources, ends, rate, STEADY_SECONDS)
    finally:
        for process in running:
            stop(process)


def _owns(log: Path) -> bool:
    """Whether the worker's last word is that it has lanes."""
    return "lanes_assigned" in log.read_text(encoding="utf-8").strip().rsplit("\n", 1)[-1]


class Bench:
    """One measurement: fill, drain in rounds, then a steady rate."""

    def __init__(self, settings: Settings, people: int, workers: int) -> None:
        self._settings, self._people, self._workers = settings, people, workers
        self._datasets = dataset.load(settings.schemas)
        self._filling, self._watch = Filling(settings, self._datasets, people), Watch(settings)
        names = self._watch.names()
        self._outputs = [n for n in names if n.startswith((topics.verified(""), topics.agency("")))]

    def measure(self, events: int, rounds: int, rate: int) -> dict[str, Any]:
        """The figures of the last round (a broker's first ones go by while Java compiles it), and the rate of each."""
        _say(f"making {self._people} people")
        self._filling.register()
        register = start(self._settings, "register")
        try:
            about = self._await_register(register)
            _say("the register's own events")
            drain(self._settings, self._watch, [dataset.register_of(self._datasets).topic], self._workers)
            found = [self._round(events) for _ in range(rounds)]
            steady = at_rate(self._settings, self._filling, self._watch, self._workers, rate) if rate else None
        finally:
            stop(register)
        rates = [figures["events_per_second"] for figures in found]
        return {
            "workers": self._workers,
            **found[-1],
            "rounds_events_per_second": rates,
            **about,
            "rate": rate,
            "latency": steady,
        }

    def _await_register(self, register: subprocess.Popen[bytes]) -> dict[str, Any]:
        log = self._settings.home / "log" / "register.log"
        wait_for("the replica", lambda: "register_ready" in log.read_text(encoding="utf-8"), [register])
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        at = {line["event"]: datetime.fromisoformat(line["timestamp"]) for line in lines}
        seconds = (at["register_ready"] - at["process_started"]).total_seconds()
        return {
            "people": self._people,
            "register_people_per_second": round(self._people / seconds),
            "register_peak_rss_mb": _peak_rss_mb(register.pid),
        }

    def _round(self, events: int) -> dict[str, Any]:
        _say(f"making {events} change events, then draining them")
        self._filling.changes(events)
        inputs = [d.topic for d in self._datasets.values() if not d.register]
        before = sum(self._watch.ends(self._outputs).values())
        found = drain(self._settings, self._watch, inputs, self._workers)
        produced = sum(self._watch.ends(self._outputs).values()) - before
        return {
            "events": events,
            "seconds": round(found.seconds, 2),
            "events_per_second": round(events / found.seconds),
            "outputs_per_second": round(produced / found.seconds),
            "cpu_us_per_event": round(found.cpu_seconds / events * 1e6, 1),
            "broker_cpu_us_per_event": round(found.broker_cpu_seconds / events * 1e6, 1),
            "worker_peak_rss_mb": found.peak_rss_mb,
        }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(prog="python -m bus.engine.bench", description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--events", type=int, default=400_000, help="change events to drain in each round")
    asked.add_argument("--rounds", type=int, default=3, help="rounds; the last one counts")
    asked.add_argument("--people", type=int, default=200_000, help="people in the register")
    asked.add_argument("--workers", type=int, default=2, choices=(1, 2, 4))
    asked.add_argument("--rate", type=int, default=500, help="events a second for the latency; 0: leave it out")
    asked.add_argument("--home", type=Path, help="an empty directory to use, kept afterwards; default: one that is removed")
    given = asked.parse_args(arguments)
    home = (given.home or Path(tempfile.mkdtemp(prefix="bus-bench-"))).absolute()
    settings = config.load(home, env={})
    try:
        platform.start_kafka(settings)
        platform.declare(settings)
        found = Bench(settings, given.people, given.workers).measure(given.events, given.rounds, given.rate)
        sys.stdout.write(json.dumps(found) + "\n")
    finally:
        platform.stop(settings)
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
