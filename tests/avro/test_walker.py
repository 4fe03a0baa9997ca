"""A walker accepts exactly the canonical encodings of its schema, and finds each field where the encoder put it."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import time
from types import FrameType
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro import varint
from bus.avro.emitter import MAX_DEPTH, MAX_EMPTY_ITEMS
from bus.avro.frame import Malformed
from bus.avro.walker import compile_walker, walk_source
from tests.avro.random_schemas import encode, records, values

LONG = st.integers(-(2**63), 2**63 - 1)


@given(st.data())
def test_each_field_is_found_where_it_stands(data: st.DataObject) -> None:
    schema = data.draw(records())
    value = data.draw(values(schema))
    raw = encode(schema, value)
    found = compile_walker(schema, [f["name"] for f in schema["fields"]])(raw)
    end = 0
    for field in schema["fields"]:
        span = found[field["name"]]
        assert span is not None
        assert span[0] == end, "fields lie side by side"
        end = span[1]
        assert raw[span[0] : end] == encode(field["type"], value[field["name"]])
    assert end == len(raw)


@given(st.data())
def test_fields_within_a_nullable_record_are_found_or_absent(data: st.DataObject) -> None:
    inner = data.draw(records())
    schema = {
        "type": "record",
        "name": "Envelope",
        "fields": [{"name": "row", "type": ["null", inner]}, {"name": "n", "type": "long"}],
    }
    value = data.draw(st.one_of(st.none(), values(inner)))
    raw = encode(schema, {"row": None if value is None else (inner["name"], value), "n": 7})
    found = compile_walker(schema, [f"row.{f['name']}" for f in inner["fields"]] + ["row"])(raw)
    assert found["row"] == (0, len(raw) - 1)
    for field in inner["fields"]:
        span = found[f"row.{field['name']}"]
        if value is None:
            assert span is None
        else:
            assert span is not None
            assert raw[span[0] : span[1]] == encode(field["type"], value[field["name"]])


@given(st.data())
def test_every_truncation_and_every_trailing_byte_is_malformed(data: st.DataObject) -> None:
    schema = data.draw(records())
    raw = encode(schema, data.draw(values(schema)))
    walk = compile_walker(schema, [f["name"] for f in schema["fields"]])
    for length in range(max(0, len(raw) - 200), len(raw)):
        with pytest.raises(Malformed):
            walk(raw[:length])
    for tail in (b"\0", b"\2", b"\xff"):
        with pytest.raises(Malformed):
            walk(raw + tail)


@given(st.data())
def test_corrupted_bytes_are_malformed_or_readable_to_the_last_byte(data: st.DataObject) -> None:
    """What is accepted must be readable for every Avro reader downstream, or one record would stop them all."""
    schema = data.draw(records())
    raw = bytearray(encode(schema, data.draw(values(schema))))
    if not raw:
        return
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    walk = compile_walker(schema, [f["name"] for f in schema["fields"]])
    try:
        walk(bytes(raw))
    except Malformed:
        return
    stream = io.BytesIO(bytes(raw))
    fastavro.schemaless_reader(stream, fastavro.parse_schema(schema), None)
    assert stream.read() == b""


@given(st.data(), st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: st.DataObject, raw: bytes) -> None:
    schema = data.draw(records())
    with contextlib.suppress(Malformed):
        compile_walker(schema, [f["name"] for f in schema["fields"]])(raw)


@given(LONG)
def test_integers_go_there_and_back(value: int) -> None:
    raw = varint.encode(value)
    assert varint.decode(raw) == (value, len(raw))
    assert raw == encode("long", value)
    assert compile_walker("long", [""])(raw)[""] == (0, len(raw))


@given(LONG, st.integers(1, 11))
def test_overlong_integers_are_refused(value: int, extra: int) -> None:
    raw = bytearray(varint.encode(value))
    raw[-1] |= 128
    raw += b"\x80" * (extra - 1) + b"\0"
    for schema in ("long", "int"):
        with pytest.raises(Malformed):
            compile_walker(schema, [])(bytes(raw))
    with pytest.raises(Malformed):
        varint.decode(bytes(raw))


@given(LONG)
def test_an_int_has_32_bits(value: int) -> None:
    walk = compile_walker("int", [])
    raw = varint.encode(value)
    if -(2**31) <= value < 2**31:
        walk(raw)
    else:
        with pytest.raises(Malformed):
            walk(raw)


@pytest.mark.parametrize(
    ("schema", "raw"),
    [
        ("string", varint.encode(-1)),
        ("string", varint.encode(-200) + b"x" * 200),
        ("string", b"\x02\xff"),
        ("string", varint.encode(70) + b"\xc3" * 70),
        ("string", varint.encode(2**62)),
        ("bytes", varint.encode(-(2**63))),
        ("boolean", b"\2"),
        ("boolean", b"\x80"),
        (["null", "string"], b"\4"),
        (["null", "string"], b"\1"),
        (["null", "string"], b"\x80\0"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\4"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\1"),
        ({"type": "enum", "name": "E", "symbols": [f"S{i}" for i in range(100)]}, varint.encode(100)),
        ({"type": "enum", "name": "E", "symbols": [f"S{i}" for i in range(100)]}, varint.encode(-1)),
        ({"type": "fixed", "name": "F", "size": 3}, b"ab"),
        ("double", b"1234567"),
        ("long", b"\xff" * 9 + b"\2"),
        ("long", b"\xff" * 11),
        ({"type": "array", "items": "int"}, varint.encode(3) + b"\0\0\0"),
        ({"type": "array", "items": "int"}, varint.encode(-2) + varint.encode(9) + b"\0\0\0"),
        ({"type": "array", "items": "int"}, varint.encode(-2) + varint.encode(-2) + b"\0\0\0"),
        ({"type": "array", "items": "int"}, varint.encode(2**62) + b"\0"),
        ({"type": "map", "values": "int"}, varint.encode(1) + b"\2\xff\0\0"),
    ],
)
def test_what_is_out_of_bounds_is_malformed(schema: Any, raw: bytes) -> None:
    with pytest.raises(Malformed):
        compile_walker(schema, [""])(raw)


def test_two_strings_cannot_share_a_character() -> None:
    """Consecutive strings are checked in one go; a character split between them must not slip through."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}, {"name": "b", "type": "string"}]}
    walk = compile_walker(schema, ["a", "b"])
    walk(b"\4\xc3\xa9\4\xc3\xa9")
    for raw in (
        b"\2\xc3\2\xa9",
        b"\4a\xc3\4\xa9a",
        varint.encode(70) + b"a" * 69 + b"\xc3" + b"\2\xa9",
        b"\2\xc3\x8c\1" + b"\xa9" * 70,
    ):
        with pytest.raises(Malformed):
            walk(raw)


@pytest.mark.parametrize("size", [62, 63, 64, 65, 127, 128, 8191, 8192, 100_000])
def test_long_strings_between_short_ones(size: int) -> None:
    names = ["a", "b", "c", "d"]
    schema = {"type": "record", "name": "R", "fields": [{"name": n, "type": ["null", "string"]} for n in names]}
    value = {"a": "é" * (size // 2), "b": None, "c": "x" * size, "d": "ỡ"}
    raw = encode(schema, value)
    found = compile_walker(schema, names)(raw)
    for name in names:
        span = found[name]
        assert span
        assert raw[span[0] : span[1]] == encode(["null", "string"], value[name])


def test_blocks_of_any_layout_are_read() -> None:
    schema = {"type": "array", "items": "long"}
    walk = compile_walker(schema, [""])
    raw = varint.encode(1) + b"\2" + varint.encode(-2) + varint.encode(2) + b"\2\2" + b"\0"
    assert walk(raw)[""] == (0, len(raw))


def test_items_without_bytes_are_bounded_per_record() -> None:
    """Five bytes that claim a billion nulls would cost every reader gigabytes."""
    inner = {"type": "array", "items": "null"}
    walk = compile_walker({"type": "array", "items": inner}, [])
    half = varint.encode(MAX_EMPTY_ITEMS // 2) + b"\0"
    walk(varint.encode(2) + half * 2 + b"\0")
    for bomb in (varint.encode(3) + half * 3 + b"\0", varint.encode(1) + varint.encode(2**40) + b"\0\0"):
        with pytest.raises(Malformed):
            walk(bomb)


TREE = {
    "type": "record",
    "name": "Tree",
    "fields": [{"name": "label", "type": "string"}, {"name": "children", "type": {"type": "array", "items": "Tree"}}],
}


def tree(depth: int) -> bytes:
    return (b"\2x\2" * depth) + b"\2x\0" + b"\0" * depth


def test_recursion_is_bounded() -> None:
    walk = compile_walker(TREE, ["label"])
    walk(tree(MAX_DEPTH // 2 - 1))
    for depth in (MAX_DEPTH, 100_000):
        with pytest.raises(Malformed):
            walk(tree(depth))


@pytest.mark.parametrize("unit", [b"\x80", b"\2", b"\xff", b"\1", b"\2x\2"])
def test_a_megabyte_of_anything_is_refused_within_a_second(unit: bytes) -> None:
    schemas: list[Any] = ["long", "string", TREE, {"type": "array", "items": {"type": "array", "items": "int"}}]
    raw = unit * (1_000_000 // len(unit))
    for schema in schemas:
        begun = time.process_time()
        with pytest.raises(Malformed):
            compile_walker(schema, [])(raw)
        assert time.process_time() - begun < 1.0


class Counted(bytes):
    """Bytes that count how many of them were looked at, one by one or in slices."""

    seen = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.seen += len(found) if isinstance(at, slice) else 1
        return found


def work(schema: Any, raw: bytes) -> int:
    """Lines of the walk that were run, and bytes that it looked at."""
    walk, record, lines = compile_walker(schema, ()), Counted(raw), 0

    def trace(at: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace if at.f_code.co_filename == "<walker>" or at.f_globals is vars(varint) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(Malformed):
            walk(record)
    finally:
        sys.settrace(before)
    return lines + record.seen


WIDE = {"type": "record", "name": "Wide", "fields": [{"name": f"f{i}", "type": "null"} for i in range(30)]}
TEXTS = {"type": "record", "name": "T", "fields": [{"name": f"f{i}", "type": ["null", "string"]} for i in range(30)]}
COSTLY: list[Any] = [
    "string",
    "long",
    TREE,
    {"type": "array", "items": "null"},
    {"type": "array", "items": WIDE},
    {"type": "array", "items": TEXTS},
    {"type": "array", "items": {"type": "array", "items": "null"}},
    {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": "int"}}},
    {"type": "map", "values": {"type": "map", "values": ["null", "string"]}},
    {"type": "array", "items": [*("null", "string", "long"), {"type": "array", "items": "string"}]},
]
LONG_TEXT = varint.encode(70) + b"x" * 70
UNITS = [
    b"\0",
    b"\1",
    b"\2",
    b"\3",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\2x\2",
    b"\2\2x",
    b"\2\0",
    b"\1\4\0\0",
    b"\2" + LONG_TEXT,
    LONG_TEXT,
]
HEADS = [
    b"",
    *(varint.encode(n) for n in (1, 5_000, 10_000, 2**60, -5_000, -(2**60))),
    varint.encode(-9_000) + varint.encode(10_000),
]


@pytest.mark.parametrize("schema", COSTLY, ids=range(len(COSTLY)))
def test_the_work_for_any_bytes_is_bounded_by_their_number(schema: Any) -> None:
    """Lines run and bytes looked at, for each byte at most as many as the walk has lines, and a budget's worth in all."""
    made = walk_source(schema, ())
    each = 3 + 2 * sum(text.count("\n") + 1 for text in (*made.functions, *made.lines))
    for unit in UNITS:
        for head in HEADS:
            raw = (head + unit * 10_000)[:10_000]
            assert work(schema, raw) <= each * len(raw), (unit, head)


@given(st.data(), st.lists(st.sampled_from(UNITS), min_size=1, max_size=4), st.sampled_from(HEADS))
@settings(max_examples=30)
def test_the_work_is_bounded_for_any_schema(data: st.DataObject, units: list[bytes], head: bytes) -> None:
    schema = data.draw(records())
    made = walk_source(schema, ())
    each = 3 + 2 * sum(text.count("\n") + 1 for text in (*made.functions, *made.lines))
    raw = (head + b"".join(units) * 2_000)[:2_000]
    assert work(schema, raw) <= each * len(raw)


def test_names_that_look_alike_are_different_fields() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "b_c", "type": "int"}]}
    other = {"type": "record", "name": "J", "fields": [{"name": "c", "type": "int"}]}
    fields = [
        {"name": "a", "type": inner},
        {"name": "a_b", "type": other},
        {"name": "a_b_c", "type": "int"},
        {"name": "a_end", "type": "int"},
    ]
    schema = {"type": "record", "name": "R", "fields": fields}
    found = compile_walker(schema, ["a.b_c", "a_b.c", "a_b_c", "a", "a_end"])(b"\2\4\6\10")
    assert found == {"a.b_c": (0, 1), "a_b.c": (1, 2), "a_b_c": (2, 3), "a": (0, 1), "a_end": (3, 4)}


def test_floats_are_any_bytes() -> None:
    walk = compile_walker(["null", "double"], [""])
    assert walk(b"\2" + struct.pack("<d", float("nan")))[""] == (0, 9)
