"""The bus's comparison must agree with how slips are made: harmless ones match, the others do not."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro.dataset import Role
from connectors.society.people import Person, neighbourhood
from connectors.society.slips import KINDS, Row, Slip, slip
from tests.connectors.town import verdict

ROLE = Role("person", "pin", {"full_name": "name", "birth_date": "born", "sex": "sex"})
SEX_CODES = ({"M": "M", "F": "F"}, {"M": "Nam", "F": "Nữ"}, {"M": "1", "F": "2"})


def _record(person: Person, rng: Random) -> Row:
    """The person as one or another agency writes people down."""
    births = [person.birth_date, person.birth_year, *([person.birth_day] if person.birth_day else [])]
    return {"pin": person.pin, "name": person.full_name, "born": rng.choice(births), "sex": rng.choice(SEX_CODES)[person.sex]}


def _slips(seed: int) -> list[tuple[Person, Row, Slip, str | None]]:
    rng = Random(seed)
    people = neighbourhood(seed, 0).people()
    register = {p.pin: {"full_name": p.full_name, "birth_date": p.birth_date, "sex": p.sex} for p in people}
    made = []
    for person in people:
        row = _record(person, rng)
        assert verdict(register, ROLE, row) == "MATCH"
        if done := slip(row, ROLE, person, people, rng):
            made.append((person, row, done, verdict(register, ROLE, row)))
    return made


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_every_slip_deserves_the_verdict_it_is_seeded_with(seed: int) -> None:
    for person, row, done, found in _slips(seed):
        assert found == done.expected == KINDS[done.kind], (done.kind, person.full_name, row)


def test_a_slip_changes_one_value_and_remembers_the_right_one() -> None:
    for person, row, done, _ in _slips(3):
        right = {"pin": person.pin, "name": person.full_name}.get(done.field)
        assert right is None or done.right == right
        assert str(row[done.field]) != done.right


def test_every_kind_of_slip_occurs() -> None:
    kinds = Counter(done.kind for seed in range(12) for _, _, done, _ in _slips(seed))
    assert set(kinds) == set(KINDS) - {"name_outdated", "pin_outdated"}
