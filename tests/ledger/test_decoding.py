"""What reads the bus's topics without the engine: of any bytes it makes what they say or nothing, and never dies of them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from bus import config
from bus.avro import derive, varint
from bus.avro.catalogue import CatalogueError, value_subject
from bus.avro.frame import Malformed
from bus.cli.describe import Describer
from bus.ledger.decoding import Decoder, compile_decoder
from bus.processors.codec import AvroCodec
from tests.engine.poison import CANARY, TREE, poisons
from tests.engine.reference import frame
from tests.engine.test_poison import NESTED, ROW, STAGES, stage

ON = stage(NESTED)
SCHEMA = derive.change(ON.world.dataset)
GOOD, _ = ON.change("c", None, ROW)
BAD = [p.value for p in poisons(ON, ROW) if p.value is not None and p.value != GOOD]


def test_what_is_decoded_says_what_the_bytes_say() -> None:
    decoder = Decoder(ON.catalogue)
    read = 0
    for value in [GOOD, *BAD]:
        with contextlib.suppress(Malformed, CatalogueError):
            assert frame(ON.change_id, SCHEMA, decoder.decode(value)) == value
            read += 1
    assert 1 <= read < 10, "the good one, and those that are bad because of their images"


def test_a_processor_gets_nothing_for_what_cannot_be_read() -> None:
    codec = AvroCodec(lambda: ON.catalogue)
    assert codec.loads(GOOD)
    found = [codec.loads(value) for value in BAD]
    assert found.count(None) > 0.9 * len(found)
    assert codec.loads(GOOD)


def test_an_operator_is_shown_the_length_of_what_cannot_be_read() -> None:
    describer = Describer(config.load(Path("/nowhere"), env={}), lambda: ON.catalogue)
    for value in BAD:
        assert CANARY not in json.dumps(describer.value(f"dead.{ON.plan.dataset}", value), ensure_ascii=False)
    assert describer.value("bus.lanes", b"[" * 1_000_000) == "<1000000 bytes: neither framed Avro nor JSON>"


@pytest.mark.parametrize(
    ("schema", "raw"),
    [
        (TREE, b"\2" * 1_000_000),
        ({"type": "array", "items": "null"}, varint.encode(2**60) + b"\0"),
        ({"type": "array", "items": "null"}, varint.encode(-(2**60)) + b"\0\0"),
        ("string", varint.encode(-1) + b"abc"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, b"\1"),
        ("long", b"\2\2"),
    ],
)
def test_what_fastavro_would_die_of_or_take_for_good_is_malformed(schema: Any, raw: bytes) -> None:
    whole = {"type": "record", "name": "R", "fields": [{"name": "f", "type": schema}]}
    with pytest.raises(Malformed):
        compile_decoder(whole)(b"\0\0\0\0\1" + raw)


def test_a_schema_is_left_as_it_was() -> None:
    """The masks of `bus tail` follow it."""
    for on, _ in STAGES.values():
        subject = value_subject(f"verified.{on.plan.dataset}")
        schema = json.loads(on.catalogue.schema(on.world.ids[subject]))
        before = json.dumps(schema)
        compile_decoder(schema)
        assert json.dumps(schema) == before
