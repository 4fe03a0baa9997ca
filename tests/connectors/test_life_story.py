"""One stretch of life, looked at from all sides. These tests only read; no other in this module may empty the town."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bus import config
from connectors import society
from tests.connectors.conftest import empty_town
from tests.connectors.town import Town, all_datasets, entries, key_of

RATE = 400.0
SECONDS = 5.0


@pytest.fixture(scope="module")
def lived(server: config.Settings) -> tuple[Town, dict[str, dict[str, Any]], dict[str, int]]:
    """A town that has lived for a while: (town, rows by dataset before, counts that live returned)."""
    town = empty_town(server)
    town.fill(1_500, seed=11)
    before = {d.name: town.as_json(d) for d in all_datasets()}
    return town, before, town.live(RATE, SECONDS, seed=12)


Lived = tuple[Town, dict[str, dict[str, Any]], dict[str, int]]


def test_every_counted_change_is_committed_and_every_committed_change_counted(lived: Lived) -> None:
    town, _, counts = lived
    assert Counter({name: n for name, n in counts.items() if n}) == town.journal_counts()


def test_the_journal_leads_from_the_rows_before_to_the_rows_after(lived: Lived) -> None:
    town, before, _ = lived
    for dataset in all_datasets():
        rows = dict(before[dataset.name])
        for entry in town.journal(dataset.domain):
            if entry["table_name"] != dataset.table:
                continue
            if entry["before"]:
                assert rows.pop(key_of(dataset, entry["before"])) == entry["before"]
            if entry["after"]:
                rows[key_of(dataset, entry["after"])] = entry["after"]
        assert rows == town.as_json(dataset)


def test_the_ground_truth_stays_true_through_changes_of_names_and_pins(lived: Lived) -> None:
    town, _, _ = lived
    assert list(town.disagreements()) == []
    seen = {e["kind"] for d in society.domains() for e in town.query(d, "SELECT kind FROM truth.error")}
    mended = [e for d in society.domains() for e in town.query(d, "SELECT * FROM truth.error WHERE corrected_at IS NOT NULL")]
    assert mended
    assert {"name_outdated", "pin_digit", "name_nfd"} <= seen


def test_the_rate_is_kept(lived: Lived) -> None:
    _, _, counts = lived
    begun = RATE * SECONDS
    assert begun * 0.95 < sum(counts.values()) < begun * 1.5  # what had begun comes to its end after the time is over
    assert all(counts.values()), "something happens in every table"


def test_life_has_what_is_hard_for_a_bus(lived: Lived) -> None:
    """Deletes, changed PINs, moves between provinces, saves that change nothing, several rows in one transaction."""
    town, _, _ = lived
    found = entries(town)
    updates = [(e, {c for c in e["after"] if e["after"][c] != e["before"][c]}) for e in found if e["op"] == "u"]
    assert {e["op"] for e in found} == {"c", "u", "d"}
    for column in ("pin", "province_code", "full_name", "birth_date"):
        assert any(e["table_name"] == "person" and column in changed for e, changed in updates), column
    assert any(changed <= {"updated_at"} for _, changed in updates)
    assert max(Counter((e["domain"], e["xid"]) for e in found).values()) >= 4


def test_a_birth_is_registered_with_the_agency_before_the_register_has_the_child(lived: Lived) -> None:
    town, _, _ = lived
    register = {e["after"]["pin"]: e["at"] for e in town.journal("population") if e["op"] == "c"}
    civil = {e["after"]["child_pin"]: e["at"] for e in town.journal("civil") if e["op"] == "c" and e["table_name"] == "birth"}
    both = register.keys() & civil.keys()
    assert both
    assert sum(civil[pin] < register[pin] for pin in both) > len(both) / 2
