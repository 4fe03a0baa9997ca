"""A plan has an order in which nothing breaks: the new first, then the move, the sunset, and only then the end of the old."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from bus.contracts import steps
from bus.contracts.difference import differences
from bus.contracts.impact import Verdict, World, impact
from tests.contracts.seeded import SEEDS, Edit, Seed, add, drop, rename, retype
from tests.contracts.test_impact import changed, world

__all__ = ["world"]
SUNSET = date(2030, 1, 1)
BIRTH = "civil.birth"


def planned(world: World, dataset: str, edit: object) -> list[steps.Plan]:
    old, new = world.datasets[dataset], changed(world, dataset, edit)
    return steps.plan(dataset, differences(old.row, new.row), impact(world, new), SUNSET, {*old.fields, *new.fields})


def in_order(texts: list[str], *words: str) -> bool:
    places = [next((i for i, text in enumerate(texts) if word in text), -1) for word in words]
    return -1 not in places and places == sorted(places)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            retype("mother_birth_year", ["null", "long"]),
            (
                "add a column mother_birth_year_v2",
                "new schema",
                "statistics.indicators-2",
                "move to the new topics before 2030-01-01",
                "take mother_birth_year out",
                "drop the column mother_birth_year",
            ),
        ),
        (
            rename("child_name", "name_of_child"),
            (
                "add a column name_of_child",
                "new schema",
                "hcmc.shared-warehouse-2",
                "move to",
                "take child_name out",
                "drop the column child_name",
            ),
        ),
        (drop("child_name"), ("ends on 2030-01-01", "education.pupils-2", "move to", "take child_name out", "drop the column")),
    ],
)
def test_the_old_ends_after_everybody_has_moved(world: World, edit: object, words: tuple[str, ...]) -> None:
    texts = [s.text for p in planned(world, BIRTH, edit) for s in p.steps]
    assert in_order(texts, *words), texts


def test_what_is_checked_against_the_register_is_let_go_before_the_registers_field_goes(world: World) -> None:
    texts = [s.text for p in planned(world, "population.person", drop("sex")) for s in p.steps]
    assert in_order(texts, "tax.taxpayers-2", "`match` in the schemas of", "take sex out of the schema"), texts
    (told,) = (text for text in texts if "`match`" in text)
    assert "insurance.member" in told
    assert "land.certificate" not in told, "which is not checked against it"


def both(first: Edit, second: Edit) -> Edit:
    def edit(row: dict[str, Any]) -> None:
        first(row)
        second(row)

    return edit


@pytest.mark.parametrize(("avro", "words"), [("bytes", "as bytes"), ("string", "with the same type")])
def test_a_new_name_with_a_new_type_is_planned_with_both(world: World, avro: str, words: str) -> None:
    """One plan, and the column beside the old one has the type that was proposed."""
    edit = both(rename("register_number", "number"), retype("number", avro))
    plans = planned(world, BIRTH, edit)
    assert [p.change.field for p in plans] == ["number"]
    assert f"add a column number {words}" in plans[0].steps[0].text


def test_a_column_beside_the_old_one_takes_no_name_that_there_is(world: World) -> None:
    """Nor one that is being added, nor one that goes."""
    wide = ["null", "long"]
    edit = both(retype("mother_birth_year", wide), add("mother_birth_year_v3", "string"))
    old = changed(world, BIRTH, add("mother_birth_year_v2", "string"))
    there = replace(world, datasets={**world.datasets, BIRTH: old})
    texts = [s.text for p in planned(there, BIRTH, edit) for s in p.steps]
    assert any("add a column mother_birth_year_v4 as" in text for text in texts), texts


@pytest.mark.parametrize("seed", SEEDS, ids=lambda s: f"{s.dataset}: {s.what}")
def test_every_seeded_change_has_a_plan_that_names_whom_it_fails(world: World, seed: Seed) -> None:
    """Who would fail by a field's change is named in the steps of that plan."""
    plans = planned(world, seed.dataset, seed.edit)
    assert plans
    assert all(p.steps for p in plans)
    texts = " ".join(s.text for p in plans for s in p.steps)
    for agreement, verdict in seed.agreements.items():
        assert agreement in texts or verdict is not Verdict.FAILS, (agreement, texts)
