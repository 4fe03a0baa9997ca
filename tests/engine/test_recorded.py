"""A verified event, read again for an agreement that was not in force: what it makes of it is what it would have made then."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.avro.catalogue import Entry, value_subject
from bus.avro.frame import Malformed, header
from bus.avro.older import _plain
from bus.core.agreement import Agreement
from bus.engine.plan import Record, Secrets, compile_plan
from bus.engine.recorded import Recorded
from tests.engine.reference import Row
from tests.engine.worlds import AGREEMENT_SECRET, MAX_RECORD_BYTES, PERSON_SECRET, Stage, changes, stages

EARLIER = 90_000
Event = tuple[str, Row | None, Row | None]


def reader(stage: Stage, agreement: Agreement) -> Recorded:
    world, secrets = stage.world, Secrets(PERSON_SECRET, AGREEMENT_SECRET)
    plan = compile_plan(world.dataset, world.register, (agreement,), stage.catalogue, secrets, MAX_RECORD_BYTES, recorded=True)
    return Recorded(world.dataset, world.register, agreement.id, plan, stage.catalogue)


def live(stage: Stage, event: Event, force: tuple[bool, ...], seqs: list[int]) -> tuple[dict[str, str], list[Record]]:
    """Agreement -> outcome, and the records: deliveries, then the verified event."""
    out: list[Record] = []
    tally = stage.plan.handle(*stage.change(*event), stage.replica.get, seqs, force, out)
    return dict(stage.plan.outcomes(tally)), out


@given(st.data(), stages(), st.integers(0, 100_000))
def test_outcome_and_delivery_are_those_of_the_live_event(data: st.DataObject, stage: Stage, count: int) -> None:
    """Each agreement alone was away then, and the register has forgotten the subject since."""
    event = data.draw(changes(stage.world.dataset))
    agreed = stage.world.agreements
    counts = [count] * len(agreed)
    expected, delivered = live(stage, event, (True,) * len(agreed), list(counts))
    for place, agreement in enumerate(agreed):
        if agreement.id not in expected:
            continue
        away = tuple(n != place for n in range(len(agreed)))
        _, records = live(stage, event, away, list(counts))
        _, verified, key = records[-1]
        since = {k: v for k, v in stage.replica.items() if k != key}
        seqs = list(counts)
        outcome, record = reader(stage, agreement).treat(verified, key, since.get, seqs, place)
        assert outcome == expected[agreement.id]
        own = [d for d in delivered[:-1] if d[0] == f"agency.{agreement.id}"]
        assert ([record] if record else []) == own
        assert seqs == [n + (k == place and bool(own)) for k, n in enumerate(counts)]


@given(st.data(), stages())
def test_what_an_agreement_decided_on_when_it_came_is_not_given_to_it_again(data: st.DataObject, stage: Stage) -> None:
    agreed = stage.world.agreements
    outcomes, records = live(stage, data.draw(changes(stage.world.dataset)), (True,) * len(agreed), [0] * len(agreed))
    _, verified, key = records[-1]
    for place, agreement in enumerate(agreed):
        if agreement.id in outcomes:
            seqs = [7] * len(agreed)
            assert reader(stage, agreement).treat(verified, key, stage.replica.get, seqs, place) == ("", None)
            assert seqs == [7] * len(agreed)


@given(st.data(), stages())
def test_the_verdict_on_a_row_is_the_recorded_one_whoever_was_corrected_since(data: st.DataObject, stage: Stage) -> None:
    """But for updates, whose row before is judged by the register as it is, nothing is asked of it."""
    op, before, after = data.draw(changes(stage.world.dataset))
    event: Event = ("c", None, after) if op == "u" else (op, before, after)
    agreed = stage.world.agreements
    expected, _ = live(stage, event, (True,) * len(agreed), [0] * len(agreed))
    _, records = live(stage, event, (False,) * len(agreed), [0] * len(agreed))
    _, verified, key = records[-1]
    for place, agreement in enumerate(agreed):
        if agreement.id in expected:
            outcome, _ = reader(stage, agreement).treat(verified, key, lambda _: None, [0] * len(agreed), place)
            assert outcome == expected[agreement.id]


@given(st.data(), stages())
def test_one_that_was_verified_under_an_earlier_schema_is_given_as_one_of_todays(data: st.DataObject, stage: Stage) -> None:
    agreed = stage.world.agreements
    _, records = live(stage, data.draw(changes(stage.world.dataset)), (False,) * len(agreed), [0] * len(agreed))
    _, verified, key = records[-1]
    earlier = as_before(stage, verified)
    for place, agreement in enumerate(agreed):
        if agreement.id in stage.plan.agreements:
            expected, counted = [7] * len(agreed), [7] * len(agreed)
            read = reader(stage, agreement)
            wanted = read.treat(verified, key, stage.replica.get, expected, place)
            assert read.treat(earlier, key, stage.replica.get, counted, place) == wanted
            assert counted == expected


def as_before(stage: Stage, verified: bytes) -> bytes:
    """The event as it was when rows had one column more; the schema of then is put into the stage's catalogue."""
    subject = value_subject(f"verified.{stage.world.dataset.name}")
    today = stage.schemas[subject]
    older = copy.deepcopy(today)
    row = next(f for f in older["fields"] if f["name"] == "before")["type"][1]
    row["fields"].insert(0, {"name": "gone", "type": "string"})
    stage.catalogue.add(Entry(subject, 0, EARLIER, json.dumps(older)))
    reading, writing = (fastavro.parse_schema(_plain(schema)) for schema in (today, older))
    found: Any = fastavro.schemaless_reader(io.BytesIO(verified[5:]), reading, None)
    for image in (found["before"], found["after"]):
        if image is not None:
            image["gone"] = "x"
    out = io.BytesIO()
    fastavro.schemaless_writer(out, writing, found)
    return header(EARLIER) + out.getvalue()


@given(st.data(), stages())
def test_anything_else_is_malformed_and_counts_nothing(data: st.DataObject, stage: Stage) -> None:
    agreed = tuple(a for a in stage.world.agreements if a.id in stage.plan.agreements)
    if not agreed:
        return
    _, records = live(stage, data.draw(changes(stage.world.dataset)), (False,) * len(stage.world.agreements), [0] * 9)
    _, verified, key = records[-1]
    read, seqs = reader(stage, replace(agreed[0])), [0]
    for bad in (b"", verified[:4], b"\0\0\0\0\0" + verified[5:], verified[: data.draw(st.integers(5, 30))]):
        with pytest.raises(Malformed):
            read.treat(bad, key, stage.replica.get, seqs, 0)
    assert seqs == [0]
