"""Laws of the seeded people, without a database."""

from __future__ import annotations

import unicodedata
from itertools import islice
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from vietnam_provinces import Province, Ward

from connectors.society import places
from connectors.society.people import AS_OF, NEIGHBOURHOOD, Neighbourhood, neighbourhood, neighbourhoods

SEEDS = st.integers(0, 2**63)
FORMER_CODES = {
    "0" + places.former_place(Random(i), f"{int(p.code):02}").former_province_code for p in Province.iter_all() for i in range(60)
}


def _neighbourhoods(seed: int, count: int) -> list[Neighbourhood]:
    return list(islice(neighbourhoods(count * NEIGHBOURHOOD, seed), count))


@given(SEEDS, st.integers(0, 3999), st.integers(1, NEIGHBOURHOOD))
@settings(max_examples=30, deadline=None)
def test_a_neighbourhood_follows_from_seed_and_index_and_has_the_size_asked_for(seed: int, index: int, size: int) -> None:
    first, second = neighbourhood(seed, index, size), neighbourhood(seed, index, size)
    assert first == second
    assert [p.number for p in sorted(first.people(), key=lambda p: p.number)] == list(
        range(index * NEIGHBOURHOOD, index * NEIGHBOURHOOD + size)
    )


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_pin_says_province_of_birth_century_sex_and_year(seed: int) -> None:
    for person in neighbourhood(seed, 0).people():
        assert len(person.pin) == 12
        assert person.pin.isdigit()
        assert person.pin[:3] == person.birth_province_code
        assert person.pin[:3] in FORMER_CODES
        century, sex = divmod(int(person.pin[3]), 2)
        assert 1900 + 100 * century + int(person.pin[4:6]) == person.birth_year
        assert "MF"[sex] == person.sex


def test_no_two_people_share_a_pin() -> None:
    """Twenty thousand people, and every number of a million gives another six-digit ending."""
    pins = [p.pin for n in _neighbourhoods(5, 80) for p in n.people()]
    assert len(set(pins)) == len(pins) == 80 * NEIGHBOURHOOD
    assert len({number * 618_033 % 1_000_000 for number in range(1_000_000)}) == 1_000_000


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_families_hold_together(seed: int) -> None:
    for household in neighbourhood(seed, 0).households:
        assert len({p.address for p in household.members()}) == 1
        for child in household.children:
            assert household.wife is not None
            assert child.mother_pin == household.wife.pin
            assert 15 < child.birth_year - household.wife.birth_year <= 46
            assert child.birth_date < AS_OF.isoformat()
            if household.husband:
                assert child.father_pin == household.husband.pin
                assert child.full_name.split()[0] == household.husband.full_name.split()[0]
        for elder in household.elders:
            assert household.husband is not None
            assert elder.pin in (household.husband.mother_pin, household.husband.father_pin)
            assert elder.birth_year < household.husband.birth_year - 15


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_text_is_composed_and_units_exist(seed: int) -> None:
    wards = {f"{int(w.code):05}": f"{int(w.province_code):02}" for w in Ward.iter_all()}
    for person in neighbourhood(seed, 0).people():
        assert all(unicodedata.is_normalized("NFC", text) for text in (person.full_name, person.address, person.ethnicity))
        assert wards[person.ward_code] == person.province_code
