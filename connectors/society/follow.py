"""How sectors keep up with the register: they copy a changed name or PIN, mostly, and mend records found wrong.

It works from the schemas' annotations alone, so it holds for every agency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bus.avro.dataset import Dataset, Role
from connectors.society.desk import Desk
from connectors.society.events import Event, NameChange, PinCorrection
from connectors.society.people import Person
from connectors.society.slips import Row, Slip

_FOLLOWED = 0.8
"""Share of records that follow a change in the register; the others are out of date from then on."""


def follow_name(desk: Desk, event: NameChange) -> None:
    """Bring the person's records to the new name."""
    for dataset, role, row in _records(desk, event.person.pin):
        column = role.match.get("full_name")
        if column is None or row[column] is None:
            continue
        errors = desk.open_errors(dataset.table, row, role.name)
        if row[column] == event.full_name:
            desk.truth.settle([e for e in errors if e["field"] == column], desk.now)
            continue
        if any(e["field"] == role.pin for e in errors):
            continue  # another person's record, which bears this PIN by mistake
        if any(e["field"] == column and e["expected"] != "MATCH" for e in errors):
            desk.truth.retarget(errors, event.full_name)
        elif errors or desk.rng.random() < _FOLLOWED:
            if desk.update(dataset.table, row, **{column: event.full_name}):
                desk.truth.settle([e for e in errors if e["field"] == column], desk.now)
        else:
            desk.record(dataset.table, row, Slip(role.name, "name_outdated", column, "MISMATCH", event.full_name))


def follow_pin(desk: Desk, event: PinCorrection) -> None:
    """Bring the person's records to the new PIN."""
    old = event.person.pin
    for dataset, role, row in _records(desk, old):
        errors = desk.open_errors(dataset.table, row, role.name)
        if any(e["field"] == role.pin for e in errors):
            desk.truth.expect(errors, "NOT_FOUND")  # it bore this person's PIN by mistake, and now nobody's
        elif errors or desk.rng.random() < _FOLLOWED:
            desk.update(dataset.table, row, **{role.pin: event.pin})
        else:
            desk.record(dataset.table, row, Slip(role.name, "pin_outdated", role.pin, "NOT_FOUND", event.pin))
    desk.truth.retarget_all(old, event.pin)


FOLLOW: Mapping[type[Event], Callable[[Desk, Any], None]] = {NameChange: follow_name, PinCorrection: follow_pin}
"""Events in the register that every sector copies."""


def mend(desk: Desk, find: Callable[[str], Person | None]) -> None:
    """Put one record right that verification would find wrong; `find` asks the register."""
    error = desk.truth.draw(desk.rng)
    if error is None:
        return
    dataset = desk.datasets[error["table_name"]]
    role = desk.role(dataset.table, error["role"])
    row = desk.by_row_key(dataset.table, error["row_key"])
    changes = {error["field"]: error["right_value"]}
    if error["field"] == role.pin:
        person = find(error["right_value"])
        if person is None:
            return
        if (column := role.match.get("full_name")) and row and row[column] is not None:
            changes[column] = person.full_name
    if row is None or desk.update(dataset.table, row, **changes):
        desk.truth.settle([error], desk.now)


def _records(desk: Desk, pin: str) -> Iterator[tuple[Dataset, Role, Row]]:
    """Every role of every record of this agency that bears the PIN."""
    for dataset in desk.datasets.values():
        for role in dataset.people:
            for row in desk.bearing(dataset.table, role.pin, pin):
                yield dataset, role, row
