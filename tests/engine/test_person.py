"""The replica's value holds the register's row and offset as they will be needed, and nothing malformed gets into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro import derive
from bus.avro.catalogue import Catalogue, Entry
from bus.avro.dataset import Dataset
from bus.avro.frame import Malformed
from bus.avro.older import compile_older
from bus.core.outcome import DeadCode
from bus.engine.person import compile_packer, reading
from tests.engine.reference import encode, frame
from tests.engine.worlds import envelope, registers, row_of


@given(st.data())
@settings(max_examples=50)
def test_each_column_offset_and_row_are_found_in_a_packed_person(data: st.DataObject) -> None:
    register: Dataset = data.draw(registers())
    row, offset = data.draw(row_of(register)), data.draw(st.integers(0, 2**62))
    packed = compile_packer(register, 9)(frame(9, derive.change(register), envelope("c", None, row)), offset)
    assert packed is not None
    columns = data.draw(st.lists(st.sampled_from(sorted(register.fields)), unique=True))
    found = reading(register, columns, "p", "q")
    places = dict(zip(found.variables, found.unpack(packed), strict=True))
    for column in columns:
        start, end = (places[v] for v in found.spans[column])
        assert packed[start:end] == encode(register.fields[column], row[column])
    scope = {"p": packed, **places}
    assert eval(found.offset, scope) == encode(["null", "long"], offset)
    assert eval(found.person, scope) == b"\2" + encode(register.row, row)


@given(st.data())
@settings(max_examples=20)
def test_a_person_of_an_earlier_schema_is_packed_as_one_of_todays(data: st.DataObject) -> None:
    """A replica that is made anew reads all of a compacted topic: whoever has not changed since stands there as ever."""
    register: Dataset = data.draw(registers())
    row = data.draw(row_of(register))
    today = derive.change(register)
    known, older = earlier(register, "change.population.person-value")
    pack = compile_packer(register, 9, older=compile_older("change.population.person-value", today, 9, known))
    written = frame(8, older, envelope("c", None, row | {"gone": "x"}))
    assert pack(written, 1) == pack(frame(9, today, envelope("c", None, row)), 1)
    with pytest.raises(Malformed) as caught:
        pack(b"\0\0\0\0\7" + written[5:], 1)
    assert caught.value.code is DeadCode.UNKNOWN_SCHEMA


def earlier(of: Dataset, subject: str) -> tuple[Catalogue, Any]:
    """A catalogue with today's change schema (id 9) and one before it (8) whose rows had one column more; and that one."""
    older = json.loads(json.dumps(derive.change(of)))
    before = next(f for f in older["fields"] if f["name"] == "before")
    before["type"][1]["fields"].append({"name": "gone", "type": "string"})
    known = Catalogue()
    known.add(Entry(subject, 1, 8, json.dumps(older)))
    known.add(Entry(subject, 2, 9, json.dumps(derive.change(of))))
    return known, older


@given(st.data())
@settings(max_examples=20)
def test_a_deleted_person_is_removed_and_a_broken_event_is_refused(data: st.DataObject) -> None:
    register: Dataset = data.draw(registers())
    row = data.draw(row_of(register))
    pack = compile_packer(register, 9, max_record_bytes=5_000)
    schema = derive.change(register)
    assert pack(frame(9, schema, envelope("d", row, None)), 1) is None
    good = frame(9, schema, envelope("c", None, row))
    for bad, code in ((good[:-1], DeadCode.MALFORMED), (good + b"\0", DeadCode.MALFORMED), (good[:3], DeadCode.BAD_FRAME)):
        with pytest.raises(Malformed) as caught:
            pack(bad, 1)
        assert caught.value.code is code
    foreign, large = frame(8, schema, envelope("c", None, row)), good + bytes(5_000)
    for bad, code in ((foreign, DeadCode.UNKNOWN_SCHEMA), (large, DeadCode.TOO_LARGE)):
        with pytest.raises(Malformed) as caught:
            pack(bad, 1)
        assert caught.value.code is code
