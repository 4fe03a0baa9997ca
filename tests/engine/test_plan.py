"""A compiled plan does what decoding, deciding and encoding would do, byte for byte, and nothing at all when it refuses."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro.frame import Malformed
from bus.core.outcome import DeadCode
from bus.engine.plan import NO_VERDICT, Record
from tests.engine.reference import gravest, verify
from tests.engine.worlds import MAX_RECORD_BYTES, Stage, changes, row_of, stages


def run(stage: Stage, value: bytes, key: bytes, force: list[bool] | None = None) -> tuple[list[Record], bytes]:
    out: list[Record] = []
    force = [True] * len(stage.seqs) if force is None else force
    tally = stage.plan.handle(value, key, stage.replica.get, stage.seqs, force, out)
    return out, tally


@given(st.data())
@settings(max_examples=100)
def test_a_plan_is_decode_decide_encode(data: st.DataObject) -> None:
    stage = data.draw(stages())
    for _ in range(3):
        value, key = stage.change(*data.draw(changes(stage.world.dataset)))
        force = [data.draw(st.integers(0, 9)) > 0 for _ in stage.seqs]
        expected = stage.reference.handle(value, key, force)
        out, _ = run(stage, value, key, force)
        assert out == expected, stage.plan.source
        assert stage.seqs == stage.reference.seqs


@given(st.data())
def test_a_tally_tells_verdict_and_outcomes(data: st.DataObject) -> None:
    stage = data.draw(stages())
    op, before, after = data.draw(changes(stage.world.dataset))
    value, key = stage.change(op, before, after)
    out, tally = run(stage, value, key)
    row = after if after is not None else before
    assert row is not None
    verified = bool(stage.world.dataset.people) and not stage.world.dataset.register
    verdict = gravest(verify(stage.world, row, key)[0]) if verified else None
    assert stage.plan.verdict(tally) == (verdict or NO_VERDICT)
    delivered = [f"agency.{name}" for name, outcome in stage.plan.outcomes(tally) if outcome == "DELIVERED"]
    assert delivered == [topic for topic, _, _ in out[:-1]]


def nothing_happens(stage: Stage, value: Any, key: Any) -> DeadCode:
    """The plan refuses, in short time, and leaves nothing behind."""
    before, out = list(stage.seqs), list[Record]()
    begun = time.process_time()
    with pytest.raises(Malformed) as caught:
        stage.plan.handle(value, key, stage.replica.get, stage.seqs, [True] * len(stage.seqs), out)
    assert time.process_time() - begun < 1.0
    assert out == []
    assert stage.seqs == before
    assert str(caught.value) == caught.value.code.value, "the error says no more than its code"
    return caught.value.code


@given(st.data())
@settings(max_examples=15)
def test_every_truncation_is_refused_whole(data: st.DataObject) -> None:
    stage = data.draw(stages())
    value, key = stage.change(*data.draw(changes(stage.world.dataset)))
    for length in range(len(value)):
        code = nothing_happens(stage, value[:length], key)
        assert code is (DeadCode.BAD_FRAME if length < 5 else DeadCode.MALFORMED)
    for tail in (b"\0", b"\2", b"\x80"):
        nothing_happens(stage, value + tail, key)


@given(st.data())
@settings(max_examples=100)
def test_a_corrupted_event_is_refused_whole_or_treated_as_what_it_now_says(data: st.DataObject) -> None:
    stage = data.draw(stages())
    good, key = stage.change(*data.draw(changes(stage.world.dataset)))
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(5, len(raw) - 1))] = data.draw(
            st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 4, 128, 255]))
        )
    value = bytes(raw)
    try:
        out, _ = run(stage, value, key)
    except Malformed:
        nothing_happens(stage, value, key)
        return
    with contextlib.suppress(OverflowError):  # a date that Python's calendar does not have
        assert out == stage.reference.handle(value, key, [True] * len(stage.seqs))


@given(st.data(), st.binary(max_size=400))
def test_noise_is_refused_whole(data: st.DataObject, noise: bytes) -> None:
    """Noise that happens to be an event is one for the reference too; all other noise leads to nothing."""
    stage = data.draw(stages())
    _, key = stage.change(*data.draw(changes(stage.world.dataset)))
    assert nothing_happens(stage, b"\1" + noise, key) is DeadCode.BAD_FRAME
    foreign = (stage.change_id + 1).to_bytes(4, "big")
    assert nothing_happens(stage, b"\0" + foreign + noise, key) is DeadCode.UNKNOWN_SCHEMA
    header = b"\0" + stage.change_id.to_bytes(4, "big")
    with contextlib.suppress(Malformed):
        run(stage, header + noise, key)
        stage.reference.handle(header + noise, key, [True] * len(stage.seqs))  # raises Refused where the plan should have


@given(st.data())
@settings(max_examples=10)
def test_what_is_too_large_is_not_even_walked(data: st.DataObject) -> None:
    stage = data.draw(stages())
    value, key = stage.change(*data.draw(changes(stage.world.dataset)))
    for unit in (b"\x80", b"\0", b"\2"):
        assert nothing_happens(stage, value + unit * MAX_RECORD_BYTES, key) is DeadCode.TOO_LARGE
        assert nothing_happens(stage, (value + unit * MAX_RECORD_BYTES)[:MAX_RECORD_BYTES], key) is DeadCode.MALFORMED
    assert nothing_happens(stage, None, key) is DeadCode.BAD_FRAME
    assert nothing_happens(stage, b"", key) is DeadCode.BAD_FRAME
    for bad in (None, b"", key[:15], key + b"\0"):
        nothing_happens(stage, value, bad)


@given(st.data())
@settings(max_examples=100)
def test_a_field_that_is_not_granted_changes_nothing_that_is_delivered(data: st.DataObject) -> None:
    """Two worlds that differ in one column only give each agreement that neither grants, filters by nor verifies it the same."""
    stage = data.draw(stages())
    dataset, register = stage.world.dataset, stage.world.register
    op, before, after = data.draw(changes(dataset))
    named = {*dataset.primary_key, *(c for r in dataset.people for c in (r.pin, *r.match.values()))}
    free = sorted(set(dataset.fields) - named)
    if not free:
        return
    column = data.draw(st.sampled_from(free))
    other = data.draw(row_of(dataset))[column]
    altered = [None if row is None else row | {column: other} for row in (before, after)]
    blind = {
        a.id
        for a in stage.world.agreements
        for g in a.grants
        if g.dataset == dataset.name and column not in {f.name for f in g.fields} | {c for c, _ in g.where}
    }
    twin = Stage(dataset, register, stage.world.agreements, dict(stage.world.people))
    one, _ = run(stage, *stage.change(op, before, after))
    two, _ = run(twin, *twin.change(op, *altered))
    for agreement in blind:
        topic = f"agency.{agreement}"
        assert [r for r in one if r[0] == topic] == [r for r in two if r[0] == topic]


@given(st.data())
def test_a_register_column_that_is_not_granted_changes_nothing_that_is_delivered(data: st.DataObject) -> None:
    stage = data.draw(stages())
    dataset, register = stage.world.dataset, stage.world.register
    checked = {"pin", *(f for r in dataset.people for f in r.match)}
    free = sorted(set(register.fields) - checked)
    if not free or dataset.register:
        return
    column = data.draw(st.sampled_from(free))
    people = {
        pin: type(k)(k.row | {column: data.draw(row_of(register))[column]}, k.offset) for pin, k in stage.world.people.items()
    }
    twin = Stage(dataset, register, stage.world.agreements, people)
    value, key = stage.change(*data.draw(changes(dataset)))
    one, _ = run(stage, value, key)
    two, _ = run(twin, value, key)
    for a in stage.world.agreements:
        if all(f"register.{column}" != f.name for g in a.grants for f in g.fields):
            assert [r for r in one if r[0] == f"agency.{a.id}"] == [r for r in two if r[0] == f"agency.{a.id}"]


@given(st.data())
def test_a_key_that_is_another_persons_is_refused(data: st.DataObject) -> None:
    """Else the one's row would be verified against the other's record, and be delivered with it."""
    stage = data.draw(stages())
    dataset = stage.world.dataset
    if not dataset.people or dataset.register or len(stage.world.people) < 2:
        return
    one, other = sorted(stage.world.people)[:2]
    row = data.draw(row_of(dataset)) | {dataset.people[0].pin: one}
    value, _ = stage.change("c", None, row)
    assert nothing_happens(stage, value, stage.world.person_key(other)) is DeadCode.MALFORMED


@given(st.data())
def test_an_update_into_another_row_or_person_is_refused(data: st.DataObject) -> None:
    """Whatever the key's type and place: two rows of different keys, or of different subjects, are no update of one."""
    stage = data.draw(stages())
    dataset = stage.world.dataset
    before, after = data.draw(row_of(dataset)), data.draw(row_of(dataset))
    fixed = [*dataset.primary_key, *(role.pin for role in dataset.people[:1])]
    value, key = stage.change("u", before, after)
    if all((before[c] or "") == (after[c] or "") for c in fixed):
        run(stage, value, key)
    else:
        assert nothing_happens(stage, value, key) is DeadCode.MALFORMED
