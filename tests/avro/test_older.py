"""A value under an earlier schema of its topic becomes the same value under today's, or is refused; it never becomes another."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro import frame
from bus.avro.catalogue import Catalogue, Entry
from bus.avro.frame import Malformed
from bus.avro.older import compile_older
from bus.core.outcome import DeadCode
from tests.avro.random_schemas import encode, records, values

SUBJECT, OTHER = "change.a.b-value", "change.a.c-value"
OLD, TODAY, FOREIGN = 1, 2, 3
DATE = {"type": "int", "logicalType": "date"}
MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}


def row(*fields: tuple[str, Any]) -> dict[str, Any]:
    made = [{"name": name, "type": kind} | ({"default": None} if isinstance(kind, list) else {}) for name, kind in fields]
    return {"type": "record", "name": "Row", "fields": made}


def catalogue(old: Any, today: Any) -> Catalogue:
    found = Catalogue()
    found.add(Entry(SUBJECT, 1, OLD, json.dumps(old)))
    if json.dumps(old) != json.dumps(today):
        found.add(Entry(SUBJECT, 2, TODAY, json.dumps(today)))
    found.add(Entry(OTHER, 1, FOREIGN, json.dumps({"type": "record", "name": "Other", "fields": []})))
    return found


def resolved(old: Any, today: Any, value: bytes, number: int = OLD) -> bytes:
    return compile_older(SUBJECT, today, TODAY, catalogue(old, today))(frame.header(number) + value)


def refusal(old: Any, today: Any, value: bytes, number: int = OLD) -> DeadCode:
    with pytest.raises(Malformed) as caught:
        resolved(old, today, value, number)
    return caught.value.code


@st.composite
def changes(draw: st.DrawFn) -> tuple[Any, Any]:
    """A schema, and one that came of it by changes that Avro resolves: fields that are new, gone, wider, or in another order."""
    old = draw(records())
    today = copy.deepcopy(old)
    fields = today["fields"]
    for field in fields:
        if field["type"] == "int" and draw(st.booleans()):
            field["type"] = draw(st.sampled_from(["long", "double", ["null", "int"]]))
        elif field["type"] == "string" and draw(st.booleans()):
            field["type"] = ["null", "string"]
    if len(fields) > 1 and draw(st.booleans()):
        del fields[draw(st.integers(0, len(fields) - 1))]
    if draw(st.booleans()):
        fields.append({"name": "fresh", "type": ["null", "string"], "default": None})
    if draw(st.booleans()):
        fields.insert(0, {"name": "numbered", "type": "long", "default": 7})
    if _names_stand(today):
        return old, today
    return old, old


def _names_stand(schema: Any) -> bool:
    """Whether each name is still defined before it is used."""
    try:
        fastavro.parse_schema(copy.deepcopy(schema))
    except Exception:
        return False
    return True


@given(st.data())
@settings(max_examples=150)
def test_it_is_what_avro_resolves_it_to(data: st.DataObject) -> None:
    old, today = data.draw(changes())
    value = encode(old, data.draw(values(old)))
    if json.dumps(old) == json.dumps(today):
        return
    writer, reader = (fastavro.parse_schema(copy.deepcopy(schema)) for schema in (old, today))
    expected = fastavro.schemaless_reader(io.BytesIO(value), writer, reader)
    found = resolved(old, today, value)
    assert found[:5] == frame.header(TODAY)
    rest = io.BytesIO(found[5:])
    assert _told(fastavro.schemaless_reader(rest, reader, None)) == _told(expected)
    assert rest.read() == b""


def _told(value: Any) -> str:
    """Equal for equal values, NaN among them."""
    if isinstance(value, dict):
        return str(sorted((name, _told(one)) for name, one in value.items()))
    return str([_told(one) for one in value]) if isinstance(value, list) else repr(value)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (DATE, "int"),
        ("int", DATE),
        (DATE, {"type": "int", "logicalType": "time-millis"}),
        (MONEY, MONEY | {"scale": 3}),
        (["null", MONEY], ["null", MONEY | {"precision": 12}]),
        ({"type": "long", "logicalType": "timestamp-micros"}, {"type": "long", "logicalType": "local-timestamp-micros"}),
        ({"type": "array", "items": DATE}, {"type": "array", "items": "int"}),
        (row(("inner", DATE)) | {"name": "Inner"}, row(("inner", "int")) | {"name": "Inner"}),
    ],
    ids=str,
)
def test_bytes_that_would_mean_something_else_are_refused(was: Any, now: Any) -> None:
    old, today = row(("a", was)), row(("a", now))
    assert refusal(old, today, encode(old, {"a": _example(was)})) is DeadCode.OLD_SCHEMA


@pytest.mark.parametrize(("was", "now"), [(MONEY, MONEY | {"scale": 3}), (DATE, "int"), ("int", DATE)], ids=str)
def test_a_renamed_field_is_held_to_its_meaning_too(was: Any, now: Any) -> None:
    """Avro finds it by its alias: 5.00 must not come out as 0.500."""
    old = row(("a", was))
    assert refusal(old, renamed(now), encode(old, {"a": _example(was)})) is DeadCode.OLD_SCHEMA
    value = encode(old, {"a": _example(was)})
    assert resolved(old, renamed(was), value)[5:] == value


def renamed(kind: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Row", "fields": [{"name": "b", "type": kind, "aliases": ["a"]}]}


def test_a_union_in_which_another_meaning_comes_first_is_refused() -> None:
    old, today = row(("a", "int")), row(("a", ["null", DATE, "long"]))
    assert refusal(old, today, encode(old, {"a": 2})) is DeadCode.OLD_SCHEMA


@pytest.mark.parametrize(
    "text", ["syntax = 3;", "[" * 5_000, "7", '{"name": "Row"}', '{"type": "record", "name": "R", "fields": 7}']
)
def test_a_text_that_is_no_avro_schema_resolves_nothing_and_stops_nobody(text: str) -> None:
    """Other registries keep other things than Avro under a subject, and whoever may write there may write anything."""
    today, found = row(("a", "int")), Catalogue()
    found._subjects[SUBJECT] = {1: Entry(SUBJECT, 1, OLD, text)}
    with pytest.raises(Malformed) as caught:
        compile_older(SUBJECT, today, TODAY, found)(frame.header(OLD) + b"\2")
    assert caught.value.code is DeadCode.OLD_SCHEMA


def _example(kind: Any) -> Any:
    if isinstance(kind, list):
        return None
    examples = {"int": 1, "long": 1, "bytes": b"\1", "array": [], "record": {"inner": 1}}
    return examples[kind["type"] if isinstance(kind, dict) else kind]


def test_a_logical_type_that_stays_is_taken_over_byte_by_byte() -> None:
    old = row(("a", DATE), ("b", ["null", MONEY]), ("gone", "string"))
    today = row(("b", ["null", MONEY]), ("a", DATE), ("fresh", ["null", "string"]))
    plain = row(("a", "int"), ("b", ["null", "bytes"]), ("gone", "string"))
    far = encode(plain, {"a": 2_147_483_647, "b": b"\xff" * 12, "gone": "x"})  # no date and no number of this precision
    assert resolved(old, today, far)[5:] == b"\2" + encode("bytes", b"\xff" * 12) + encode("int", 2_147_483_647) + b"\0"


def test_what_no_rule_of_avro_resolves_is_refused() -> None:
    old = row(("a", "string"))
    assert refusal(old, row(("a", "int")), encode(old, {"a": "x"})) is DeadCode.OLD_SCHEMA
    assert refusal(old, row(("b", "int")), encode(old, {"a": "x"})) is DeadCode.OLD_SCHEMA
    wider = row(("a", ["null", "string"]))
    assert refusal(wider, old, encode(wider, {"a": None})) is DeadCode.OLD_SCHEMA
    assert resolved(wider, old, encode(wider, {"a": "x"}))[5:] == encode("string", "x")


def test_an_id_that_is_registered_for_another_subject_or_for_none_is_unknown() -> None:
    old, today = row(("a", "int")), row(("a", "long"))
    value = encode(old, {"a": 1})
    for number in (FOREIGN, 99):
        assert refusal(old, today, value, number) is DeadCode.UNKNOWN_SCHEMA


@given(st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_value_of_the_old_schema_are_malformed(noise: bytes) -> None:
    """A text whose length says more than there is."""
    old, today = row(("a", "string")), row(("a", "string"), ("b", ["null", "int"]))
    value = encode("long", len(noise) + 1) + noise
    assert refusal(old, today, value) is DeadCode.MALFORMED


def test_a_truncated_or_longer_value_is_malformed() -> None:
    old, today = row(("a", "string")), row(("a", "string"), ("b", ["null", "int"]))
    value = encode(old, {"a": "name"})
    for bad in (value[:-1], value + b"\0", b""):
        assert refusal(old, today, bad) is DeadCode.MALFORMED
