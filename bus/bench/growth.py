"""What one event costs as three things grow: people in the register, agreements on a dataset, the size of a record.

In one process and without Kafka: the engine's own plan, kernel and Python, reads a real replica (bus.bench.population) and hands
its outputs to a producer that only counts. Every measurement begins at the same point: BASE_PEOPLE, one agreement, BASE_BYTES.
All events are creates about different people, whom the register knows and agrees with. Both engines must put out the same
bytes, and for each agreement exactly the records that its filter admits.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus import config
from bus.avro import dataset, derive
from bus.avro.catalogue import Catalogue, value_subject
from bus.bench import ours, population
from bus.bench.events import Encoder
from bus.bench.workload import BASE_MS, IDENTITY, MATCHED, PIN, Row, Workload
from bus.core import topics
from bus.core.identity import person_key
from bus.engine import native
from bus.engine.plan import Plan, Record, Secrets, compile_plan
from bus.engine.replica import ReplicaReader
from bus.platform import processes, secrets
from bus.platform.declaration import Files

BASE_PEOPLE, BASE_BYTES = 10_000, 200
NAME = "growth.record"
PEOPLE, AGREEMENTS, RECORD = "people", "agreements", "record"
LIST_CODES = 10
"""Values in the filter of an agreement that lists several."""
_ROUND_BYTES = 32_000_000
_VIEW_EVENTS = 2_000
"""Events that share one view of the replica, as in the worker."""
_COMMUNE, _TEXT = "commune", "text"
AGREEMENT = "growth"
Sent = tuple[bytes, bytes]
"""(value, key) of an event."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure: the x of each plot, and how thoroughly."""

    people: tuple[int, ...]
    agreements: tuple[int, ...]
    sizes: tuple[int, ...]
    events: int
    rounds: int
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    """One point of a line. `codes`: values in each agreement's filter, of which no two agreements have one in common."""

    axis: str
    line: str
    x: int
    agreements: int = 1
    codes: int = 1
    size_bytes: int = BASE_BYTES
    text_granted: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """CPU µs an event: the median round, the cheapest and the dearest."""

    axis: str
    line: str
    engine: str
    x: int
    cpu_us: float
    least_us: float
    most_us: float
    events: int
    bytes_per_event: int


def measure(order: Order, say: Say) -> list[Point]:
    """All points. Raises ConfigError when there is too little disk, RuntimeError when an output is wrong."""
    points: list[Point] = []
    for people in sorted({BASE_PEOPLE, *order.people}):
        cases = [Case(PEOPLE, "one agreement", people)] if people in order.people else []
        cases += [*_agreement_cases(order), *_size_cases(order)] if people == BASE_PEOPLE else []
        with _home(order, people, say) as home:
            for case in cases:
                points += _measured(home, case, order, people)
                for point in points[-len(_kernels()) :]:
                    say(f"{point.axis} {point.x:,}, {point.line}, {point.engine}: {point.cpu_us} µs an event")
    return points


def _agreement_cases(order: Order) -> list[Case]:
    lines = (("one value", 1), (f"one of {LIST_CODES}", LIST_CODES))
    return [Case(AGREEMENTS, line, x, agreements=x, codes=codes) for line, codes in lines for x in order.agreements]


def _size_cases(order: Order) -> list[Case]:
    lines = (("text not granted", False), ("text granted", True))
    return [Case(RECORD, line, x, size_bytes=x, text_granted=yes) for line, yes in lines for x in order.sizes]


def _kernels() -> dict[str, bool]:
    return {"kernel": True, "Python": False} if native.available() else {"Python": False}


@contextmanager
def _home(order: Order, people: int, say: Say) -> Iterator[Path]:
    """A directory with secrets, the register's schema and everybody in the replica."""
    with tempfile.TemporaryDirectory(prefix="bus-bench-") as directory:
        home = Path(directory)
        workload = Workload(people, order.seed)
        ours.write_register(workload, home / "schemas")
        settings = config.load(home, env={})
        processes.make_home(settings)
        secrets.keys(settings)
        say(f"making {people:,} people")
        began = time.monotonic()
        person = settings.secret("person-key")
        population.fill(population.Order(home, home / "schemas", people, order.seed, person, 1, b"bench"), say)
        say(f"{people:,} people made in {time.monotonic() - began:.0f} s")
        yield home


def _measured(home: Path, case: Case, order: Order, people: int) -> list[Point]:
    scene = Scene(home, case, people, order.seed)
    count = max(1, min(order.events, _ROUND_BYTES // case.size_bytes))
    batches = [scene.events(count) for _ in range(order.rounds + 1)]
    size = round(statistics.mean(len(value) for value, _ in batches[0].records))
    points, seen = [], set()
    for engine, kernel in _kernels().items():
        plan = scene.plan(kernel)
        with _replica(home) as reader:
            seen.add(scene.checked(plan, reader, batches[0]))
            costs = sorted(round_us(plan, case.agreements, reader, batch.records) for batch in batches[1:])
        told = round(statistics.median(costs), 2), round(costs[0], 2), round(costs[-1], 2)
        points.append(Point(case.axis, case.line, engine, case.x, *told, count * order.rounds, size))
    if len(seen) > 1:
        raise RuntimeError(f"{case.axis}, {case.line}, {case.x}: kernel and Python put out different bytes")
    return points


@contextmanager
def _replica(home: Path) -> Iterator[ReplicaReader]:
    """Mapped anew: whoever is measured pays for the pages that he is the first to touch."""
    reader = ReplicaReader(home)
    if not reader.ready():
        raise RuntimeError("the replica that was just made cannot be read")
    try:
        yield reader
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class Events:
    """(value, key) of each record, and how many records must come out in each topic."""

    records: list[Sent]
    outputs: Counter[str]


class Scene:
    """The schema, the agreements, the plans and the events of one case."""

    def __init__(self, home: Path, case: Case, people: int, seed: int) -> None:
        self._case = case
        self._someone, self._people = Workload(people, seed).someone(), people
        self._rng = random.Random(seed)
        place = home / f"{case.axis}-{case.line}-{case.x}"
        write_files(case, home / "schemas", place)
        self._settings = dataclasses.replace(config.load(home, env={}), schemas=home / "schemas", agreements=place)
        self._files, self._catalogue = Files.read(self._settings), Catalogue()
        for subject, schema in self._files.subjects.items():
            if entry := self._catalogue.propose(subject, schema):
                self._catalogue.add(entry)
        self._dataset = self._files.datasets[NAME]
        self._key = self._settings.secret("person-key")
        schema_id = self._catalogue.id_for(value_subject(self._dataset.topic), derive.change(self._dataset))
        self._encoder = Encoder(self._dataset, schema_id)
        empty = self._row(self._someone(0), 0)
        self._text_bytes = max(0, case.size_bytes - len(self._encoder.encode(0, "c", None, empty, BASE_MS)))

    def plan(self, kernel: bool) -> Plan:
        register = dataset.register_of(self._files.datasets)
        given = Secrets(self._key, self._settings.secret("agreement-key"))
        agreed = list(self._files.agreements.values())
        limit = self._settings.engine.max_record_bytes
        return compile_plan(self._dataset, register, agreed, self._catalogue, given, limit, kernel=kernel)

    def events(self, count: int) -> Events:
        """Creates about people chosen at random; any code of any agreement."""
        records, admitting = [], Counter[str]()
        for number in range(count):
            person = self._someone(self._rng.randrange(self._people))
            code = self._rng.randrange(self._case.agreements * self._case.codes)
            row = self._row(person, code)
            admitting[topics.agency(f"{_agency(code // self._case.codes)}.{AGREEMENT}")] += 1
            row[_TEXT] = f"{number:08d} ".ljust(self._text_bytes, "x")[: self._text_bytes]
            value = self._encoder.encode(number, "c", None, row, BASE_MS)
            records.append((value, person_key(self._key, person[PIN].encode())))
        return Events(records, admitting | Counter({topics.verified(NAME): count}))

    def _row(self, person: Row, code: int) -> Row:
        return {name: person[name] for name, _ in IDENTITY} | {_COMMUNE: _code(code), _TEXT: ""}

    def checked(self, plan: Plan, reader: ReplicaReader, events: Events) -> bytes:
        """A hash over all outputs. Raises RuntimeError when one is missing, too many, or of another verdict than MATCH."""
        digest, out, seqs = hashlib.blake2b(), list[Record](), [0] * self._case.agreements
        with reader.view() as get:
            for value, key in events.records:
                tally = plan.handle(value, key, get, seqs, [True] * len(seqs), out)
                if plan.verdict(tally) != "MATCH":
                    raise RuntimeError(f"{self._case}: a verdict is {plan.verdict(tally)}")
        if Counter(topic for topic, *_ in out) != events.outputs:
            raise RuntimeError(f"{self._case}: {len(out)} outputs, which are not those that the filters admit")
        for _, made, key in out:
            digest.update(key + (made or b""))
        return digest.digest()


def round_us(plan: Plan, agreements: int, reader: ReplicaReader, events: Sequence[Sent]) -> float:
    """CPU µs an event, as the worker's loop spends them (bus.engine.batch), but for what Kafka's client costs."""
    seqs, force, out = [0] * agreements, (True,) * agreements, list[Record]()
    tallies: dict[Any, int] = {}
    handle, produced = plan.handle, 0

    def produce(topic: str, value: bytes | None, key: bytes, lane: int) -> None:  # noqa: ARG001 as the client's
        nonlocal produced
        produced += 1

    gc.collect()
    gc.disable()
    begun = time.process_time()
    for first in range(0, len(events), _VIEW_EVENTS):
        with reader.view() as get:
            for value, key in events[first : first + _VIEW_EVENTS]:
                tally = handle(value, key, get, seqs, force, out)
                if tally in tallies:
                    tallies[tally] += 1
                else:
                    tallies[tally] = 1
                for to, made, by in out:
                    produce(to, made, by, 0)
                out.clear()
    spent = time.process_time() - begun
    gc.enable()
    if produced != 2 * len(events):
        raise RuntimeError(f"{produced} outputs of {len(events)} events, each of which has two")
    return spent / len(events) * 1e6


def _code(number: int) -> str:
    return f"X{number:06d}"


def _agency(number: int) -> str:
    return f"a{number:04d}"


def write_files(case: Case, schemas: Path, agreements: Path) -> None:
    """The dataset and the case's agreements, as a user of the bus would state them."""
    columns = [*IDENTITY, (_COMMUNE, "string"), (_TEXT, "string")]
    subject = {"people": [{"role": "subject", "pin": PIN, "match": {f: f for f in MATCHED}}]}
    domain, table = NAME.split(".")
    ours.write_schema(schemas, domain, table, columns, subject)
    agreements.mkdir(parents=True)
    for number in range(case.agreements):
        codes = [_code(number * case.codes + one) for one in range(case.codes)]
        document = ours.agreement_file(_agency(number), AGREEMENT, [NAME], where={_COMMUNE: codes}, fields=_granted(case))
        (agreements / f"{_agency(number)}.yaml").write_text(json.dumps(document), encoding="utf-8")


def _granted(case: Case) -> list[str]:
    return [PIN, "full_name", _COMMUNE, *([_TEXT] if case.text_granted else [])]
