"""Samples of a schema take no more memory than is said, whatever sizes the schema speaks of."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings

from bus.contracts import bounded
from bus.contracts.compatibility import parse, reads
from bus.contracts.parsing import MAX_FIXED, InvalidSchema
from bus.contracts.samples import MAX_BYTES, samples
from tests.contracts.pairs import pairs


def fixed(size: int, name: str = "F") -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size}


def record(*types: Any, **default: Any) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": f"f{n}", "type": t, **default} for n, t in enumerate(types)]}


def encoded(plain: Any) -> int:
    """Bytes of all samples."""
    parsed, stream = fastavro.parse_schema(plain), io.BytesIO()
    for value in samples(plain):
        fastavro.schemaless_writer(stream, parsed, value)
    return stream.tell()


ENUM = {"type": "enum", "name": "E", "symbols": [f"s{n}" for n in range(300)]}
MANY = {"type": "record", "name": "M", "fields": [{"name": "e", "type": ENUM}, {"name": "f", "type": fixed(900_000)}]}


@pytest.mark.parametrize(
    ("plain", "some"),
    [
        (fixed(2**31 - 1), False),
        (record(fixed(2**31 - 1)), False),
        (record(["null", fixed(2**31 - 1)], default=None), True),
        (record(*(fixed(990_000 + n, f"F{n}") for n in range(300))), False),
        (record(*(["null", fixed(990_000 + n, f"F{n}")] for n in range(300))), True),
        (record(fixed(MAX_FIXED), *["F"] * 500), False),
        (record({"type": "array", "items": MANY}, {"type": "map", "values": "M"}), True),
        (MANY, True),
        (record("bytes", *["bytes"] * 99, default="x" * 100_000), False),
        (record(*["string"] * 99, default="x" * 100_000), True),
    ],
)
def test_nothing_larger_than_is_said_is_ever_made(plain: Any, some: bool) -> None:
    """Of one field or of several, in lists and maps, by size or by default."""
    tracemalloc.start()
    try:
        total = encoded(plain)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total <= MAX_BYTES
    assert peak < 6 * MAX_BYTES, "the values and their bytes, no more"
    assert bool(samples(plain)) is some


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(pairs())
def test_samples_are_within_their_bound(pair: tuple[Any, Any]) -> None:
    try:
        plain = parse(pair[0]).plain
    except InvalidSchema:
        return
    assert encoded(plain) <= MAX_BYTES


def test_a_fixed_that_no_sample_can_hold_is_refused() -> None:
    parse(fixed(MAX_FIXED))
    with pytest.raises(InvalidSchema, match="use bytes") as refusal:
        parse(record(fixed(MAX_FIXED + 1)))
    assert refusal.value.place == "/fields/0/type/size"


def test_defaults_that_stand_for_more_and_more_are_not_written_out() -> None:
    """Each record's default holds the next one's twice: two to the power of thirty values in a short text."""
    inner: Any = {"type": "record", "name": "L30", "fields": []}
    for level in reversed(range(30)):
        both = [{"name": "a", "type": inner, "default": {}}, {"name": "b", "type": f"L{level + 1}", "default": {}}]
        inner = {"type": "record", "name": f"L{level}", "fields": both}
    with bounded.calls(1_000_000):
        assert reads(parse(inner), parse(inner)) == ()
