"""What goes wrong when people's data is written down by hand, and what only looks wrong.

A slip changes one value of one person's role in a record, and says which verdict the record then deserves.
Expected verdicts follow from how the slip is made, not from the bus's own comparison: the bus is what is to be tested.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from random import Random
from typing import Any

from bus.avro.dataset import Role
from connectors.society.people import Person

Row = dict[str, Any]
RATE = 0.05
"""Share of sector records that carry a slip."""
_TONES = "\u0300\u0301\u0303\u0309\u0323"
_OPEN_GLIDE = re.compile(f"([oO])([{_TONES}])([aAeE])(?![a-zA-Z\u0300-\u036f])|([uU])([{_TONES}])([yY])(?![a-zA-Z\u0300-\u036f])")


@dataclass(frozen=True, slots=True)
class Slip:
    """`right` is the value before, as text; None where there was none."""

    role: str
    kind: str
    field: str
    expected: str
    right: str | None


Make = Callable[[Any, Person, Sequence[Person], Random], Any]
"""(right value, the person, people nearby, randomness) -> wrong value, or None where this slip cannot be made here."""


def slip(row: Row, role: Role, person: Person, nearby: Sequence[Person], rng: Random) -> Slip | None:
    """Change one value of `role` in `row`, which describes `person` correctly. None when the slip drawn fits nothing in it."""
    kind, target, expected, make = rng.choices(_SLIPS, cum_weights=_STEPS)[0]
    column = role.pin if target == "pin" else role.match.get(target)
    if column is None or row[column] is None:
        return None
    right = row[column]
    if kind == "pin_missing":
        row[column] = None
    else:
        wrong = make(right, person, nearby, rng)
        if wrong is None or wrong == right:
            return None
        row[column] = wrong
    return Slip(role.name, kind, column, expected, str(right))


def _lost_mark(name: str, _: Person, __: Sequence[Person], rng: Random) -> str | None:
    """'Ánh' -> 'Anh': one letter loses its tone or its hook, which makes it another letter."""
    letters = [i for i, c in enumerate(name) if len(unicodedata.normalize("NFD", c)) > 1]
    if not letters:
        return None
    at = rng.choice(letters)
    return name[:at] + unicodedata.normalize("NFD", name[at])[0] + name[at + 1 :]


def _swapped_order(name: str, _: Person, __: Sequence[Person], ___: Random) -> str | None:
    """'Nguyễn Văn An' -> 'An Nguyễn Văn': given name first."""
    words = name.split()
    turned = [words[-1], *words[:-1]]
    return " ".join(turned) if turned != words else None


def _typo(name: str, _: Person, __: Sequence[Person], rng: Random) -> str:
    """A letter too few at the end, or one too many."""
    return name[:-1] if rng.random() < 0.5 and len(name.rsplit(maxsplit=1)[-1]) > 2 else name + name[-1]


def _day_month(value: Any, person: Person, _: Sequence[Person], __: Random) -> Any:
    """4 March -> 3 April; only where the register knows the day and the swap is a date."""
    born = person.birth_day
    if born is None or born.day > 12 or born.day == born.month:
        return None
    swapped = date(born.year, born.day, born.month)
    return _like(value, swapped) if isinstance(value, date) or value == born.isoformat() else None


def _wrong_year(value: Any, _: Person, __: Sequence[Person], rng: Random) -> Any:
    off = rng.choice((-10, -1, 1, 10))
    if isinstance(value, date):
        return date(value.year + off, value.month, min(value.day, 28))
    return value + off if isinstance(value, int) else f"{int(value[:4]) + off}{value[4:]}"


def _like(value: Any, day: date) -> Any:
    return day if isinstance(value, date) else day.isoformat()


def _other_sex(value: str, _: Person, __: Sequence[Person], ___: Random) -> str:
    return {"M": "F", "F": "M", "1": "2", "2": "1", "Nam": "Nữ", "Nữ": "Nam"}[value]


def _pin_digit(pin: str, _: Person, __: Sequence[Person], rng: Random) -> str:
    """A slip of the key that gives a number nobody has: no province's code, no century, or a digit too few."""
    return rng.choice((f"{rng.randint(1, 9)}{pin[1:]}", f"{pin[:3]}{rng.randint(4, 9)}{pin[4:]}", pin[:11]))


def _pin_of_other(_: str, person: Person, nearby: Sequence[Person], rng: Random) -> str | None:
    other = rng.choice(nearby) if nearby else person
    return other.pin if other.full_name.split()[-1] != person.full_name.split()[-1] else None


def _old_number(_: str, person: Person, __: Sequence[Person], ___: Random) -> str | None:
    return person.old_id_number


def _nfd(name: str, _: Person, __: Sequence[Person], ___: Random) -> str:
    return unicodedata.normalize("NFD", name)


def _tone_placement(name: str, _: Person, __: Sequence[Person], ___: Random) -> str:
    """'Hòa' -> 'Hoà', 'Thủy' -> 'Thuỷ': two schools of spelling."""
    apart = unicodedata.normalize("NFD", name)
    moved = _OPEN_GLIDE.sub(lambda m: "".join(m.group(1, 3, 2) if m.group(1) else m.group(4, 6, 5)), apart)
    return unicodedata.normalize("NFC", moved)


def _upper(name: str, _: Person, __: Sequence[Person], ___: Random) -> str:
    return name.upper()


def _spaces(name: str, _: Person, __: Sequence[Person], rng: Random) -> str:
    return name.replace(" ", "  ", 1) + rng.choice(("", " "))


def _year_only(value: Any, _: Person, __: Sequence[Person], ___: Random) -> str | None:
    return value[:4] if isinstance(value, str) else None


def _nothing(*_: Any) -> None:
    return None


# kind, register field it touches ('pin' for the number itself), expected verdict, maker, weight
_CATALOGUE: tuple[tuple[str, str, str, Make, int], ...] = (
    ("name_mark_lost", "full_name", "MISMATCH", _lost_mark, 14),
    ("name_order_swapped", "full_name", "MISMATCH", _swapped_order, 5),
    ("name_typo", "full_name", "MISMATCH", _typo, 8),
    ("birth_day_month_swapped", "birth_date", "MISMATCH", _day_month, 10),
    ("birth_year_wrong", "birth_date", "MISMATCH", _wrong_year, 8),
    ("sex_wrong", "sex", "MISMATCH", _other_sex, 6),
    ("pin_of_other", "pin", "MISMATCH", _pin_of_other, 6),
    ("pin_digit", "pin", "NOT_FOUND", _pin_digit, 9),
    ("pin_old_number", "pin", "NOT_FOUND", _old_number, 8),
    ("pin_missing", "pin", "NO_PIN", _nothing, 6),
    ("name_nfd", "full_name", "MATCH", _nfd, 8),
    ("name_tone_placement", "full_name", "MATCH", _tone_placement, 12),
    ("name_upper", "full_name", "MATCH", _upper, 6),
    ("name_spaces", "full_name", "MATCH", _spaces, 5),
    ("birth_year_only", "birth_date", "MATCH", _year_only, 6),
)
KINDS = {kind: expected for kind, _, expected, _, _ in _CATALOGUE} | {"name_outdated": "MISMATCH", "pin_outdated": "NOT_FOUND"}
"""Every kind of error, with the verdict it deserves; the last two are records that did not follow a change in the register."""
_SLIPS = [entry[:4] for entry in _CATALOGUE]
_STEPS = list(accumulate(entry[4] for entry in _CATALOGUE))
