"""What happens to people. The events say nothing of databases: each agency decides what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from connectors.society.people import Person
from connectors.society.places import Place


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened on a day."""

    on: date


@dataclass(frozen=True, slots=True)
class Birth(Event):
    child: Person
    mother: Person
    father: Person | None


@dataclass(frozen=True, slots=True)
class Death(Event):
    person: Person
    spouse: Person | None
    declarant: Person | None


@dataclass(frozen=True, slots=True)
class Marriage(Event):
    husband: Person
    wife: Person


@dataclass(frozen=True, slots=True)
class Divorce(Event):
    husband: Person
    wife: Person


@dataclass(frozen=True, slots=True)
class Move(Event):
    """A person moves, with the children at the same address."""

    person: Person
    to: Place
    address: str


@dataclass(frozen=True, slots=True)
class NameChange(Event):
    """The register has another name from now on (change or correction of a name)."""

    person: Person
    full_name: str


@dataclass(frozen=True, slots=True)
class PinCorrection(Event):
    """The register gave a wrong PIN and replaces it."""

    person: Person
    pin: str


@dataclass(frozen=True, slots=True)
class BirthDateCompleted(Event):
    """The register knew the year or month only, and now knows the day."""

    person: Person
    birth_date: str


@dataclass(frozen=True, slots=True)
class PhoneChange(Event):
    person: Person
    phone: str


@dataclass(frozen=True, slots=True)
class Checked(Event):
    """An officer looked at the record and saved it: nothing changed but the time of saving."""

    person: Person


@dataclass(frozen=True, slots=True)
class DoubleEntry(Event):
    """A person was entered a second time, under another PIN."""

    twin: Person


@dataclass(frozen=True, slots=True)
class DoubleEntryRemoved(Event):
    twin: Person


@dataclass(frozen=True, slots=True)
class Purchase(Event):
    """People buy something that is entered in a public register."""

    buyers: tuple[Person, ...]


@dataclass(frozen=True, slots=True)
class Hired(Event):
    """A person takes up work."""

    person: Person
    salary: int
    """Dong a month."""


@dataclass(frozen=True, slots=True)
class SchoolStart(Event):
    """A child begins a school year."""

    child: Person
    guardian: Person | None


@dataclass(frozen=True, slots=True)
class Appointment(Event):
    """A person becomes head of a public institution near home."""

    person: Person
