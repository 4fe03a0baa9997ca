"""The national population database: the register of everybody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from connectors.society import events
from connectors.society.agency import Agency
from connectors.society.desk import Desk
from connectors.society.people import AS_OF, Neighbourhood, Person
from connectors.society.slips import Row

_COLUMNS = tuple(f.name for f in fields(Person) if f.name != "number")
_EPOCH = datetime(AS_OF.year, AS_OF.month, AS_OF.day, tzinfo=UTC)
_SAMPLE_PAGES_ROWS = 30
"""About how many people stand on one page of the table."""


def _row(person: Person, updated_at: datetime) -> Row:
    return {c: getattr(person, c) for c in _COLUMNS} | {"updated_at": updated_at}


def _person(row: Row) -> Person:
    return Person(**{c: row[c] for c in _COLUMNS})


def _settle(neighbourhood: Neighbourhood, rng: Random) -> Iterator[tuple[str, Row]]:
    for person in neighbourhood.people():
        yield "person", _row(person, _EPOCH - timedelta(seconds=rng.randrange(3 * 365 * 86400)))


def _update(desk: Desk, who: str, **changes: Any) -> None:
    desk.update("person", {"pin": who}, **changes)


def _birth(desk: Desk, event: events.Birth) -> None:
    desk.insert("person", _row(event.child, desk.now))


def _death(desk: Desk, event: events.Death) -> None:
    _update(desk, event.person.pin, status="deceased", deceased_on=event.on)
    if event.spouse:
        _update(desk, event.spouse.pin, marital_status="widowed")


def _marriage(desk: Desk, event: events.Marriage) -> None:
    """Both are married; the wife is registered at the husband's address."""
    home = event.husband
    _update(desk, home.pin, marital_status="married")
    _update(
        desk,
        event.wife.pin,
        marital_status="married",
        address=home.address,
        ward_code=home.ward_code,
        province_code=home.province_code,
    )


def _divorce(desk: Desk, event: events.Divorce) -> None:
    _update(desk, event.husband.pin, marital_status="divorced")
    _update(desk, event.wife.pin, marital_status="divorced")


def _move(desk: Desk, event: events.Move) -> None:
    """The person, and the children at the same address, whichever parent moves."""
    who = event.person
    youngest_adult = str(event.on.year - 18)
    children = desk.query(
        "SELECT pin FROM person WHERE ward_code = %s AND address = %s AND birth_date > %s AND status = 'alive'"
        " AND %s IN (mother_pin, father_pin)",
        (who.ward_code, who.address, youngest_adult, who.pin),
    )
    for pin in (who.pin, *(c["pin"] for c in children)):
        _update(desk, pin, address=event.address, ward_code=event.to.ward_code, province_code=event.to.province_code)


def _name_change(desk: Desk, event: events.NameChange) -> None:
    _update(desk, event.person.pin, full_name=event.full_name)


def _pin_correction(desk: Desk, event: events.PinCorrection) -> None:
    """The new PIN, also where the person stands as a parent: one transaction."""
    old = event.person.pin
    _update(desk, old, pin=event.pin)
    children = desk.query(
        "SELECT pin, mother_pin = %s AS of_mother FROM person WHERE ward_code = %s AND %s IN (mother_pin, father_pin)",
        (old, event.person.ward_code, old),
    )
    for child in children:
        _update(desk, child["pin"], **{"mother_pin" if child["of_mother"] else "father_pin": event.pin})


def _birth_date_completed(desk: Desk, event: events.BirthDateCompleted) -> None:
    _update(desk, event.person.pin, birth_date=event.birth_date)


def _phone_change(desk: Desk, event: events.PhoneChange) -> None:
    _update(desk, event.person.pin, phone=event.phone)


def _checked(desk: Desk, event: events.Checked) -> None:
    _update(desk, event.person.pin)


def _double_entry(desk: Desk, event: events.DoubleEntry) -> None:
    desk.insert("person", _row(event.twin, desk.now))


def _double_entry_removed(desk: Desk, event: events.DoubleEntryRemoved) -> None:
    desk.delete("person", {"pin": event.twin.pin})


def _sample(desk: Desk, people: int) -> list[Person]:
    """Whole pages, drawn at random: a household's people were written together and mostly still stand together."""
    pages = desk.query("SELECT greatest(relpages, 1) AS n FROM pg_class WHERE oid = 'person'::regclass")[0]["n"]
    share = min(100.0, 100 * max(people / _SAMPLE_PAGES_ROWS, 1) / pages)
    found = desk.query(
        "SELECT * FROM person TABLESAMPLE SYSTEM (%s) REPEATABLE (%s) WHERE status = 'alive' LIMIT %s",
        (share, desk.rng.randrange(2**31), 4 * people),
    )
    return [_person(row) for row in found]


def _find(desk: Desk, pin: str) -> Person | None:
    found = desk.query("SELECT * FROM person WHERE pin = %s", (pin,))
    return _person(found[0]) if found else None


AGENCY = Agency(
    tables=("person",),
    settle=_settle,
    reactions={
        events.Birth: (1.5, _birth),
        events.Death: (1.0, _death),
        events.Marriage: (1.0, _marriage),
        events.Divorce: (1.0, _divorce),
        events.Move: (0.0, _move),
        events.NameChange: (0.0, _name_change),
        events.PinCorrection: (0.0, _pin_correction),
        events.BirthDateCompleted: (0.0, _birth_date_completed),
        events.PhoneChange: (0.0, _phone_change),
        events.Checked: (0.0, _checked),
        events.DoubleEntry: (0.0, _double_entry),
        events.DoubleEntryRemoved: (0.0, _double_entry_removed),
    },
    sample=_sample,
    find=_find,
)
