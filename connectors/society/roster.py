"""People on hand for things to happen to: a random sample of the register, refreshed as it is used up."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from random import Random

from connectors.society.agency import Agency
from connectors.society.desk import Desk
from connectors.society.people import Person

_SAMPLE = 400
_WIDEST_AGE_GAP = 15
_TRIES = 3


class Roster:
    """Draws people by what can happen to them. Whoever is drawn is read from the register again, as the sample ages.

    `busy` holds the PINs of people with something still under way somewhere, `changing` of those whose name or PIN is just
    being changed: they are not drawn at all, lest an agency write down what is about to be wrong.
    """

    def __init__(self, desk: Desk, register: Agency, rng: Random, busy: Collection[str], changing: Collection[str]) -> None:
        assert register.sample
        assert register.find
        self._desk, self._sample, self._find = desk, register.sample, register.find
        self._rng = rng
        self._busy, self._changing = busy, changing
        self._groups: dict[str, list[tuple[Person, ...]]] = {}

    def number(self) -> int:
        """A person number nobody has had."""
        return self._desk.number()

    def find(self, pin: str | None) -> Person | None:
        return self._find(self._desk, pin) if pin and pin not in self._changing else None

    def adult(self) -> Person | None:
        return self._one("adults")

    def idle_adult(self) -> Person | None:
        """An adult with nothing under way: whose name or PIN may change now."""
        person = self._one("adults")
        return person if person and person.pin not in self._busy else None

    def child(self) -> Person | None:
        return self._one("children")

    def old(self) -> Person | None:
        return self._one("old")

    def loosely_dated(self) -> Person | None:
        """Someone of whom the register does not know the day of birth."""
        person = self._one("loosely dated")
        return person if person and len(person.birth_date) < 10 else None

    def couple(self) -> tuple[Person, Person] | None:
        """A married man and woman at one address."""
        pair = self._group("couples")
        return pair if pair and all(p.marital_status == "married" for p in pair) else None

    def unmarried_pair(self) -> tuple[Person, Person] | None:
        man, woman = self._one("unmarried men"), self._one("unmarried women")
        free = man and woman and man.marital_status != "married" and woman.marital_status != "married"
        return (man, woman) if man and woman and free else None

    def _one(self, group: str) -> Person | None:
        found = self._draw(group)
        return found[0] if found else None

    def _group(self, group: str) -> tuple[Person, Person] | None:
        found = self._draw(group)
        return (found[0], found[1]) if found else None

    def _draw(self, group: str) -> tuple[Person, ...] | None:
        """The next of a group, as the register has them now; None when there are none, or they died meanwhile."""
        if not self._groups.get(group):
            self._refresh()
        for _ in range(_TRIES):
            if not (waiting := self._groups[group]):
                return None
            now = tuple(p for p in (self.find(old.pin) for old in waiting.pop()) if p and p.status == "alive")
            if now:
                return now if group != "couples" or len(now) == 2 else None
        return None

    def _refresh(self) -> None:
        people = self._sample(self._desk, _SAMPLE)
        self._rng.shuffle(people)
        year = self._desk.today.year
        grown = [p for p in people if p.birth_year <= year - 18]
        young = [p for p in grown if p.birth_year >= year - 45 and p.marital_status != "married"]
        self._groups = {
            "adults": [(p,) for p in grown],
            "children": [(p,) for p in people if year - 17 <= p.birth_year <= year - 6],
            "old": [(p,) for p in grown if p.birth_year <= year - 55],
            "loosely dated": [(p,) for p in people if len(p.birth_date) < 10],
            "couples": _couples(grown),
            "unmarried men": [(p,) for p in young if p.sex == "M"],
            "unmarried women": [(p,) for p in young if p.sex == "F"],
        }


def _couples(people: list[Person]) -> list[tuple[Person, ...]]:
    homes: dict[tuple[str, str], list[Person]] = {}
    for person in people:
        if person.marital_status == "married":
            homes.setdefault((person.ward_code, person.address), []).append(person)
    found: list[tuple[Person, ...]] = []
    for living in homes.values():
        men, women = [p for p in living if p.sex == "M"], [p for p in living if p.sex == "F"]
        if len(men) == len(women) == 1 and abs(men[0].birth_year - women[0].birth_year) <= _WIDEST_AGE_GAP:
            found.append((men[0], women[0]))
    return found


def fertile(woman: Person, on: date) -> bool:
    return 19 <= woman.age(on) <= 44
