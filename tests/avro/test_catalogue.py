"""Laws of the frame and of the schema catalogue."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.avro import catalogue, frame
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.avro.frame import Malformed
from bus.core.outcome import DeadCode

A = {"type": "record", "name": "A", "namespace": "x", "fields": [{"name": "f", "type": "int", "doc": "số"}]}
B = {"type": "record", "name": "B", "namespace": "x", "fields": []}


def put(into: Catalogue, subject: str, schema: object) -> None:
    entry = into.propose(subject, schema)
    assert entry
    into.apply(catalogue.key_bytes(entry.subject, entry.version), catalogue.value_bytes(entry))


@given(st.integers(1, frame.MAX_ID), st.binary())
def test_a_frame_names_the_id_it_was_made_with(schema_id: int, body: bytes) -> None:
    assert frame.schema_id(frame.header(schema_id) + body) == schema_id


@given(st.binary(max_size=20).filter(lambda b: len(b) < 5 or b[0] != 0))
def test_what_has_no_frame_is_refused(value: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        frame.schema_id(value)
    assert caught.value.code is DeadCode.BAD_FRAME


@pytest.mark.parametrize("bad", [0, -1, 2**31])
def test_no_header_for_an_impossible_id(bad: int) -> None:
    with pytest.raises(ValueError):
        frame.header(bad)


def test_records_are_in_confluents_layout() -> None:
    state = Catalogue()
    entry = state.propose("t-value", A)
    assert entry
    assert catalogue.key_bytes("t-value", 1) == b'{"keytype":"SCHEMA","subject":"t-value","version":1,"magic":1}'
    value = json.loads(catalogue.value_bytes(entry))
    assert list(value) == ["subject", "version", "id", "schema", "deleted"]
    assert json.loads(value["schema"]) == A
    assert value["id"] == 1
    assert value["deleted"] is False


def test_one_schema_has_one_id_under_every_subject_and_versions_grow() -> None:
    state = Catalogue()
    put(state, "s", A)
    put(state, "t", A)
    put(state, "t", B)
    put(state, "t", A)
    assert [(e.version, e.id) for e in state.versions("t")] == [(1, 1), (2, 2), (3, 1)]
    assert state.ids() == {"s": 1, "t": 1}
    assert state.id_for("t", A) == 1
    assert state.propose("t", A) is None, "registering again must change nothing"


def test_a_schema_that_is_not_the_registered_one_is_refused() -> None:
    state = Catalogue()
    put(state, "t", A)
    with pytest.raises(CatalogueError, match="bus up"):
        state.id_for("t", B)
    with pytest.raises(CatalogueError, match="bus up"):
        state.id_for("u", A)
    with pytest.raises(CatalogueError):
        state.schema(7)


def test_hidden_versions_keep_their_id_and_removed_ones_are_gone() -> None:
    state = Catalogue()
    put(state, "t", A)
    put(state, "t", B)
    hidden = catalogue.Entry("t", 2, 2, catalogue.text_of(B), deleted=True)
    state.apply(catalogue.key_bytes("t", 2), catalogue.value_bytes(hidden))
    assert state.ids() == {"t": 1}
    assert json.loads(state.schema(2)) == B
    state.apply(b'{"keytype":"DELETE_SUBJECT","subject":"t","magic":0}', b'{"subject":"t","version":2}')
    assert state.ids() == {}
    state.apply(catalogue.key_bytes("t", 1), None)
    assert state.versions("t") == []


@pytest.mark.parametrize("key", [None, b"{}", b'{"keytype":"NOOP","magic":0}', b'{"keytype":"MODE","magic":0}', b"[1]"])
def test_records_of_other_kinds_are_passed_over(key: bytes | None) -> None:
    state = Catalogue()
    state.apply(key, b"{}")
    assert state.ids() == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"\xff", b"{}"),
        (b'{"keytype":"SCHEMA","subject":"t"}', b"{}"),
        (catalogue.key_bytes("t", 1), b"not json"),
        (catalogue.key_bytes("t", 1), b'{"subject":"t","version":1,"schema":"{}"}'),
        (catalogue.key_bytes("t", 1), b'{"subject":"other","version":1,"id":3,"schema":"{}"}'),
    ],
)
def test_unreadable_schema_records_are_an_error_not_a_guess(key: bytes, value: bytes) -> None:
    with pytest.raises(CatalogueError):
        Catalogue().apply(key, value)


def test_an_id_never_stands_for_two_schemas() -> None:
    state = Catalogue()
    put(state, "t", A)
    with pytest.raises(CatalogueError, match="two writers"):
        state.add(catalogue.Entry("u", 1, 1, catalogue.text_of(B)))
