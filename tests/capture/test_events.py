"""Laws of keys, event ids, ordinals and the position record, without a database."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.avro import derive
from bus.avro.dataset import Dataset, Role
from bus.core import identity
from bus.core.outcome import DeadCode
from bus.core.position import Position, event_id
from connectors.capture import encode, progress
from connectors.capture.errors import Refusal
from connectors.capture.events import CREATE, DELETE, MAX_VALUE_BYTES, READ, Events, Keys, Target
from connectors.capture.progress import Progress, Segment, Streamed
from tests.capture.lab import field, schema

SECRET = bytes(range(32))
ROW = schema("t", ["id"], [field("id", "long"), field("pin", ["null", "string"])])
DATASET = Dataset("civil.t", "civil", "t", ROW, ("id",), (Role("subject", "pin", {}),), False)
SCHEMA: Any = fastavro.parse_schema(derive.change(DATASET))

Key = tuple[int, str | None]
"""(number, PIN) of a row."""
Change = tuple[Key, Key | None]

u63 = st.integers(0, 2**63 - 1)
lsns = st.integers(1, 2**63 - 1)


class Records:
    """What Events produced."""

    def __init__(self, system_id: int = 7) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.dead: list[tuple[DeadCode, bytes, str]] = []
        self.events = Events("civil", system_id, Keys(SECRET), lambda *record: self.sent.append(record), self._dead)
        self.target = Target(DATASET, b"\0\0\0\0\1", system_id, "public")

    def _dead(self, _: Dataset, code: DeadCode, __: bytes, value: bytes, position: str) -> None:
        self.dead.append((code, value, position))

    def decoded(self) -> list[dict[str, Any]]:
        return [fastavro.schemaless_reader(io.BytesIO(value[5:]), SCHEMA, None) for _, value, _ in self.sent]  # type: ignore[misc]


def _row(number: int, pin: str | None) -> tuple[bytes, bytes, bytes]:
    body = encode.long(number) + (encode.NULL if pin is None else encode.PRESENT + encode.text(pin))
    return body, (pin or "").encode(), encode.long(number)


@given(pin=st.binary(min_size=1), key=st.binary())
def test_keys_are_the_cores_keys(pin: bytes, key: bytes) -> None:
    assert Keys(SECRET).of("civil.t", pin, key) == identity.person_key(SECRET, pin)
    assert Keys(SECRET).of("civil.t", b"", key) == identity.row_key(SECRET, "civil.t", key)


@given(system=u63, lsn=lsns, xid=st.integers(1, 2**32 - 1), ts=u63, count=st.integers(1, 5))
def test_envelope_says_the_position_and_the_id_follows_from_it(system: int, lsn: int, xid: int, ts: int, count: int) -> None:
    records = Records(system)
    records.events.transaction(lsn, xid, ts, 5, None)
    for number in range(count):
        records.events.row(records.target, CREATE, *_row(number, "012345678901"))
    for ordinal, event in enumerate(records.decoded()):
        assert event["event_id"] == event_id("civil", Position(system, lsn, xid, ordinal))
        place = {"system_id": system, "lsn": lsn, "xid": xid, "ordinal": ordinal, "ts_ms": ts, "snapshot": False}
        assert event["source"] == {"db": "civil", "schema": "public", "table": "t", **place}
        assert (event["op"], event["before"], event["after"]) == ("c", None, {"id": ordinal, "pin": "012345678901"})
        assert event["ts_ms"] == 5


def test_an_update_of_pin_or_primary_key_is_a_delete_and_a_create_and_nothing_else_is() -> None:
    cases = {
        ("same PIN", (1, "a"), (1, "a")): "u",
        ("same PIN, other row key", (1, "a"), (2, "a")): "dc",
        ("other PIN, other row key", (1, "a"), (2, "b")): "dc",
        ("other PIN", (1, "a"), (1, "b")): "dc",
        ("PIN appears", (1, None), (1, "b")): "dc",
        ("PIN goes", (1, "a"), (1, None)): "dc",
        ("no PIN, same row key", (1, None), (1, None)): "u",
        ("no PIN, empty PIN", (1, None), (1, "")): "u",
        ("no PIN, other row key", (1, None), (2, None)): "dc",
    }
    for (name, old, new), ops in cases.items():
        records = Records()
        records.events.transaction(9, 9, 0, 0, None)
        records.events.update(records.target, _row(*old), _row(*new))
        found = records.decoded()
        assert "".join(e["op"] for e in found) == ops, name
        assert [e["source"]["ordinal"] for e in found] == list(range(len(ops))), name
        keys = [Keys(SECRET).of("civil.t", *_row(*row)[1:]) for row in (old, new)]
        assert [key for _, _, key in records.sent] == (keys if ops == "dc" else keys[:1]), name


rows = st.tuples(st.integers(1, 4), st.sampled_from([None, "", "a", "b"]))


@given(changes=st.lists(st.tuples(rows, st.none() | rows), max_size=30), people=st.booleans())
def test_after_any_updates_no_row_key_is_left_that_has_no_row(changes: list[Change], people: bool) -> None:
    """Who knows rows by their key only has what the table has. `changes`: write the row, or give its number to another."""
    records, table, known = Records(), dict[int, str | None](), dict[int, str | None]()
    for number, (old, new) in enumerate(changes):
        records.events.transaction(number + 1, number + 1, 0, 0, None)
        _write(records, table, old if people else (old[0], None), new if people or new is None else (new[0], None))
    for event in records.decoded():
        if event["op"] == "d":
            del known[event["before"]["id"]]
        else:
            assert (event["op"] == "c") == (event["after"]["id"] not in known), "told of a row that is there, or of none"
            known[event["after"]["id"]] = event["after"]["pin"]
    assert known == table
    for before, after in pairwise(records.decoded()):
        if before["source"]["xid"] == after["source"]["xid"]:
            assert (before["op"], after["op"]) == ("d", "c")
            assert after["source"]["ordinal"] == before["source"]["ordinal"] + 1


def _write(records: Records, table: dict[int, str | None], old: Key, new: Key | None) -> None:
    """Insert `old`, or where its number is there, update that row to `new` (whose number must be free), or delete it."""
    number, pin = old
    was = (number, table[number]) if number in table else None
    if was is None:
        records.events.row(records.target, CREATE, *_row(number, pin))
        table[number] = pin
    elif new is None:
        records.events.row(records.target, DELETE, *_row(*was))
        del table[number]
    elif new[0] == number or new[0] not in table:
        records.events.update(records.target, _row(*was), _row(*new))
        del table[number]
        table[new[0]] = new[1]


@given(per_transaction=st.lists(st.integers(0, 4), min_size=1, max_size=6), stop=st.integers(0, 30))
def test_reading_the_log_again_sends_exactly_what_is_missing(per_transaction: list[int], stop: int) -> None:
    """Whatever event the last commit ended with, a second reading continues behind it, with the same ids."""

    def read(records: Records, published: Streamed | None, limit: int) -> Streamed | None:
        for number, count in enumerate(per_transaction):
            records.events.transaction(100 + number, 10 + number, 0, 0, published)
            for row in range(count):
                if len(records.sent) < limit:
                    records.events.row(records.target, DELETE, *_row(row, None))
        return records.events.streamed()

    whole, first, second = Records(), Records(), Records()
    read(whole, None, 1000)
    read(second, read(first, None, stop), 1000)
    assert [value for _, value, _ in first.sent + second.sent] == [value for _, value, _ in whole.sent]


def test_an_event_too_large_for_the_topics_is_a_dead_letter_with_its_position_only() -> None:
    records = Records()
    records.events.transaction(0x1_0000_0002, 3, 0, 0, None)
    records.events.row(records.target, CREATE, b"x" * (MAX_VALUE_BYTES + 1), b"", b"k")
    assert records.sent == []
    assert records.dead == [(DeadCode.TOO_LARGE, b"1/2:3:0", "1/2:3:0")]


def test_snapshot_ordinals_run_on_over_runs() -> None:
    records = Records()
    for rows in (0, 2):
        records.events.snapshot(50, 1, rows)
        for number in range(2):
            records.events.row(records.target, READ, *_row(number, None))
    assert [(e["op"], e["source"]["xid"], e["source"]["ordinal"], e["source"]["snapshot"]) for e in records.decoded()] == [
        ("r", 0, n, True) for n in range(4)
    ]
    assert records.events.streamed() is None, "snapshot rows are no place in the stream"


keys = st.none() | st.lists(st.text(max_size=20), min_size=1, max_size=3).map(tuple)
progresses = st.builds(
    Progress,
    u63,
    st.integers(1, 100),
    st.none() | st.builds(Streamed, u63, st.integers(1, 2**32 - 1), st.integers(0, 2**31 - 1)),
    st.none() | u63,
    st.integers(0, 2**31 - 1),
    st.dictionaries(
        st.text("abc", min_size=1), st.lists(st.builds(Segment, keys, u63), min_size=1, max_size=3).map(tuple), max_size=3
    ),
)


@given(progresses)
def test_the_position_record_survives_its_json(found: Progress) -> None:
    assert progress.from_json(progress.to_json(found, SECRET, lambda n: b"n" * n), SECRET) == found


def test_the_position_record_shows_no_key_of_a_row() -> None:
    """The register's primary key is a PIN."""
    found = Progress(1, 1, tables={"person": (Segment(("012345678901",), 5),)})
    first, second = progress.to_json(found, SECRET, lambda n: b"1" * n), progress.to_json(found, SECRET, lambda n: b"2" * n)
    assert b"012345678901" not in first + second
    assert first != second, "sealed twice, it does not look the same"


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"format":2}', b'{"format":1,"system_id":"x"}'])
def test_an_unreadable_position_record_is_refused(value: bytes) -> None:
    with pytest.raises(Refusal):
        progress.from_json(value, SECRET)


def test_segments_are_forgotten_only_when_the_stream_has_passed_them_all() -> None:
    tables = {"a": (Segment(("1",), 10), Segment(None, 20)), "b": (Segment(None, 30),)}
    before = Progress(1, 1, Streamed(29, 1, 0), 0, 0, tables)
    assert before.settled() == before
    after = Progress(1, 1, Streamed(30, 1, 0), 0, 0, tables).settled()
    assert after.tables == {"a": (Segment(None, 20),), "b": (Segment(None, 30),)}
    assert after.floor() == 30
