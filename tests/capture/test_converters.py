"""Laws of the compiled converters: what they write, fastavro reads back as the very values that psycopg reads from the table."""

from __future__ import annotations

import io
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Json, Jsonb

from bus.avro.dataset import Dataset, Role
from connectors.capture import columns, compiled, encode, pgoutput, walsender
from connectors.capture.errors import Unconvertible
from tests.capture.conftest import MakeLab
from tests.capture.lab import Lab, field, schema

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
LOCAL = {"type": "long", "logicalType": "local-timestamp-micros"}
DATE = {"type": "int", "logicalType": "date"}
MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
WHOLE = {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 0}
UUID = {"type": "string", "logicalType": "uuid"}
SQL = """
CREATE TYPE mood AS ENUM ('vui', 'buồn');
CREATE DOMAIN short_code AS varchar(40);
CREATE TABLE zoo (
    id bigint PRIMARY KEY, unknown_to_schema text DEFAULT 'never flows', pin varchar(12), body text, code short_code,
    fixed char(4), mood mood, doc jsonb, raw_json json, small smallint, medium integer, large bigint, flag boolean, real4 real,
    real8 double precision, day date, at timestamptz, local timestamp, money numeric(12,2), whole numeric(30,0), blob bytea,
    name text NOT NULL, guid uuid)"""
ZOO = schema(
    "zoo",
    ["id"],
    [
        field("id", "long"),
        field("guid", ["null", UUID]),
        field("pin", ["null", "string"]),
        field("name", "string"),
        *[field(name, ["null", "string"]) for name in ("body", "code", "fixed", "mood", "doc", "raw_json")],
        field("small", ["null", "int"]),
        field("medium", ["null", "int"]),
        field("large", ["null", "long"]),
        field("flag", ["null", "boolean"]),
        field("real4", ["null", "float"]),
        field("real8", ["null", "double"]),
        field("day", ["null", DATE]),
        field("at", ["null", MICROS]),
        field("local", ["null", LOCAL]),
        field("money", ["null", MONEY]),
        field("whole", ["null", WHOLE]),
        field("blob", ["null", "bytes"]),
    ],
)
NAMES = [f["name"] for f in ZOO["fields"]]
AS_TEXT = {"mood", "doc", "raw_json"}
"""Columns that are text in Avro: psycopg is asked for them as text."""

vietnamese = st.sampled_from(["Nguyễn Thị Hòa", "Nguyễn Thị Hoà", "Đặng Thuỳ Trâm", "o\u0302\u0301a\u0300", "𠀋𡿂", "👨‍👩‍👧", ""])
awkward = st.sampled_from(["\t", "\n", "\\", "\\N", "\\.", "'", '"', "\r\n", "\b\f\v", "\x01", "{}", "a\tb\\tc"])
any_text = st.lists(
    vietnamese | awkward | st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), max_size=4
).map("".join)
long_text = st.sampled_from([63, 64, 8191, 8192, 8193, 70_000]).map(lambda n: "x" * n)
days = st.dates(date(1, 1, 1), date(9999, 12, 31))
instants = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001  what `timestamp` holds
rows = st.fixed_dictionaries(
    {
        "guid": st.none() | st.uuids(),
        "pin": st.none() | st.from_regex(r"\A[0-9]{9}([0-9]{3})?\Z") | st.just(""),
        "name": any_text,
        "body": st.none() | any_text | long_text,
        "code": st.none() | any_text.map(lambda s: s[:40]),
        "fixed": st.none() | st.text("abĐ", max_size=4),
        "mood": st.none() | st.sampled_from(["vui", "buồn"]),
        "doc": st.none() | st.dictionaries(st.text("aă\t\\", max_size=3), st.integers(), max_size=2).map(Jsonb),
        "raw_json": st.none() | st.lists(st.text("aă\t\\\n", max_size=3), max_size=2).map(Json),
        "small": st.none() | st.integers(-(2**15), 2**15 - 1),
        "medium": st.none() | st.integers(-(2**31), 2**31 - 1),
        "large": st.none() | st.integers(-(2**63), 2**63 - 1),
        "flag": st.none() | st.booleans(),
        "real4": st.none() | st.floats(width=32),
        "real8": st.none() | st.floats(),
        "day": st.none() | days,
        "at": st.none() | instants.map(lambda t: t.replace(tzinfo=UTC)),
        "local": st.none() | instants,
        "money": st.none() | st.decimals(Decimal("-9999999999.99"), Decimal("9999999999.99"), places=2),
        "whole": st.none() | st.integers(-(10**30) + 1, 10**30 - 1).map(Decimal),
        "blob": st.none() | st.binary(max_size=300),
    }
)


class Zoo:
    """A table of every type, its binding, and a stream of what happens to it."""

    def __init__(self, lab: Lab) -> None:
        self.binding = columns.bind(lab.datasets[f"{lab.domain}.zoo"])
        self.schema: Any = fastavro.parse_schema(lab.datasets[f"{lab.domain}.zoo"].row)
        self.db = psycopg.connect(walsender.conninfo(lab.dsn), autocommit=True)
        self.wal = walsender.WalSender(lab.dsn, "test")
        self.wal.create_slot("converters")
        self.wal.start("converters", "bus", 0)
        self.names: list[str] = []
        self.ids = iter(range(1, 10**9))

    def insert(self, row: dict[str, Any]) -> int:
        number = next(self.ids)
        listed = ["id", *row]
        query = f"INSERT INTO public.zoo ({', '.join(listed)}) VALUES ({', '.join(['%s'] * len(listed))})"
        self.db.execute(query, [number, *row.values()])
        return number

    def read(self, number: int) -> dict[str, Any]:
        """The row as psycopg sees it."""
        listed = ", ".join(f"{n}::text" if n in AS_TEXT else n for n in NAMES)
        found = self.db.execute(f"SELECT {listed} FROM public.zoo WHERE id = {number}").fetchone()
        assert found is not None
        row = dict(zip(NAMES, found, strict=True))
        if row["real4"] is not None:  # psycopg parses the shortest decimal as a double; the value is the nearest single
            row["real4"] = struct.unpack("<f", struct.pack("<f", row["real4"]))[0]
        return row

    def line(self, number: int) -> bytes:
        with self.db.cursor().copy(f"COPY (SELECT {', '.join(NAMES)} FROM public.zoo WHERE id = {number}) TO STDOUT") as copy:
            return b"".join(bytes(block) for block in copy)

    def message(self) -> bytes:
        """The next insert of the stream."""
        while True:
            b = self.wal.read()
            if b is None:
                self.wal.wait(1.0)
            elif b[pgoutput.HEADER] == pgoutput.RELATION:
                self.names = [c.name for c in pgoutput.relation(b).columns]
            elif b[pgoutput.HEADER] == pgoutput.INSERT:
                return b

    def decoded(self, row: bytes) -> dict[str, Any]:
        source = io.BytesIO(row)
        found: Any = fastavro.schemaless_reader(source, self.schema, None)
        assert source.read() == b"", "bytes are left over"
        return {n: _plain(v) for n, v in found.items()}


def _plain(value: Any) -> Any:
    """Floats by their bits: NaN is itself."""
    return value.hex() if isinstance(value, float) else value


@pytest.fixture
def zoo(make_lab: MakeLab) -> Zoo:
    return Zoo(make_lab(SQL, ZOO))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=rows)
def test_both_converters_say_what_psycopg_reads(zoo: Zoo, row: dict[str, Any]) -> None:
    number = zoo.insert(row)
    b = zoo.message()
    expected = {n: _plain(v) for n, v in zoo.read(number).items()}
    key = encode.long(number)
    pin = (row["pin"] or "").encode()

    from_copy = compiled.from_line(zoo.binding)(zoo.line(number))
    assert zoo.decoded(from_copy[0]) == expected
    assert from_copy[1:] == (pin, key)

    converted, end, *rest = compiled.from_tuple(zoo.binding, zoo.names)(b, pgoutput.HEADER + 6)
    assert (converted, end, rest) == (from_copy[0], len(b), [pin, key])


@given(n=st.integers(-(2**63), 2**63 - 1))
def test_long_is_fastavros_long(n: int) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", n)
    assert encode.long(n) == out.getvalue()


@given(at=instants, day=days)
def test_times_count_from_1970(at: datetime, day: date) -> None:
    micros = (at - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001
    assert encode.timestamp(at.isoformat(" ").encode()) == encode.long(micros)
    assert encode.timestamptz(at.isoformat(" ").encode() + b"+00") == encode.long(micros)
    assert encode.DATES[day.isoformat().encode()] == encode.long((day - date(1970, 1, 1)).days)


UNSAYABLE = [
    ("day", "infinity"),
    ("day", "-infinity"),
    ("day", "0044-03-15 BC"),
    ("day", "10000-01-01"),
    ("at", "infinity"),
    ("at", "-infinity"),
    ("at", "0044-03-15 10:00:00 BC"),
    ("at", "10000-01-01 00:00:00+00"),
    ("local", "infinity"),
    ("local", "0044-03-15 10:00:00.5 BC"),
    ("money", "NaN"),
    ("whole", "NaN"),
]
"""Years before 1 and after 9999 have an Avro number, but no reader of ours could show it."""


def test_what_avro_cannot_say_is_unconvertible_not_wrong(zoo: Zoo) -> None:
    for column, value in UNSAYABLE:
        number = zoo.insert({"name": "x", column: value})
        b = zoo.message()
        with pytest.raises(ValueError):
            compiled.from_line(zoo.binding)(zoo.line(number))
        with pytest.raises(ValueError):
            compiled.from_tuple(zoo.binding, zoo.names)(b, pgoutput.HEADER + 6)


def test_a_null_where_the_schema_has_none_is_unconvertible(zoo: Zoo) -> None:
    zoo.db.execute("ALTER TABLE public.zoo ALTER name DROP NOT NULL")
    number = zoo.insert({"body": "x"})
    with pytest.raises(Unconvertible):
        compiled.from_line(zoo.binding)(zoo.line(number))
    b = zoo.message()
    with pytest.raises(Unconvertible):
        compiled.from_tuple(zoo.binding, zoo.names)(b, pgoutput.HEADER + 6)


@given(cut=st.integers(0, 200), row=st.lists(st.none() | st.binary(max_size=20), min_size=3, max_size=3))
def test_a_truncated_tuple_never_becomes_a_row_of_its_own_length(cut: int, row: list[bytes | None]) -> None:
    binding = columns.bind(_plain_dataset())
    whole = pgoutput.tuple_bytes([b"7", *row])
    convert = compiled.from_tuple(binding, ["id", "a", "b", "c"])
    assert convert(whole, 0)[1] == len(whole)
    if cut < len(whole):
        try:
            _, end, _, _ = convert(whole[:cut], 0)
        except Exception:
            return
        assert end > cut, "the end it claims lies beyond the bytes: the caller sees that"


texts = st.none() | st.sampled_from([b"", b"a", b"t\0\0\0\1", b"N", b"x" * 1023, b"x" * 1024, b"x" * 9000])
images = st.tuples(st.integers(0, 300), st.lists(texts, min_size=9, max_size=9))


@given(old=images, new=images, same=st.sets(st.integers(0, 8)))
def test_an_update_is_its_two_rows(
    old: tuple[int, list[bytes | None]], new: tuple[int, list[bytes | None]], same: set[int]
) -> None:
    """Comparing the images and using columns again changes nothing; columns without a field are between them."""
    names = [*"abcdefg", "unknown", "also_unknown"]
    row = schema("t", ["id"], [field("id", "long"), *[field(n, ["null", "string"]) for n in "gbfaedc"]], pin="c")
    binding = columns.bind(Dataset("d.t", "d", "t", row, ("id",), (Role("subject", "c", {}),), False))
    after = [o if place in same else n for place, (o, n) in enumerate(zip(old[1], new[1], strict=True))]
    tuples = [pgoutput.tuple_bytes([*columns_, str(n).encode()]) for columns_, n in ((old[1], old[0]), (after, new[0]))]
    relation = [*names, "id"]
    convert = compiled.from_tuple(binding, relation)
    whole = tuples[0] + b"N" + tuples[1]
    rows = [(r, pin, key) for r, _, pin, key in (convert(t, 0) for t in tuples)]
    assert compiled.from_pair(binding, relation)(whole, 0) == (*rows, len(whole))


def _plain_dataset() -> Dataset:
    fields = [field("id", "long"), *[field(n, ["null", "string"]) for n in "abc"]]
    row = schema("t", ["id"], fields, pin=None)
    return Dataset("d.t", "d", "t", row, ("id",), (), False)
