"""Putting the workload into a contestant's topics, once for a home, and what the outputs of it must be.

Each domain is made, written and worked out in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bus import access, config
from bus.bench import kafka_streams, ours, product, reference, workload
from bus.bench.contestants import LANES, Contestant
from bus.bench.reference import Count, Counts, Output
from bus.bench.workload import Event, Workload
from bus.config import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured with. `events`: of each domain."""

    events: int
    people: int
    seed: int
    workers: int


def contestant(name: str, settings: Settings, load: Load) -> Contestant:
    made = Workload(load.people, load.seed)
    if name == ours.NAME:
        return ours.Ours(settings, made, load.workers)
    return kafka_streams.KafkaStreams(settings, made, load.workers)


def in_processes(function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> list[T]:
    """Results of the calls, made in fresh processes: a Kafka client does not survive a fork."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(function, *call) for call in calls]]


def fill(settings: Settings, name: str, load: Load) -> tuple[Counts, dict[str, float]]:
    """(expected outputs, what is worth telling about the register). Done already on this home: what was noted then."""
    note = _note(settings, name)
    about = {**asdict(load), "workload": hashlib.sha256(workload.FILE.read_bytes()).hexdigest()}
    del about["workers"]
    if note.exists():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["about"] == about:
            return {topic: Count.of_json(one) for topic, one in found["expected"].items()}, found["register"]
        spoil(settings, name)
    one = contestant(name, settings, load)
    one.forget()
    register = one.fill_register()
    calls = [(str(settings.home), name, load, domain) for domain in Workload(load.people, load.seed).domains]
    expected = reference.merged(in_processes(_fill_domain, calls))
    written = {"about": about, "register": register, "expected": {topic: c.as_json() for topic, c in expected.items()}}
    note.write_text(json.dumps(written), encoding="utf-8")
    return expected, register


def spoil(settings: Settings, name: str) -> None:
    """The inputs hold something else from now on: the next `fill` begins anew."""
    _note(settings, name).unlink(missing_ok=True)


def _note(settings: Settings, name: str) -> Path:
    return settings.home / "bench" / f"{name}.json"


def _fill_domain(home: str, name: str, load: Load, domain: str) -> Counts:
    settings = config.load(Path(home), env={})
    one, made = contestant(name, settings, load), Workload(load.people, load.seed)
    people = reference.population(made, one.side.key, LANES)
    encode, counts = one.encoder(), Counts()

    def records() -> Iterator[tuple[str, bytes, bytes]]:
        for event in made.events(domain, load.events):
            _add(counts, reference.outputs(made, one.side, people, (event,)))
            yield encode(event)

    product.produce(access.confluent(settings, "admin"), records())
    return counts


def _add(counts: Counts, outputs: Iterable[Output]) -> None:
    for topic, key, status, values in outputs:
        counts.setdefault(topic, Count()).add(key, status, values)


def expected_of(one: Contestant, load: Load, events: Iterable[Event]) -> Counts:
    """What these events must give."""
    made = Workload(load.people, load.seed)
    people = reference.population(made, one.side.key, LANES)
    return reference.tally(reference.outputs(made, one.side, people, events))
