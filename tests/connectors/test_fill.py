"""A fill is all or nothing, follows from its seed, and says the truth about its errors."""

from __future__ import annotations

import pytest

from bus import config
from connectors import society
from tests.connectors.conftest import empty_town
from tests.connectors.town import Town, all_datasets, key_of, sector_datasets

PEOPLE = 1_000


def test_rows_are_counted_as_they_stand_and_none_is_in_the_journal(town: Town) -> None:
    told: dict[str, list[int]] = {}
    counts = society.fill(town.owners, PEOPLE, 3, lambda domain, done, total: told.setdefault(domain, []).append(done))
    assert counts == {d.name: len(town.rows(d)) for d in all_datasets()}
    assert all(counts.values())
    assert counts["population.person"] == PEOPLE
    assert not town.journal_counts()
    assert set(told) == set(society.domains())
    assert all(steps == sorted(steps) and steps[-1] == PEOPLE for steps in told.values())


def test_the_ground_truth_expects_the_verdict_that_each_record_deserves(town: Town) -> None:
    town.fill(PEOPLE, seed=4)
    assert list(town.disagreements()) == []


def test_about_five_in_a_hundred_sector_records_carry_an_error(town: Town) -> None:
    counts = town.fill(2 * PEOPLE, seed=5)
    errors = [e for d in sector_datasets() for found in town.errors(d.domain, d.table).values() for e in found]
    about_people = sum(counts[d.name] for d in sector_datasets() if d.people)
    assert 0.035 < len(errors) / about_people < 0.06
    assert {e["expected"] for e in errors} == {"MATCH", "MISMATCH", "NOT_FOUND", "NO_PIN"}
    assert 0.5 < sum(e["expected"] != "MATCH" for e in errors) / len(errors) < 0.85


def test_an_error_names_a_stored_value_that_is_not_the_right_one(town: Town) -> None:
    town.fill(PEOPLE, seed=6)
    for dataset in sector_datasets():
        rows = {key_of(dataset, row): row for row in town.rows(dataset)}
        for (key, _), errors in town.errors(dataset.domain, dataset.table).items():
            assert len(errors) == 1
            assert str(rows[key][errors[0]["field"]]) != errors[0]["right_value"]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(server: config.Settings) -> None:
    contents = []
    for seed in (7, 7, 8):
        town = empty_town(server)
        town.fill(300, seed)
        contents.append({d.name: town.as_json(d) for d in all_datasets()})
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_what_is_full_is_not_filled_again(town: Town) -> None:
    assert society.is_empty(town.owners)
    town.fill(60)
    before = {d.name: town.as_json(d) for d in all_datasets()}
    with pytest.raises(society.SocietyError, match="already holds data"):
        town.fill(60)
    assert before == {d.name: town.as_json(d) for d in all_datasets()}
    assert not society.is_empty(town.owners)


def test_a_fill_that_breaks_off_leaves_every_database_empty_and_ready(town: Town) -> None:
    class BreakOffError(Exception):
        pass

    def progress(domain: str, done: int, total: int) -> None:
        if done > 2_000 and domain == society.domains()[-1]:
            raise BreakOffError

    with pytest.raises(BreakOffError):
        society.fill(town.owners, 3_000, 1, progress)
    assert society.is_empty(town.owners)
    assert town.fill(60)["population.person"] == 60


@pytest.mark.parametrize("people", [0, -1, 1_000_001])
def test_a_society_larger_than_its_pins_or_without_people_is_refused(town: Town, people: int) -> None:
    with pytest.raises(society.SocietyError, match="1 to 1,000,000"):
        town.fill(people)


@pytest.mark.parametrize("people", [1, 2, 9])
def test_a_tiny_society_is_filled_too(town: Town, people: int) -> None:
    assert town.fill(people)["population.person"] == people
    assert not society.is_empty(town.owners)
