"""Living: seeded, stoppable, and not stopped by a database that goes away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from bus import config
from bus.platform import database
from connectors import society
from tests.connectors.conftest import empty_town
from tests.connectors.town import Town, entries


def test_the_same_seed_lives_the_same_life(server: config.Settings) -> None:
    lives = []
    for _ in range(2):
        town = empty_town(server)
        town.fill(600, seed=1)
        town.live(300, 1.5, seed=9)
        lives.append([(e["domain"], e["table_name"], e["op"], e["before"], e["after"]) for e in entries(town)])
    assert lives[0] == lives[1]


def test_a_second_run_with_the_same_seed_goes_on_instead_of_repeating(town: Town) -> None:
    town.fill(400)
    first = town.live(200, 1.5)
    second = town.live(200, 1.5)
    assert sum(first.values()) > 250
    assert sum(second.values()) > 250
    assert Counter(first) + Counter(second) == town.journal_counts()
    assert list(town.disagreements()) == []


def test_life_goes_on_after_its_connections_are_cut(server: config.Settings, town: Town) -> None:
    town.fill(400)
    cuts = 0

    def cut(_: Mapping[str, int]) -> None:
        nonlocal cuts
        if cuts < 3:
            cuts += 1
            with database.connect(server) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'agency %'"
                )

    counts = town.live(200, 3, tick=cut)
    assert cuts == 3
    assert Counter({n: c for n, c in counts.items() if c}) == town.journal_counts()
    assert sum(counts.values()) > 400


def test_stop_ends_life_and_leaves_nothing_half_done(town: Town) -> None:
    town.fill(400)
    ticks = 0

    def tick(_: Mapping[str, int]) -> None:
        nonlocal ticks
        ticks += 1

    counts = town.live(200, 10**9, tick=tick, stop=lambda: ticks >= 5)
    assert Counter({n: c for n, c in counts.items() if c}) == town.journal_counts()
    assert list(town.disagreements()) == []
    register = town.register()
    born = [e["after"]["child_pin"] for e in town.journal("civil") if e["op"] == "c" and e["table_name"] == "birth"]
    wrong = {key for key, _ in town.errors("civil", "birth")}
    kept = {r["birth_id"] for r in town.query("civil", "SELECT birth_id::text FROM birth")}
    sound = [
        e["after"]
        for e in town.journal("civil")
        if e["op"] == "c" and e["table_name"] == "birth" and e["after"]["birth_id"] in kept
    ]
    assert born
    assert all(b["child_pin"] in register for b in sound if b["birth_id"] not in wrong)


def test_a_society_without_people_cannot_live(town: Town) -> None:
    with pytest.raises(society.SocietyError, match="is empty: fill it first"):
        town.live(10, 1)


def test_a_rate_of_nothing_is_refused(town: Town) -> None:
    with pytest.raises(society.SocietyError, match="rate"):
        town.live(0, 1)
