"""People and households as values, made from a seed: the same seed and index give the same neighbourhood anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random

from connectors.society import names, places

AS_OF = date(2026, 1, 1)
"""The day the society is seeded for. Nobody in it is born later, so no newborn of `live` can meet a seeded PIN."""
MERGER = date(2025, 7, 1)
"""Provinces and communes were merged."""
NEIGHBOURHOOD = 250
"""People in one neighbourhood: the unit that is generated, and forgotten, at once."""
MOST_PEOPLE = 1_000_000
"""A PIN ends in six digits that we take from the person's number: up to here all are different."""
_SERIAL_STEP = 618_033  # coprime to 10^6: consecutive numbers spread over all serials


@dataclass(slots=True)
class Person:
    """What the register knows of a person. `birth_date` is ISO text, as precise as it is known."""

    pin: str
    full_name: str
    birth_date: str
    sex: str
    ethnicity: str
    religion: str | None
    birth_province_code: str
    address: str
    ward_code: str
    province_code: str
    father_pin: str | None = None
    mother_pin: str | None = None
    marital_status: str = "single"
    old_id_number: str | None = None
    phone: str | None = None
    status: str = "alive"
    deceased_on: date | None = None
    number: int = 0
    """Counts the people of the society from 0; 0 also for people read back from the register."""

    @property
    def birth_year(self) -> int:
        return int(self.birth_date[:4])

    @property
    def birth_day(self) -> date | None:
        """The exact day, where it is known."""
        return date.fromisoformat(self.birth_date) if len(self.birth_date) == 10 else None

    def age(self, on: date) -> int:
        return on.year - self.birth_year


@dataclass(slots=True)
class Household:
    """People at one address: a couple or a single adult, their children, perhaps a parent of theirs."""

    husband: Person | None
    wife: Person | None
    children: list[Person] = field(default_factory=list)
    elders: list[Person] = field(default_factory=list)
    married_on: date | None = None

    def adults(self) -> list[Person]:
        return [p for p in (self.husband, self.wife) if p]

    def members(self) -> list[Person]:
        return [*self.adults(), *self.elders, *self.children]


@dataclass(slots=True)
class Neighbourhood:
    """About seventy households of one province."""

    index: int
    province_code: str
    households: list[Household]

    def people(self) -> list[Person]:
        return [p for h in self.households for p in h.members()]


def pin_of(number: int, birth_province_code: str, sex: str, born: date) -> str:
    """12 digits: province of birth, century and sex, two digits of the year, six digits."""
    century_and_sex = (born.year // 100 - 19) * 2 + (sex == "F")
    return f"{birth_province_code}{century_and_sex}{born.year % 100:02}{number * _SERIAL_STEP % 1_000_000:06}"


def neighbourhoods(people: int, seed: int) -> Iterator[Neighbourhood]:
    """A society of exactly `people`, one neighbourhood at a time."""
    for index in range(-(-people // NEIGHBOURHOOD)):
        yield neighbourhood(seed, index, min(NEIGHBOURHOOD, people - index * NEIGHBOURHOOD))


def neighbourhood(seed: int, index: int, size: int = NEIGHBOURHOOD) -> Neighbourhood:
    rng = Random(f"{seed}/{index}")
    maker = _Maker(rng, places.province(rng), index * NEIGHBOURHOOD)
    wards = [places.place(rng, maker.province_code) for _ in range(3)]
    made = Neighbourhood(index, maker.province_code, [])
    left = size
    while left:
        household = maker.household(rng.choice(wards), left)
        made.households.append(household)
        left -= len(household.members())
    return made


def newborn(rng: Random, number: int, mother: Person, father: Person | None, born: date) -> Person:
    """A child at its mother's address, with the father's family name where there is one."""
    sex = "M" if rng.random() < 0.52 else "F"
    family = (father or mother).full_name.split()[0]
    code = places.birth_province(rng, mother.province_code, before_merger=born < MERGER)
    return Person(
        pin=pin_of(number, code, sex, born),
        full_name=names.full_name(rng, family, sex),
        birth_date=born.isoformat(),
        sex=sex,
        ethnicity=(father or mother).ethnicity,
        religion=mother.religion,
        birth_province_code=code,
        address=mother.address,
        ward_code=mother.ward_code,
        province_code=mother.province_code,
        father_pin=father.pin if father else None,
        mother_pin=mother.pin,
        number=number,
    )


class _Maker:
    """Makes the households of one neighbourhood, giving out person numbers in order."""

    def __init__(self, rng: Random, province_code: str, first_number: int) -> None:
        self.rng = rng
        self.province_code = province_code
        self.number = first_number

    def household(self, ward: places.Place, room: int) -> Household:
        """A household of at most `room` people."""
        rng = self.rng
        where = places.address(rng, ward)
        kind = rng.random()
        if room < 8 or kind < 0.15:
            return self._single(ward, where, room)
        made = self._couple(ward, where, elderly=kind > 0.9)
        if kind < 0.4 and made.husband:
            made.elders.append(self._elder(ward, where, made.husband))
        return made

    def _single(self, ward: places.Place, where: str, room: int) -> Household:
        rng = self.rng
        sex = rng.choice("MF")
        standing = rng.choice(("single", "single", "divorced", "widowed"))
        one = self._adult(ward, where, sex, self._day(AS_OF.year - rng.randint(19, 65)), standing)
        if sex == "M":
            return Household(one, None)
        children = []
        if room > 1 and one.age(AS_OF) < 45 and rng.random() < 0.4:
            children.append(self._child(one, None, one.birth_year + 18))
        return Household(None, one, [c for c in children if c])

    def _couple(self, ward: places.Place, where: str, elderly: bool) -> Household:
        rng = self.rng
        year = AS_OF.year - (rng.randint(61, 88) if elderly else rng.randint(23, 60))
        husband = self._adult(ward, where, "M", self._day(year), "married")
        wife = self._adult(ward, where, "F", self._day(min(year + rng.randint(-2, 6), AS_OF.year - 19)), "married")
        married = self._day(min(max(year + rng.randint(22, 30), wife.birth_year + 18), AS_OF.year - 1))
        made = Household(husband, wife, married_on=married)
        born = married.year + rng.randint(0, 2)
        for _ in range(0 if elderly else rng.choice((0, 1, 1, 2, 2, 2, 3))):
            if child := self._child(wife, husband, born):
                made.children.append(child)
            born += rng.randint(2, 5)
        return made

    def _elder(self, ward: places.Place, where: str, child: Person) -> Person:
        rng = self.rng
        sex = "F" if rng.random() < 0.65 else "M"
        family = child.full_name.split()[0] if sex == "M" else None
        elder = self._adult(ward, where, sex, self._day(child.birth_year - rng.randint(20, 34)), "widowed", family)
        if elder.age(AS_OF) > 72 and rng.random() < 0.4:
            elder.status, elder.deceased_on = "deceased", AS_OF - timedelta(days=rng.randint(20, 2500))
        if sex == "F":
            child.mother_pin = elder.pin
        else:
            child.father_pin = elder.pin
        return elder

    def _child(self, mother: Person, father: Person | None, earliest_year: int) -> Person | None:
        """A child born in that year or up to two later; none where that lies beyond the seeded day or childhood."""
        year = max(earliest_year, AS_OF.year - 24) + self.rng.randint(0, 2)
        if year >= AS_OF.year or year - mother.birth_year > 46:
            return None
        child = newborn(self.rng, self._next(), mother, father, self._day(year))
        if child.age(AS_OF) >= 18:
            child.phone = self._phone()
        return child

    def _adult(
        self, ward: places.Place, where: str, sex: str, born: date, marital_status: str, family: str | None = None
    ) -> Person:
        rng = self.rng
        code = places.birth_province(rng, self.province_code, before_merger=True)
        number = self._next()
        text = born.isoformat()
        if born.year < 1965:  # old registers often knew no more than the year
            text = text[: rng.choice((4, 4, 7, 10, 10, 10))]
        return Person(
            pin=pin_of(number, code, sex, born),
            full_name=names.full_name(rng, family or names.family_name(rng), sex),
            birth_date=text,
            sex=sex,
            ethnicity=names.ethnicity(rng),
            religion=names.religion(rng),
            birth_province_code=code,
            address=where,
            ward_code=ward.ward_code,
            province_code=ward.province_code,
            marital_status=marital_status,
            old_id_number=f"{rng.randrange(10**9):09}" if born.year < 2000 else None,
            phone=self._phone() if rng.random() < 0.9 else None,
            number=number,
        )

    def _next(self) -> int:
        self.number += 1
        return self.number - 1

    def _day(self, year: int) -> date:
        return date(year, 1, 1) + timedelta(days=self.rng.randrange(365))

    def _phone(self) -> str:
        return f"0{self.rng.choice((3, 5, 7, 8, 9))}{self.rng.randrange(10**8):08}"
