"""`bus schema impact` tells what a change does to each agreement and each reader, before it is made."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro import dataset as datasets
from bus.avro.dataset import dataset_of
from bus.config import Settings
from bus.contracts import rules, steps
from bus.contracts.difference import differences
from bus.contracts.impact import Effect, Verdict, World, impact
from bus.core.agreement import Agreement, Grant, GrantedField
from bus.engine import agreements
from bus.engine.plan import delivery_schemas
from bus.engine.verification import Verification
from tests.contracts.seeded import SEEDS, Seed, annotate, drop, rename


@pytest.fixture(scope="module")
def world() -> World:
    shipped = Settings()
    found = datasets.load(shipped.schemas)
    return World(found, datasets.register_of(found), agreements.load(shipped, found), {}, {})


def changed(world: World, name: str, edit: Any) -> datasets.Dataset:
    old = world.datasets[name]
    row = copy.deepcopy(old.row)
    edit(row)
    return dataset_of(row, old.domain, old.table, name)


def worst(effects: list[Effect]) -> Mapping[str, Verdict]:
    """By agreement, '' for readers; effects come gravest first."""
    found: dict[str, Verdict] = {}
    for effect in effects:
        found.setdefault(effect.agreement, effect.verdict)
    return found


@pytest.mark.parametrize("seed", SEEDS, ids=lambda s: f"{s.dataset}: {s.what}")
def test_no_wrong_verdict_on_a_seeded_change(world: World, seed: Seed) -> None:
    effects = impact(world, changed(world, seed.dataset, seed.edit))
    found = dict(worst(effects))
    told = "\n".join(map(str, effects))
    assert found.pop("") is seed.readers, told
    serious = {name: verdict for name, verdict in found.items() if verdict is not Verdict.NOTHING}
    assert serious == dict(seed.agreements), told
    on_it = {a.id for a in world.agreements.values() if any(g.dataset == seed.dataset for g in a.grants)}
    assert on_it <= found.keys(), "each agreement on the dataset is told of, also of nothing"
    assert set(seed.named) <= {e.field for e in effects if e.verdict is not Verdict.NOTHING}, told
    assert all(e.reason and (e.confirmed or e.verdict is Verdict.FAILS) for e in effects)


def test_there_are_at_least_forty_seeded_changes_of_every_verdict() -> None:
    assert len(SEEDS) >= 40
    assert {v for s in SEEDS for v in (*s.agreements.values(), s.readers)} == set(Verdict)


def test_a_field_that_becomes_personal_data_needs_a_legal_basis(world: World) -> None:
    grant = Grant("civil.birth", (GrantedField("province_code"),))
    agreement = Agreement("a.b", "a", "counting", "", (grant,), 0, None, bytes(32))
    small = dataclasses.replace(world, agreements={"a.b": agreement})
    effects = impact(small, changed(small, "civil.birth", annotate("province_code", pii="basic")))
    assert next((e.agreement, e.field, e.verdict) for e in effects) == ("a.b", "province_code", Verdict.FAILS)


def test_a_tag_fails_an_agreement_just_where_lint_refuses_its_file(world: World) -> None:
    """Each column is tagged anew, half of a dataset's at a time: who is told that it fails is whose file lint refuses then."""
    concerned = 0
    for name, one in world.datasets.items():
        for tag, half in (("sensitive", 0), ("sensitive", 1), ("basic", 0), ("basic", 1)):
            columns = list(one.fields)[half::2]

            def edit(row: Any, columns: list[str] = columns, tag: str = tag) -> None:
                for column in columns:
                    annotate(column, pii=tag)(row)

            new = changed(world, name, edit)
            told = {e.agreement for e in impact(world, new) if e.verdict is Verdict.FAILS}
            assert told == refused({**world.datasets, name: new}), (name, columns, tag)
            concerned += bool(told)
    assert concerned > 10, "some tags matter to somebody"


def refused(found: dict[str, datasets.Dataset]) -> set[str]:
    try:
        agreements.load(Settings(), found)
    except agreements.AgreementError as error:
        return {Path(problem.file).stem for problem in error.problems}
    return set()


@pytest.mark.parametrize("edit", [drop("sex"), rename("sex", "gender"), drop("birth_date")], ids=["gone", "renamed", "date gone"])
def test_what_the_register_no_longer_has_fails_just_the_datasets_that_cannot_be_verified_without(world: World, edit: Any) -> None:
    """Whose plan the engine cannot make, whether or not an agreement asks for verdicts; the reason names the field."""
    new = changed(world, "population.person", edit)
    fails = {
        (e.agreement, e.dataset): e.reason for e in impact(world, new) if e.verdict is Verdict.FAILS and "checked" in e.reason
    }
    unmade = {name for name, one in world.datasets.items() if not verifiable(one, new)}
    assert unmade
    assert fails.keys() == {(a.id, g.dataset) for a in world.agreements.values() for g in a.grants if g.dataset in unmade}
    assert all("the register's '" in reason for reason in fails.values())
    assert any(not g.verdicts and not g.share_verdict for a in world.agreements.values() for g in a.grants if g.dataset in unmade)


def verifiable(one: datasets.Dataset, register: datasets.Dataset) -> bool:
    nowhere: Any = None  # no code is made
    checks = Verification(one, register, nowhere, nowhere, bytes(32), {})
    try:
        return all(checks.check(ours, theirs) for role in one.people for theirs, ours in role.match.items())
    except KeyError:
        return False


def nested(depth: int) -> Any:
    """A list in a list in a list …"""
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


ODD: tuple[Any, ...] = (
    *(None, -1, 1.5, True, "", "x", [], {}, [[]], ["null"], ["null", "null"], {"a": 1}, {"type": ["int", "string"]}),
    *({"type": "record"}, {"type": "enum", "name": "e", "symbols": ["a"]}, {"type": "fixed", "name": "f", "size": 3}),
    *({"type": "map", "values": "string"}, {"type": "bytes", "logicalType": "decimal", "precision": "4"}),
    {"type": "bytes", "logicalType": {}, "precision": 10**9, "scale": -1},
    *(
        "\ud800",
        {"\udfff": 1},
        math.nan,
        -math.inf,
        10**400,
        nested(90),
        nested(300),
        ["null", {"type": "fixed", "name": "f", "size": 10**9}],
    ),
)


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of everything inside a parsed schema."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_whatever_stands_in_a_proposed_schema_is_judged_or_refused_with_a_reason(world: World, data: st.DataObject) -> None:
    """Something odd in any place of any shipped schema: impact, difference and plan answer, or the file is refused in words."""
    old = world.datasets[data.draw(st.sampled_from(sorted(world.datasets)))]
    row = copy.deepcopy(old.row)
    *way, last = data.draw(st.sampled_from(list(places(row))))
    inside = row
    for key in way:
        inside = inside[key]
    inside[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
    if problem := rules.unsound(row):
        "".join(problem).encode()
        assert problem[1]
        return
    json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    changes = [str(change) for change in differences(old.row, row)]
    try:
        new = dataset_of(row, old.domain, old.table, "proposed.avsc")
    except datasets.SchemaError:
        return
    effects = impact(world, new)
    assert effects
    assert len(steps.plan(old.name, differences(old.row, row), effects, date(2030, 1, 1), {*old.fields, *new.fields})) <= len(
        changes
    )


def test_a_new_source_field_never_appears_in_an_existing_agreement(world: World) -> None:
    """Whatever type it has, whatever its name and place: every delivered schema stays the same to the byte."""
    before = {a.id: delivery_schemas(world.datasets, world.register, a) for a in world.agreements.values()}
    for name in world.datasets:
        for place in (0, 3, -1):
            for avro in ("string", ["null", "long"]):

                def edit(row: Any, place: int = place, avro: Any = avro) -> None:
                    row["fields"].insert(place, {"name": "new_column", "type": avro, "doc": "New"})

                new = changed(world, name, edit)
                wider = {**world.datasets, name: new}
                register = new if new.register else world.register
                after = {a.id: delivery_schemas(wider, register, a) for a in world.agreements.values()}
                assert after == before, (name, place, avro)
                assert "new_column" not in str(after)
