"""The comparison's check: right outputs pass it and no wrong one does. Without a broker: the engine's own plans run here."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import fastavro
import pytest

from bus import config
from bus.avro import dataset
from bus.avro.catalogue import Catalogue
from bus.bench import filling, kafka_streams, ours, reference, table
from bus.bench.check import Counting, compare
from bus.bench.contestants import LANES, Contestant, Decode
from bus.bench.filling import Load
from bus.bench.reference import Count, Counts
from bus.bench.run import Figures
from bus.bench.workload import Event, Workload
from bus.config import Settings
from bus.core.identity import lane_of
from bus.engine import agreements
from bus.engine.person import compile_packer
from bus.engine.plan import Record, Secrets, compile_plan
from bus.platform import processes, secrets
from bus.platform.declaration import Files

LOAD = Load(events=300, people=400, seed=1, workers=1)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload(LOAD.people, LOAD.seed)


@pytest.fixture(scope="module")
def events(workload: Workload) -> list[Event]:
    return [event for domain in workload.domains for event in workload.events(domain, LOAD.events)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, workload: Workload) -> Settings:
    home = tmp_path_factory.mktemp("so sánh")
    ours.write_files(workload, home / "schemas", home / "agreements")
    made = config.load(home, flags={"schemas": home / "schemas", "agreements": home / "agreements"}, env={})
    processes.make_home(made)
    secrets.keys(made)
    return made


class Run:
    """What one side put out, per lane in order, and how it is read."""

    def __init__(self, one: Contestant, workload: Workload, events: list[Event], decode: Decode, out: list[Record]) -> None:
        people = reference.population(workload, one.side.key, LANES)
        self.expected = reference.tally(reference.outputs(workload, one.side, people, events))
        self.decode, self.out = decode, out

    def problems(self, out: list[Record]) -> list[str]:
        countings = {topic: Counting(topic, self.decode) for topic, *_ in out}
        for topic, value, key in out:
            countings[topic].add(0, key, value)
        found: Counts = {topic: one.count for topic, one in countings.items()}
        return compare(self.expected, found) + [p for one in countings.values() for p in one.problems()]


@pytest.fixture(scope="module")
def our_run(settings: Settings, workload: Workload, events: list[Event]) -> Run:
    """The product's own plans over the workload, in one lane."""
    one = ours.Ours(settings, workload, 1)
    files, catalogue = Files.read(settings), Catalogue()
    for subject, schema in files.subjects.items():
        if entry := catalogue.propose(subject, schema):
            catalogue.add(entry)
    register = dataset.register_of(files.datasets)
    pack, people, offsets = compile_packer(register), dict[bytes, bytes](), Counter[int]()
    for _, key, value in one.persons(catalogue):
        lane = lane_of(key, LANES)
        packed = pack(value, offsets[lane])
        assert packed
        people[key] = packed
        offsets[lane] += 1
    listed = list(agreements.load(settings, files.datasets).values())
    held = Secrets(settings.secret("person-key"), settings.secret("agreement-key"))
    plans = {
        d.topic: compile_plan(d, register, listed, catalogue, held, settings.engine.max_record_bytes)
        for d in files.datasets.values()
    }
    out, seqs, encode = list[Record](), [0] * len(listed), one.encoding(catalogue)
    for event in events:
        topic, key, value = encode(event)
        plans[topic].handle(value, key, people.get, seqs, [True] * len(listed), out)
    return Run(one, workload, events, one.decoding(catalogue), out)


@pytest.fixture(scope="module")
def streams_run(settings: Settings, workload: Workload, events: list[Event]) -> Run:
    """The reference's outputs as the Streams application would write them."""
    one = kafka_streams.KafkaStreams(settings, workload, 1)
    people = reference.population(workload, one.side.key, LANES)
    entries = {e["topic"]: e for kind in kafka_streams.schemas(workload).values() for e in kind.values()}
    out: list[Record] = []
    for topic, key, _, values in reference.outputs(workload, one.side, people, events):
        out.append((topic, _encoded(entries[topic], values), key))
    return Run(one, workload, events, one.decoder(), out)


def _encoded(entry: dict[str, Any], values: tuple[Any, ...]) -> bytes:
    fields = [f["name"] for f in entry["schema"]["fields"]]
    if "verification" in fields:
        op, ts_ms, before, after, status, mismatched, offset, person = values
        about = {"status": status, "mismatched": list(mismatched), "person_offset": offset}
        source = dict.fromkeys(("connector", "db", "table", "snapshot"), "") | {"lsn": 0, "tx": None, "ts_ms": ts_ms}
        types = {f["name"]: f["type"] for f in entry["schema"]["fields"]}
        rows = {n: _row(types["before"][1], row) for n, row in (("before", before), ("after", after))}
        value = rows | {
            "source": source,
            "op": op,
            "ts_ms": ts_ms,
            "verification": about,
            "person": _row(types["person"][1], person),
        }
    else:
        op, ts_ms, status, data = values
        value = dict(zip(fields, [*data, op, ts_ms, status], strict=True))
    head: bytes = b"\0" + entry["id"].to_bytes(4, "big")
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(entry["schema"]), value)
    return head + body.getvalue()


def _row(schema: dict[str, Any], values: tuple[Any, ...] | None) -> dict[str, Any] | None:
    return None if values is None else dict(zip([f["name"] for f in schema["fields"]], values, strict=True))


@pytest.fixture(params=["our_run", "streams_run"])
def run(request: pytest.FixtureRequest) -> Run:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Run)
    return found


def test_right_outputs_pass(run: Run) -> None:
    assert run.problems(run.out) == []
    assert len(run.out) > 2 * LOAD.events


def _kinds(run: Run) -> Iterator[int]:
    """The place of one record of each topic."""
    seen: set[str] = set()
    for place, (topic, *_) in enumerate(run.out):
        if topic not in seen:
            seen.add(topic)
            yield place


PLANTED: dict[str, Callable[[list[Record], int], list[Record]]] = {
    "dropped": lambda out, at: out[:at] + out[at + 1 :],
    "repeated": lambda out, at: [*out[:at], out[at], *out[at:]],
    "of another person": lambda out, at: [*out[:at], (*out[at][:2], b"\7" * 16), *out[at + 1 :]],
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_wrong_output_is_found_in_every_topic(run: Run, planted: str) -> None:
    places = list(_kinds(run))
    assert len(places) == len(run.expected)
    for place in places:
        found = run.problems(PLANTED[planted](list(run.out), place))
        assert any(problem.startswith(f"{run.out[place][0]}:") for problem in found), run.out[place][0]


def test_a_changed_field_is_found_in_every_topic(run: Run) -> None:
    """A birth date, name or province that differs by a letter, in a record that decodes all the same."""
    for place in _kinds(run):
        topic, value, key = run.out[place]
        changed = next(v for at in range(len(value) - 1, 4, -1) if (v := _flipped(run, topic, value, at)))
        found = run.problems([*run.out[:place], (topic, changed, key), *run.out[place + 1 :]])
        assert found, topic


def _flipped(run: Run, topic: str, value: bytes, at: int) -> bytes | None:
    """The value with one bit changed, if what can be compared changes by it and nothing else breaks."""
    changed = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
    try:
        one, other = run.decode(topic, value), run.decode(topic, changed)
    except Exception:
        return None
    return changed if one[2] != other[2] else None


def test_a_hole_in_the_sequence_numbers_is_found(our_run: Run) -> None:
    """Two deliveries in the wrong order: as a multiset they are right."""
    places = [place for place, (topic, *_) in enumerate(our_run.out) if topic.startswith("agency.tax")]
    swapped = list(our_run.out)
    swapped[places[0]], swapped[places[1]] = swapped[places[1]], swapped[places[0]]
    assert any("number" in problem for problem in our_run.problems(swapped))


def test_both_engines_owe_the_same_but_for_the_deletes(our_run: Run, streams_run: Run) -> None:
    """The same number in every topic, except that ours tells the data-quality office of every delete."""
    there, here = ([expected[t].records for t in sorted(expected)] for expected in (streams_run.expected, our_run.expected))
    more = [(a, b) for a, b in zip(there, here, strict=True) if a != b]
    assert len(more) == 1
    assert more[0][1] > more[0][0]


def test_the_workload_has_the_mix_it_says(events: list[Event], our_run: Run) -> None:
    ops = Counter(event.op for event in events)
    assert ops["c"] > ops["u"] > ops["d"] > 0.05 * len(events)
    statuses: Counter[str] = Counter()
    for topic, count in our_run.expected.items():
        if topic.startswith("verified."):
            statuses += count.status
    assert 0.9 * len(events) < statuses["MATCH"] < 0.99 * len(events)
    assert min(statuses["MISMATCH"], statuses["NOT_FOUND"]) > 0.005 * len(events)


def test_expected_counts_survive_their_file(our_run: Run) -> None:
    again = {topic: Count.of_json(count.as_json()) for topic, count in our_run.expected.items()}
    assert compare(our_run.expected, again) == []


def test_parts_of_the_reference_add_up(workload: Workload, events: list[Event], our_run: Run, settings: Settings) -> None:
    one = ours.Ours(settings, workload, 1)
    parts = [filling.expected_of(one, LOAD, [e for e in events if e.domain == domain]) for domain in workload.domains]
    assert compare(our_run.expected, reference.merged(parts)) == []


def test_the_table_says_failed_where_one_round_failed() -> None:
    right: Figures = {"engine": ours.NAME, "mode": "drain", "events_per_second": 3, "check": "ok"}
    rows = [right, right | {"check": "FAILED: x"}, right | {"engine": kafka_streams.NAME, "events_per_second": 2}]
    assert "| events/s | 2 | 3.0 (3–3) | 1.50 |" in table.table(rows)
    assert "| check, drain | ok | FAILED | |" in table.table(rows)
    assert len(table.failed(rows)) == 1
