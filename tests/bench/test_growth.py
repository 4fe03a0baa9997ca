"""The growth measurement's people, records and check: what is measured is what is said, and no wrong output passes."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.avro import dataset
from bus.bench import growth, ours, population
from bus.bench.events import Encoder
from bus.bench.growth import AGREEMENTS, BASE_BYTES, RECORD, Case, Order, Scene
from bus.bench.workload import BASE_MS, PIN, Workload
from bus.config import ConfigError
from bus.core.identity import person_key
from bus.engine import native
from bus.engine.person import compile_packer
from bus.engine.replica import ReplicaReader

PEOPLE = 300
ENGINES = [pytest.param(True, marks=pytest.mark.skipif(not native.available(), reason="no compiler")), False]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with growth._home(Order((PEOPLE,), (1,), (BASE_BYTES,), 10, 1, 5), PEOPLE, lambda _: None) as made:
        yield made


@pytest.fixture
def reader(home: Path) -> Iterator[ReplicaReader]:
    found = ReplicaReader(home)
    assert found.ready()
    yield found
    found.close()


def test_everybody_is_in_the_replica_as_the_general_encoder_and_packer_have_them(home: Path, reader: ReplicaReader) -> None:
    register = dataset.register_of(dataset.load(home / "schemas"))
    someone, secret = Workload(PEOPLE, 5).someone(), (home / "secrets" / "person-key").read_bytes()
    encoder, pack = Encoder(register, 1), compile_packer(register)
    with reader.view() as get:
        for number in range(PEOPLE):
            row = someone(number)
            wanted = pack(encoder.encode(number, "r", None, row, BASE_MS), number)
            assert get(person_key(secret, row[PIN].encode())) == wanted


def test_people_are_made_in_the_order_of_their_keys_each_once(tmp_path: Path) -> None:
    ours.write_register(Workload(1, 5), tmp_path)
    order = population.Order(tmp_path, tmp_path, 2_000, 5, b"s" * 32, 1, b"i")
    numbers = list(population.numbers_by_key(order))
    assert sorted(numbers) == list(range(2_000))
    keys = [key for key, _ in population.pack(order, array("I", numbers))]
    assert keys == sorted(set(keys))


def test_ten_million_people_have_pins_of_their_own() -> None:
    workload = Workload(1, 5)
    numbers = [*range(3_000), *range(0, 10_000_000, 3_331), 9_999_999]
    pins = {workload.pin(number) for number in numbers}
    assert len(pins) == len(set(numbers))
    assert {len(pin) for pin in pins} == {12}


def test_too_little_disk_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GB of disk are needed"):
        population.fill(population.Order(tmp_path, tmp_path, 10**12, 5, b"s" * 32, 1, b"i"), lambda _: None)


@pytest.mark.parametrize("kernel", ENGINES)
@pytest.mark.parametrize("codes", [1, 10])
def test_of_many_agreements_each_gets_what_its_filter_admits(home: Path, reader: ReplicaReader, kernel: bool, codes: int) -> None:
    case = Case(AGREEMENTS, f"test {kernel} {codes}", 7, agreements=7, codes=codes)
    scene = Scene(home, case, PEOPLE, 5)
    events = scene.events(200)
    plan = scene.plan(kernel)
    assert scene.checked(plan, reader, events)
    assert growth.round_us(plan, 7, reader, events.records) > 0


@pytest.mark.parametrize("size", [200, 2_000, 20_000])
def test_an_event_is_about_as_large_as_it_is_said_to_be(home: Path, size: int) -> None:
    scene = Scene(home, Case(RECORD, f"test {size}", size, size_bytes=size), PEOPLE, 5)
    sizes = [len(value) for value, _ in scene.events(50).records]
    assert size * 0.9 < sum(sizes) / len(sizes) < size * 1.1


@pytest.mark.parametrize("granted", [True, False])
def test_the_long_text_goes_out_where_it_is_granted_only(home: Path, reader: ReplicaReader, granted: bool) -> None:
    scene = Scene(home, Case(RECORD, f"test {granted}", 2_000, size_bytes=2_000, text_granted=granted), PEOPLE, 5)
    plan, out = scene.plan(False), list[Any]()
    with reader.view() as get:
        for value, key in scene.events(5).records:
            plan.handle(value, key, get, [0], [True], out)
    delivered = [value for topic, value, _ in out if topic.startswith("agency.")]
    assert len(delivered) == 5
    assert all((b"xxxxxxxx" in value) == granted for value in delivered)


def _losing(out: list[Any]) -> None:
    out.pop()


def _repeating(out: list[Any]) -> None:
    out.append(out[-1])


def _astray(out: list[Any]) -> None:
    _, value, key = out[0]
    out[0] = "agency.other.growth", value, key


@pytest.mark.parametrize("wrong", [_losing, _repeating, _astray])
def test_no_wrong_output_passes_the_check(home: Path, reader: ReplicaReader, wrong: Any) -> None:
    scene = Scene(home, Case(AGREEMENTS, f"test {wrong.__name__}", 2, agreements=2), PEOPLE, 5)
    plan, events, calls = scene.plan(False), scene.events(50), 0

    def handle(value: Any, key: Any, get: Any, seqs: Any, force: Any, out: Any) -> Any:
        nonlocal calls
        calls += 1
        tally = plan.handle(value, key, get, seqs, force, out)
        if calls == 20:
            wrong(out)
        return tally

    scene.checked(plan, reader, events)
    with pytest.raises(RuntimeError, match="outputs, which are not those"):
        scene.checked(dataclasses.replace(plan, handle=handle), reader, events)


def test_somebody_whom_the_register_does_not_know_is_noticed(home: Path, reader: ReplicaReader) -> None:
    scene = Scene(home, Case(AGREEMENTS, "test unknown", 1), PEOPLE * 2, 5)
    with pytest.raises(RuntimeError, match="NOT_FOUND"):
        scene.checked(scene.plan(False), reader, scene.events(100))
