"""Records that nobody should have written, of every kind, and the code that each must get. What makes them bad does not depend on
what follows in the record, so none of them can happen to be an event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bus.avro import varint
from bus.avro.types import kind
from bus.core.outcome import CHANGE_OPS, DeadCode
from tests.engine.reference import Row, encode
from tests.engine.worlds import MAX_RECORD_BYTES, Stage

CANARY = "bí mật của một người"
"""Stands in the rows of what is poisoned, and must not leave them."""
TREE = {"type": "record", "name": "Tree", "fields": [{"name": "below", "type": {"type": "array", "items": "Tree"}}]}
OP_AT, HEADER_BYTES = 21, 5
_OVERLONG = [b"\x80\0", b"\x81\0", b"\xff" * 9 + b"\2", b"\xff" * 11, b"\x80" * 9 + b"\0"]
_BAD_LENGTHS = [
    *_OVERLONG,
    *(varint.encode(n) for n in (-1, -64, -65, -200, -(2**31), -(2**63), 2**31, 2**32, 2**60, 2**62, 2**63 - 1)),
    varint.encode(-200) + b"x" * 200,
    varint.encode(MAX_RECORD_BYTES),
]
_BAD_TEXT = [b"\xff", b"\x80", b"\xc3", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80"]
_HUGE = [2**16 + 1, 2**31, 2**40, 2**60, 2**63 - 1]


@dataclass(frozen=True)
class Poison:
    what: str
    value: bytes | None
    key: bytes | None
    code: DeadCode = DeadCode.MALFORMED


def poisons(stage: Stage, row: Row) -> Iterator[Poison]:
    """Around a good `c` of `row`."""
    value, key = stage.change("c", None, row)
    yield from _frames(stage, value, key)
    yield from (Poison(f"a key of {bad!r}", value, bad) for bad in (None, b"", key[:15], key + b"\0", b"k" * 100_000))
    yield from (Poison(f"cut after {n}", value[:n], key, _code(n)) for n in range(1, len(value)))
    yield from (Poison(f"{tail!r} behind", value + tail, key) for tail in (b"\0", b"\2", b"\x80", value, bytes(1_000)))
    yield from _envelopes(value, key)
    fields = {name: encode(t, row[name]) for name, t in stage.world.dataset.fields.items()}
    head = value.removesuffix(b"".join(fields.values()))
    for name, avro_type in stage.world.dataset.fields.items():
        for bad in bad_values(avro_type):
            yield Poison(f"{name}: {bad[:24]!r}", head + b"".join((fields | {name: bad}).values()), key)


def _code(length: int) -> DeadCode:
    return DeadCode.BAD_FRAME if length < HEADER_BYTES else DeadCode.MALFORMED


def _frames(stage: Stage, value: bytes, key: bytes) -> Iterator[Poison]:
    yield from (Poison("no value", v, key, DeadCode.BAD_FRAME) for v in (None, b""))
    yield from (Poison("another magic byte", bytes([m]) + value[1:], key, DeadCode.BAD_FRAME) for m in (1, 2, 127, 128, 255))
    foreign = [0, stage.change_id + 1, 2**31, 2**32 - 1, *(i for i in stage.world.ids.values() if i != stage.change_id)]
    for schema_id in foreign:
        yield Poison("another schema", b"\0" + schema_id.to_bytes(4, "big") + value[5:], key, DeadCode.UNKNOWN_SCHEMA)
    for unit in (b"\0", b"\2", b"\x80", b"\xff", value):
        huge = value[:HEADER_BYTES] + unit * (MAX_RECORD_BYTES // len(unit) + 1)
        yield Poison("above the bound", huge[: MAX_RECORD_BYTES + 1], key, DeadCode.TOO_LARGE)
        yield Poison("junk at the bound", huge[:MAX_RECORD_BYTES], key)
    yield Poison("a good event and junk above the bound", value.ljust(MAX_RECORD_BYTES + 1, b"\0"), key, DeadCode.TOO_LARGE)


def _envelopes(value: bytes, key: bytes) -> Iterator[Poison]:
    """Ops that there are not, and those whose images these are not."""
    ops = [2 * CHANGE_OPS.index("u"), 2 * CHANGE_OPS.index("d"), 2 * len(CHANGE_OPS), 1, 3, 127, 128, 255]
    for op in ops:
        yield Poison(f"op byte {op}", value[:OP_AT] + bytes([op]) + value[OP_AT + 1 :], key)
    for bad in _OVERLONG:
        yield Poison(f"ts_ms {bad[:8]!r}", value[: OP_AT + 1] + bad + value[OP_AT + 1 :], key)


def bad_values(avro_type: Any) -> list[bytes]:
    """Encodings of no value of the type, whatever stands behind them."""
    if isinstance(avro_type, list):
        of_branches = [bytes([2 * k]) + bad for k, branch in enumerate(avro_type) for bad in bad_values(branch)]
        return [bytes([2 * len(avro_type)]), b"\1", b"\3", b"\x7f", b"\x80\0", b"\xff" * 10, *of_branches]
    what = kind(avro_type)
    if what in ("array", "map"):
        return _bad_blocks(avro_type, what)
    if what == "record":  # TREE
        return [b"\2" * depth + b"\0" * (depth + 1) for depth in (100, 1_000, MAX_RECORD_BYTES // 3)]
    if what == "enum":
        count = len(avro_type["symbols"])
        return [varint.encode(n) for n in (count, -1, 2**31, 2**63 - 1, -(2**63))] + _OVERLONG
    found: dict[str, list[bytes]] = {
        "string": [*_BAD_LENGTHS, *(varint.encode(len(t)) + t for t in _BAD_TEXT), varint.encode(97) + b"\xc3" * 97],
        "bytes": _BAD_LENGTHS,
        "boolean": [b"\2", b"\x7f", b"\x80", b"\xff"],
        "int": [*_OVERLONG, varint.encode(2**31), varint.encode(-(2**31) - 1), varint.encode(2**60)],
        "long": _OVERLONG,
    }
    return found.get(what, [])


def _bad_blocks(avro_type: Any, what: str) -> list[bytes]:
    """Counts of more than there can be, and sizes that lie, of blocks with items and of blocks without."""
    items = avro_type["values" if what == "map" else "items"]
    one = b"" if items == "null" else b"\2a" if items == "string" else b"\0"
    item = b"\2k" + one if what == "map" else one
    lies = [n for n in (-(2**63), -1, len(item) - 1, len(item) + 1, 2**20, 2**60) if n]
    sized = [varint.encode(-1) + varint.encode(size) + item + b"\0" for size in lies]
    bombs = [varint.encode(sign * n) + (varint.encode(len(item)) if sign < 0 else b"") for n in _HUGE for sign in (1, -1)]
    halves = [varint.encode(2**15 + 1) * 2 + b"\0"] if items == "null" else []  # together more than the budget
    return [*_OVERLONG, *sized, *(bomb + item + b"\0" for bomb in bombs), varint.encode(-(2**63)) + b"\0" + item, *halves]
