"""Values in test files: what is shown reads back as what it was, whatever the column's type."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.trial import values

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
TYPES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": ("string", st.text()),
    "int": ("int", st.integers(-(2**31), 2**31 - 1)),
    "long": ("long", st.integers(-(2**63), 2**63 - 1)),
    "boolean": ("boolean", st.booleans()),
    "float": ("float", st.floats(width=32, allow_nan=False)),
    "double": ("double", st.floats(allow_nan=False)),
    "bytes": ("bytes", st.binary()),
    "date": ({"type": "int", "logicalType": "date"}, st.dates()),
    "instant": (
        {"type": "long", "logicalType": "timestamp-micros"},
        st.datetimes(timezones=st.just(UTC)),
    ),
    "local": ({"type": "long", "logicalType": "local-timestamp-micros"}, st.datetimes()),
    "decimal": (DECIMAL, st.decimals(-(10**9), 10**9, places=2)),
    "uuid": ({"type": "string", "logicalType": "uuid"}, st.uuids()),
}


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_what_is_shown_reads_back(name: str, data: st.DataObject) -> None:
    avro_type, drawn = TYPES[name]
    value = data.draw(drawn)
    assert values.parse(values.text(value), avro_type) == value
    if values.text(value) not in ("", "null", "~"):
        assert values.parse(values.text(value), ["null", avro_type]) == value


@pytest.mark.parametrize("name", TYPES)
def test_what_nobody_says_anything_about_is_a_value_of_the_column(name: str) -> None:
    avro_type, _ = TYPES[name]
    neutral = values.neutral(avro_type)
    assert values.parse(values.text(neutral), avro_type) == neutral
    assert values.neutral(["null", avro_type]) is None


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("int", "1.5"),
        ("boolean", "yes"),
        ("date", "1/7/2025"),
        ("instant", "2025-07-01T08:00:00"),
        ("decimal", "12,5"),
        ("uuid", "1"),
    ],
)
def test_what_is_no_value_is_told_with_an_example(name: str, bad: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        values.parse(bad, TYPES[name][0])
