"""What an agreement hides leaves no trace in what it delivers: two worlds that differ in hidden things only give one stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro.dataset import Dataset
from bus.avro.frame import HEADER_BYTES
from bus.core.agreement import Agreement, Grant
from bus.engine.plan import Record
from tests.engine.reference import Known, Row
from tests.engine.worlds import Stage, changes, row_of, stages

Event = tuple[str, Row | None, Row | None]
ID_BYTES = 16


def grant_of(agreement: Agreement, dataset: Dataset) -> Grant | None:
    return next((g for g in agreement.grants if g.dataset == dataset.name), None)


def minds_verdicts(grant: Grant, dataset: Dataset) -> bool:
    return bool(dataset.people) and not dataset.register and bool(grant.verdicts or grant.share_verdict)


def hidden(dataset: Dataset, grant: Grant) -> list[str]:
    """Columns of the row that the agreement neither gets nor filters by, and by which it learns no verdict."""
    open_to_it = {f.name for f in grant.fields} | {c for c, _ in grant.where} | set(dataset.primary_key)
    open_to_it |= {r.pin for r in dataset.people[:1]}  # it decides whom the row is about: message key, lane, register.*
    if minds_verdicts(grant, dataset):
        open_to_it |= {c for r in dataset.people for c in (r.pin, *r.match.values())}
    return sorted(set(dataset.fields) - open_to_it)


def hidden_of_register(dataset: Dataset, register: Dataset, grant: Grant) -> list[str]:
    open_to_it = {f.name.removeprefix("register.") for f in grant.fields} | {r.pin for r in register.people}
    if minds_verdicts(grant, dataset):
        open_to_it |= {f for r in dataset.people for f in r.match}
    return sorted(set(register.fields) - open_to_it)


def others(rows: st.SearchStrategy[Row], columns: list[str], row: Row | None, data: st.DataObject) -> Row | None:
    """The row with anything else in these columns."""
    return None if row is None else row | {c: v for c, v in data.draw(rows).items() if c in columns}


def stream(stage: Stage, events: list[tuple[int, Event]], agreement: Agreement) -> list[Record]:
    """All that the agreement gets, topic, key and bytes: event ids and sequence numbers included."""
    out: list[Record] = []
    for number, event in events:
        value, key = stage.change(*event)
        told = value[:HEADER_BYTES] + number.to_bytes(ID_BYTES, "big") + value[HEADER_BYTES + ID_BYTES :]
        stage.plan.handle(told, key, stage.replica.get, stage.seqs, (True,) * len(stage.seqs), out)
    return [r for r in out if r[0] == f"agency.{agreement.id}"]


def twin_people(stage: Stage, columns: list[str], data: st.DataObject) -> dict[str, Known]:
    """Everybody in the register under the same PIN, with anything else in these columns, and at other offsets."""
    rows = row_of(stage.world.register)
    found = {}
    for pin, known in stage.world.people.items():
        row = others(rows, columns, known.row, data)
        assert row is not None
        found[pin] = replace(known, row=row, offset=data.draw(st.integers(0, 10**6)))
    return found


def noise(data: st.DataObject, rows: st.SearchStrategy[Row], columns: list[str], event: Event) -> Event | None:
    """An update of hidden columns alone of the row as the event leaves it: the notice itself would tell something."""
    row = event[2]
    return None if row is None or not columns or data.draw(st.booleans()) else ("u", row, others(rows, columns, row, data))


@given(st.data(), stages())
@settings(max_examples=60)
def test_worlds_that_differ_in_what_an_agreement_hides_give_it_the_same_stream(data: st.DataObject, stage: Stage) -> None:
    """Record for record, over several events: rows with anything else in every hidden column, before and after; people with
    anything else in the register; and beside them updates of nothing but hidden columns. By the kernel and by Python."""
    dataset, register = stage.world.dataset, stage.world.register
    rows = row_of(dataset)
    events: list[Event] = data.draw(st.lists(changes(dataset), min_size=1, max_size=4))
    for agreement in stage.world.agreements:
        grant = grant_of(agreement, dataset)
        if grant is None:
            continue
        columns = hidden(dataset, grant)
        of_register = [] if dataset.register else hidden_of_register(dataset, register, grant)
        twin = Stage(dataset, register, stage.world.agreements, twin_people(stage, of_register, data))
        altered: list[tuple[int, Event]] = []
        for number, (op, before, after) in enumerate(events):
            event = op, others(rows, columns, before, data), others(rows, columns, after, data)
            altered.append((number, event))
            if more := noise(data, rows, columns, event):
                altered.append((1_000 + number, more))
        stage.seqs[:] = [0] * len(stage.seqs)
        one, two = stream(stage, list(enumerate(events)), agreement), stream(twin, altered, agreement)
        assert one == two, (agreement.id, columns, of_register)


@given(st.data(), stages())
@settings(max_examples=30)
def test_what_is_not_hidden_shows(data: st.DataObject, stage: Stage) -> None:
    """Else the law above would hold of plans that deliver nothing: a create that differs in a granted plain column differs."""
    dataset = stage.world.dataset
    row: dict[str, Any] = data.draw(row_of(dataset))
    other = data.draw(row_of(dataset))
    for agreement in stage.world.agreements:
        grant = grant_of(agreement, dataset)
        if grant is None or grant.where or grant.verdicts:
            continue
        shown = [f.name for f in grant.fields if str(f.mask) == "plain" and f.name in dataset.fields]
        differing = [c for c in shown if row[c] != other[c] and c not in {*dataset.primary_key, *(r.pin for r in dataset.people)}]
        if differing:
            stage.seqs[:] = [0] * len(stage.seqs)
            one = stream(stage, [(1, ("c", None, row))], agreement)
            stage.seqs[:] = [0] * len(stage.seqs)
            two = stream(stage, [(1, ("c", None, row | {c: other[c] for c in differing}))], agreement)
            assert len(one) == len(two) == 1
            assert one != two
