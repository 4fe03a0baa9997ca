"""What may happen next, and how likely: each chance draws people from the roster and says what happens to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from random import Random

from connectors.society import events, names, people, places
from connectors.society.people import Person
from connectors.society.roster import Roster, fertile

Happening = list[tuple[float, events.Event]]
"""(seconds from now, event); empty when nobody suitable was at hand."""
Chance = Callable[[Roster, Random, date], Happening]


def _birth(roster: Roster, rng: Random, today: date) -> Happening:
    pair = roster.couple()
    if not pair or not fertile(pair[1], today):
        return []
    father = pair[0] if rng.random() < 0.93 else None
    born = max(today - timedelta(days=rng.randrange(1, 30)), people.AS_OF)
    child = people.newborn(rng, roster.number(), pair[1], father, born)
    return [(0.0, events.Birth(today, child, pair[1], father))]


def _death(roster: Roster, rng: Random, today: date) -> Happening:
    day = today - timedelta(days=rng.randrange(4))
    if (pair := roster.couple()) and pair[0].age(today) > 50 and rng.random() < 0.5:
        return [(0.0, events.Death(day, pair[0], pair[1], pair[1]))]
    person = roster.old()
    if person is None:
        return []
    declarant = roster.adult()
    return [(0.0, events.Death(day, person, None, declarant if declarant and declarant.pin != person.pin else None))]


def _marriage(roster: Roster, _: Random, today: date) -> Happening:
    pair = roster.unmarried_pair()
    return [(0.0, events.Marriage(today, *pair))] if pair else []


def _divorce(roster: Roster, _: Random, today: date) -> Happening:
    pair = roster.couple()
    return [(0.0, events.Divorce(today, *pair))] if pair else []


def _move(roster: Roster, rng: Random, today: date) -> Happening:
    """Half of the moves stay in the province. Ten people in a hundred are children who move to relatives."""
    person = roster.child() if rng.random() < 0.1 else roster.adult()
    if person is None:
        return []
    to = places.place(rng, person.province_code if rng.random() < 0.5 else None)
    return [(0.0, events.Move(today, person, to, places.address(rng, to)))]


def _name_change(roster: Roster, rng: Random, today: date) -> Happening:
    """Another middle name, or none: the family name and the given name stay."""
    person = roster.idle_adult()
    if person is None:
        return []
    family, given = person.full_name.split()[0], person.full_name.split()[-1]
    drawn = names.full_name(rng, family, person.sex).split()
    name = " ".join([family, *drawn[1:-1], given])
    return [(0.0, events.NameChange(today, person, name))] if name != person.full_name else []


def _pin_correction(roster: Roster, _: Random, today: date) -> Happening:
    person = roster.idle_adult()
    if person is None:
        return []
    pin = people.pin_of(roster.number(), person.birth_province_code, person.sex, date(person.birth_year, 1, 1))
    return [(0.0, events.PinCorrection(today, person, pin))]


def _birth_date_completed(roster: Roster, rng: Random, today: date) -> Happening:
    person = roster.loosely_dated()
    if person is None:
        return []
    month = person.birth_date[5:7] or f"{rng.randint(1, 12):02}"
    day = f"{person.birth_year}-{month}-{rng.randint(1, 28):02}"
    return [(0.0, events.BirthDateCompleted(today, person, day))]


def _phone_change(roster: Roster, rng: Random, today: date) -> Happening:
    person = roster.adult()
    return [(0.0, events.PhoneChange(today, person, f"09{rng.randrange(10**8):08}"))] if person else []


def _checked(roster: Roster, _: Random, today: date) -> Happening:
    person = roster.adult()
    return [(0.0, events.Checked(today, person))] if person else []


def _double_entry(roster: Roster, rng: Random, today: date) -> Happening:
    """The second entry is marked as under examination ('missing'), so that no agency uses it, and removed some time later."""
    person = roster.adult()
    if person is None:
        return []
    pin = people.pin_of(roster.number(), person.birth_province_code, person.sex, date(person.birth_year, 1, 1))
    twin = replace(person, pin=pin, old_id_number=None, status="missing")
    return [(0.0, events.DoubleEntry(today, twin)), (rng.uniform(1, 4), events.DoubleEntryRemoved(today, twin))]


def _purchase(roster: Roster, rng: Random, today: date) -> Happening:
    buyers: tuple[Person, ...] | None = roster.couple() if rng.random() < 0.6 else None
    if buyers is None and (one := roster.adult()):
        buyers = (one,)
    return [(0.0, events.Purchase(today, buyers))] if buyers else []


def _hired(roster: Roster, rng: Random, today: date) -> Happening:
    person = roster.adult()
    if person is None or person.age(today) > 60:
        return []
    return [(0.0, events.Hired(today, person, rng.randrange(50, 400) * 100_000))]


def _school_start(roster: Roster, _: Random, today: date) -> Happening:
    child = roster.child()
    return [(0.0, events.SchoolStart(today, child, roster.find(child.mother_pin)))] if child else []


def _appointment(roster: Roster, _: Random, today: date) -> Happening:
    person = roster.adult()
    return [(0.0, events.Appointment(today, person))] if person and 30 <= person.age(today) <= 60 else []


CHANCES: tuple[tuple[float, Chance], ...] = (
    (12.0, _birth),
    (4.0, _death),
    (5.0, _marriage),
    (1.0, _divorce),
    (12.0, _move),
    (2.0, _name_change),
    (1.0, _pin_correction),
    (1.0, _birth_date_completed),
    (8.0, _phone_change),
    (3.0, _checked),
    (1.0, _double_entry),
    (6.0, _purchase),
    (6.0, _hired),
    (8.0, _school_start),
    (1.0, _appointment),
)
