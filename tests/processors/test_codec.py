"""Laws of the codec: whatever the bytes, a dictionary or None; the schema topic is read once for what it cannot answer."""

from __future__ import annotations

import io
import random
from typing import Any

import fastavro
import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from bus import config
from bus.avro import catalogue, dataset, derive, frame
from bus.avro.catalogue import Catalogue
from bus.core.identity import lane_of
from bus.processors.codec import AvroCodec
from bus.registry.log import RegistryError

LINE: dict[str, Any] = {"worker": "w", "lane": 3, "decided_at_ms": 5, "policy": "p"}
LINE |= {
    "inputs": [],
    "verdicts": [{"dataset": "d", "verdict": "MATCH", "count": 2}],
    "outcomes": [],
    "deliveries": [],
    "change": None,
    "past": [],
    "past_outcomes": [],
    "caught_up": [],
}


def _framed(schema_id: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(derive.AUDIT_LINE), LINE)
    return frame.header(schema_id) + out.getvalue()


class _Schemas:
    """A schema topic whose reads are counted."""

    def __init__(self) -> None:
        self.catalogue, self.reads = Catalogue(), 0

    def register(self, schema_id: int) -> None:
        self.catalogue.add(catalogue.Entry(f"s{schema_id}", 1, schema_id, catalogue.text_of(derive.AUDIT_LINE)))

    def read(self) -> Catalogue:
        self.reads += 1
        return self.catalogue


def test_a_schema_registered_later_is_found_and_an_unknown_one_asked_for_once() -> None:
    schemas = _Schemas()
    schemas.register(1)
    codec = AvroCodec(schemas.read)
    assert [codec.loads(_framed(1)) for _ in range(3)] == [LINE] * 3
    assert schemas.reads == 1
    assert [codec.loads(_framed(9)) for _ in range(50)] == [None] * 50
    assert schemas.reads == 2
    schemas.register(2)
    assert codec.loads(_framed(2)) == LINE


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_dictionary_or_nothing(data: bytes, framed: bool) -> None:
    schemas = _Schemas()
    schemas.register(1)
    found = AvroCodec(schemas.read).loads(frame.header(1) + data if framed else data)
    assert found is None or isinstance(found, dict)


def test_an_unreadable_schema_topic_is_an_error_not_a_skipped_record() -> None:
    def down() -> Catalogue:
        raise RegistryError("down")

    with pytest.raises(RegistryError):
        AvroCodec(down).loads(_framed(1))


def test_nothing_is_encoded() -> None:
    with pytest.raises(TypeError, match="engine alone"):
        AvroCodec(Catalogue).dumps({})


@given(st.binary(min_size=1, max_size=40), st.integers(1, 64))
def test_fausts_producer_puts_a_key_into_the_lane_of_its_person(key: bytes, lanes: int) -> None:
    everywhere = list(range(lanes))
    random.shuffle(everywhere)
    assert DefaultPartitioner()(key, sorted(everywhere), everywhere) == lane_of(key, lanes)


def test_every_checked_field_of_every_source_is_a_field_of_the_register() -> None:
    """So the label `field` takes few values, all known beforehand."""
    found = dataset.load(config.ROOT / "schemas")
    register = dataset.register_of(found).fields
    assert {name for d in found.values() for role in d.people for name in role.match} <= register.keys()
