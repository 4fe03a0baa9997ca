"""Whatever stands in an input of the engine costs that record only, and no more work and memory than is in proportion to it."""

from __future__ import annotations

import re
import tracemalloc
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from bus import telemetry
from bus.avro import frame, varint
from bus.avro.derive import AUDIT_LINE
from bus.avro.memo import KEY_BYTES as LONGEST_KEY
from bus.avro.memo import Memo
from bus.core import matching
from bus.core.agreement import Grant, GrantedField, Mask
from bus.engine import deadletter, native
from bus.engine.audit import AuditEncoder
from bus.engine.batch import Batch
from bus.engine.lanes import Lane, LaneState
from bus.engine.meter import Meter
from bus.engine.person import compile_packer
from bus.engine.plan import Record, Secrets, compile_plan
from bus.engine.policy import Policy
from bus.engine.register import Follower
from bus.engine.replica import ReplicaReader, ReplicaWriter
from tests.engine.poison import CANARY, TREE, Poison, poisons
from tests.engine.reference import Row, decode
from tests.engine.test_plan_semantics import MEMBER, PEOPLE, PIN, REGISTER, agreement, dataset
from tests.engine.worlds import AGREEMENT_SECRET, MAX_RECORD_BYTES, PERSON_SECRET, Stage

FLAT = {
    "number": "string", "pin": ["null", "string"], "name": "string", "days": "int", "salary": "long", "active": "boolean",
    "photo": "bytes", "share": "double", "note": ["null", "string"],
}  # fmt: skip
NESTED = FLAT | {
    "tags": {"type": "array", "items": "string"},
    "voids": {"type": "array", "items": "null"},
    "counts": {"type": "map", "values": "int"},
    "either": ["null", "string", "long"],
    "shade": {"type": "enum", "name": "Shade", "symbols": ["LIGHT", "DARK"]},
    "tree": TREE,
}
ROW: Row = {
    "number": "BH1", "pin": PIN, "name": CANARY, "days": 5, "salary": 70_000, "active": True, "photo": b"\xff" * 70, "share": 0.5,
    "note": "ghi chú", "tags": ["a"], "voids": [None], "counts": {"k": 1}, "either": 7, "shade": "DARK", "tree": {"below": []},
}  # fmt: skip
PERSON: Row = {"pin": PIN, "full_name": CANARY, "birth_date": "1985", "ward": "W1"}
AT_MS = 1_800_000_000_000
Produced = tuple[str, bytes | None, bytes | None, int, tuple[tuple[str, bytes], ...]]


def stage(fields: dict[str, Any]) -> Stage:
    of = dataset(MEMBER.name, fields, list(MEMBER.people))
    open_one = Grant(of.name, (GrantedField("pin"), GrantedField("name"), GrantedField("register.ward")), share_verdict=True)
    masked = Grant(of.name, (GrantedField("name", Mask.LAST4), GrantedField("note", Mask.YEAR), GrantedField("number")))
    return Stage(of, REGISTER, (agreement(open_one), agreement(masked, "stats.people")), PEOPLE)


def register_stage() -> Stage:
    granted = Grant(REGISTER.name, (GrantedField("pin"), GrantedField("ward")))
    return Stage(REGISTER, REGISTER, (agreement(granted),), PEOPLE)


STAGES = {"kernel": (stage(FLAT), ROW), "nested": (stage(NESTED), ROW), "register": (register_stage(), PERSON)}
both_rows = pytest.mark.parametrize(("on", "row"), STAGES.values(), ids=STAGES)


class Message:
    """A record as the client hands it over."""

    def __init__(self, topic: str, offset: int, value: bytes | None, key: bytes | None) -> None:
        self._topic, self._offset, self._value, self._key = topic, offset, value, key

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes | None:
        return self._key

    def timestamp(self) -> tuple[int, int]:
        return 1, AT_MS

    def error(self) -> None:
        return None


class Trial:
    """One batch on one lane, and all that it produces."""

    def __init__(self, on: Stage) -> None:
        self.topic, self.produced = on.plan.topic, list[Produced]()
        agreed = on.world.agreements
        self.policy = Policy(agreed, {self.topic: on.plan}, 77, "register")
        held = {0: Lane.of(LaneState({}, {}), tuple(a.id for a in agreed))}
        self.batch = Batch(self.policy, held, self._produce, AT_MS)
        self._person_of = on.replica.get

    def _produce(self, topic: str, value: bytes | None, key: bytes | None, lane: int, headers: Any = ()) -> None:
        self.produced.append((topic, value, key, lane, tuple(headers or ())))

    def take(self, records: list[tuple[bytes | None, bytes | None]]) -> list[Produced]:
        self.batch.take([Message(self.topic, n, *record) for n, record in enumerate(records)], self._person_of)
        return self.produced

    def audit(self) -> Row:
        """The lane's line."""
        self.batch.close(AuditEncoder("w", 77))
        (line,) = (value for topic, value, *_ in self.produced if topic == "bus.audit")
        assert line
        found: Row = decode(AUDIT_LINE, line[5:])
        return found


def interleaved(on: Stage, row: Row, bad: list[Poison]) -> tuple[list[tuple[bytes | None, bytes | None]], list[int]]:
    """A good event before and behind each poisoned record, each with an id of its own; and where the poisoned ones are."""
    value, key = on.change("c", None, row)
    records: list[tuple[bytes | None, bytes | None]] = []
    for number, poison in enumerate(bad):
        records += [(value[:5] + number.to_bytes(16, "big") + value[21:], key), (poison.value, poison.key)]
    records.append((value[:5] + len(bad).to_bytes(16, "big") + value[21:], key))
    return records, list(range(1, len(records), 2))


@both_rows
def test_each_poisoned_record_is_a_dead_letter_and_its_neighbours_are_delivered_exactly(on: Stage, row: Row) -> None:
    """By kernel and Python alike, with the same code (`worlds.both`). Nothing of a person gets into headers or metrics."""
    bad = list(poisons(on, row))
    records, places = interleaved(on, row, bad)
    trial = Trial(on)
    produced = list(trial.take(records))
    dead = f"dead.{on.plan.dataset}"
    assert [p for p in produced if p[0] != dead] == Trial(on).take(records[::2])
    for poison, place, letter in zip(bad, places, [p for p in produced if p[0] == dead], strict=True):
        headers = {
            "x-original-topic": on.plan.topic.encode(), "x-original-partition": b"0",
            "x-original-offset": b"%d" % place, "x-dead-code": poison.code.value.encode(),
            "kafka_dlt-original-topic": on.plan.topic.encode(), "kafka_dlt-original-partition": bytes(4),
            "kafka_dlt-original-offset": place.to_bytes(8, "big"), "kafka_dlt-original-timestamp": AT_MS.to_bytes(8, "big"),
        }  # fmt: skip
        assert letter == (dead, poison.value, poison.key, 0, tuple(headers.items())), poison.what
    (spans,) = trial.audit()["inputs"]
    assert (spans["events"], spans["dead"], spans["next_offset"]) == (len(records), len(bad), len(records))
    Meter(lambda: AT_MS).committed(trial.batch, 0.0)
    assert CANARY.encode() not in generate_latest(telemetry._registry)


@both_rows
def test_a_record_of_the_greatest_length_is_an_event_and_one_byte_more_is_not(on: Stage, row: Row) -> None:
    name = next(n for n in ("name", "full_name") if n in row)
    value, key = on.change("c", None, row | {name: ""})
    room = MAX_RECORD_BYTES - len(value) - 2  # a length of three bytes instead of one
    for more, delivered in ((0, True), (1, False)):
        value, key = on.change("c", None, row | {name: "x" * (room + more)})
        assert len(value) == MAX_RECORD_BYTES + more
        trial = Trial(on)
        trial.take([(value, key)])
        assert (f"verified.{on.plan.dataset}" in [p[0] for p in trial.produced]) == delivered


def test_a_record_that_is_too_long_for_a_dead_letter_is_told_of_without_its_bytes() -> None:
    """As it can be where the topic has it compressed. To fail on it would be to fail on it for ever."""
    on, _ = STAGES["kernel"]
    most = deadletter.MAX_BYTES
    good = b"k" * 16
    for value, key, carried in ((bytes(most - 16), good, True), (bytes(most - 15), good, False), (b"", bytes(most + 1), False)):
        (letter,) = Trial(on).take([(value, key)])
        assert letter[1:3] == ((value, key) if carried else (None, None))
        assert dict(letter[4])["x-original-offset"] == b"0"


# -- the register's process


def follower(home: Path, on: Stage) -> Follower:
    """On a replica of its own, and with a client that has nothing to say."""
    consumer: Any = SimpleNamespace(assign=lambda _: None, close=lambda: None)
    watch: Any = SimpleNamespace(streaming=lambda: False, close=lambda: None)
    pack = compile_packer(REGISTER, on.change_id, MAX_RECORD_BYTES, PERSON_SECRET)
    return Follower(consumer, watch, ReplicaWriter(home, b"i", 1 << 26), pack, REGISTER.topic, 1)


def test_a_poisoned_record_of_the_register_leaves_everybody_as_known(tmp_path: Path) -> None:
    """But the bare key of a person, which is how a compacted topic says that they are gone."""
    on, _ = STAGES["register"]
    good, key = on.change("c", None, PERSON)
    other = on.world.person_key("079188000045")
    bad = [p for p in poisons(on, PERSON | {"ward": "W2"}) if p.value is not None]
    strange, _ = on.change("c", None, PERSON | {"pin": "079188000045"})
    gone, _ = on.change("d", PERSON | {"pin": "123456789"}, None)
    bad += [Poison("somebody else's", value, key) for value in (strange, gone)]
    bad += [Poison("no value either", None, odd) for odd in (None, b"", b"short", b"k" * 600)]
    records = [(good, key), (strange, other), *((p.value, p.key) for p in bad), (None, other)]
    following = follower(tmp_path, on)
    messages = [Message(REGISTER.topic, n, *record) for n, record in enumerate(records)]
    following._take(messages[:100])
    following._take(messages[100:])
    assert following._writer.people() == 1
    assert following._writer.offsets() == {0: len(records)}
    following._writer.set_ready(True)
    following.close()
    reader = ReplicaReader(tmp_path)
    assert reader.ready()
    with reader.view() as get:
        assert get(key) == compile_packer(REGISTER)(good, 0)
    reader.close()


# -- what it costs


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("fields", [FLAT, NESTED], ids=["flat", "nested"])
def test_memory_for_a_record_is_in_proportion_to_its_length(fields: dict[str, Any], kernel: bool) -> None:
    """Whatever counts and lengths it claims. Without end the ten bytes of 2^60 nulls would be as many objects."""
    if kernel and not native.available():
        pytest.skip("no kernel here")
    on = stage(fields)
    secrets = Secrets(PERSON_SECRET, AGREEMENT_SECRET)
    plan = compile_plan(on.world.dataset, REGISTER, on.world.agreements, on.catalogue, secrets, 10**6, kernel=kernel)
    large = on.change("c", None, ROW | {"name": "ễ" * 100_000, "note": "x" * 100_000})
    for value, key in (large, *((p.value, p.key) for p in poisons(on, ROW))):
        out: list[Record] = []
        tracemalloc.start()
        try:
            plan.handle(value, cast(bytes, key), on.replica.get, [0, 0], [True, True], out)
        except frame.Malformed:
            assert out == []
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 20 * len(value or b"") + 20_000


def test_marks_without_end_are_never_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's normal forms take the square of the marks in a row: a name of a megabyte would hold a worker for minutes."""
    longest = 0

    def noting(form: Any, text: str) -> str:
        nonlocal longest
        longest = max(longest, *(len(m[0]) for m in re.finditer("[\u0300-\u036f]*", text)))
        return unicodedata.normalize(form, text)

    monkeypatch.setattr(matching, "unicodedata", SimpleNamespace(normalize=noting, combining=unicodedata.combining))
    for unit in ("\u0301\u0323", "a\u0301\u0323", "\u0344", "ễ", "x", "a" + "\u0301\u0323" * 14, "a" + "\u0301\u0323" * 16):
        long, other = (first + unit * (20_000 // len(unit)) for first in "ab")
        for same in matching.COMPARE.values():
            assert same(long, long)
            assert not same(long, other)
    assert 28 <= longest <= matching._SHORT


@pytest.mark.parametrize("text", ["Nguyễn Thị Hoà", "Lê " * 200, "ử" * 500])
def test_texts_of_any_language_are_still_compared_in_normal_form(text: str) -> None:
    assert matching.same_name(text, unicodedata.normalize("NFD", text).upper())
    assert matching.same_text(text, unicodedata.normalize("NFD", text))


def test_what_is_remembered_is_short_and_few() -> None:
    """Else records with a long text each would fill the memory, and stay there."""
    made: list[Any] = []

    def make(key: Any) -> int:
        made.append(key)
        return len(made)

    memo = Memo[Any, int](make, 3)
    for key in (b"k" * LONGEST_KEY, (b"k", b"k" * (LONGEST_KEY - 1)), 2**60):
        assert memo[key] == memo[key]
    for key in (b"k" * (LONGEST_KEY + 1), (b"k", b"k" * LONGEST_KEY)):
        assert memo[key] != memo[key]
    assert len(memo) == 3
    for number in range(10):
        assert memo[number]
    assert len(memo) <= 3
    assert varint.encode(0) not in memo
