"""What an agreement delivers evolves under FULL_TRANSITIVE: a dataset's change that its consumers would notice is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bus import access, platform
from bus.avro import catalogue
from bus.avro import dataset as datasets
from bus.avro.catalogue import Catalogue
from bus.avro.dataset import Dataset, SchemaError, dataset_of
from bus.config import Settings
from bus.contracts.delivered import ContractError, Delivered, require
from bus.contracts.impact import Verdict, World, impact
from bus.core.agreement import Agreement, Grant, GrantedField, Mask
from bus.engine.plan import PlanError, delivery_schemas
from bus.registry import log
from tests.contracts.seeded import add, annotate, drop, rename, retype

NAME = "civil.birth"


@pytest.fixture(scope="module")
def before() -> dict[str, Dataset]:
    return datasets.load(Settings().schemas)


def agreement(*fields: GrantedField) -> Agreement:
    return Agreement("tax.births", "tax", "p", "b", (Grant(NAME, fields),), 0, None, bytes(32))


OLD = agreement(GrantedField("birth_id"), GrantedField("child_name"), GrantedField("registered_on"))


def delivered(found: dict[str, Dataset], now: Agreement, earlier: Agreement | None = OLD) -> Delivered:
    ((subject, schema),) = delivery_schemas(found, datasets.register_of(found), now).items()
    return Delivered(now.id, now.grants[0], subject, schema, earlier.grants[0] if earlier else None)


def registered(*versions: Delivered) -> Catalogue:
    found = Catalogue()
    for one in versions:
        entry = found.propose(one.subject, one.schema)
        assert entry
        found.apply(catalogue.key_bytes(one.subject, entry.version), catalogue.value_bytes(entry))
    return found


def changed(before: dict[str, Dataset], edit: Any) -> dict[str, Dataset]:
    row = copy.deepcopy(before[NAME].row)
    edit(row)
    return {**before, NAME: dataset_of(row, "civil", "birth", NAME)}


def test_a_dataset_that_changes_a_granted_field_is_refused_with_agreement_field_and_remedy(before: dict[str, Dataset]) -> None:
    there = registered(delivered(before, OLD))
    with pytest.raises(ContractError) as refusal:
        require([delivered(changed(before, retype("registered_on", "string")), OLD)], there)
    told = str(refusal.value)
    assert "tax.births, civil.birth registered_on" in told
    assert "bus schema evolve --plan" in told
    assert {b.field for b in refusal.value.broken} == {"registered_on"}


def test_what_no_agreement_delivers_may_change(before: dict[str, Dataset]) -> None:
    there = registered(delivered(before, OLD))
    require([delivered(changed(before, retype("child_weight_grams", ["null", "long"])), OLD)], there)
    require([delivered(changed(before, add("note", "string")), OLD)], there)
    require([delivered(before, OLD)], Catalogue())


def test_an_agreement_may_change_its_own_fields_and_masks_and_keeps_the_right_to(before: dict[str, Dataset]) -> None:
    """Its text is signed by both sides; what was allowed once does not stand in the way of the next change."""
    more = agreement(*OLD.grants[0].fields, GrantedField("child_sex"))
    less = agreement(GrantedField("birth_id"), GrantedField("registered_on"))
    masked = agreement(GrantedField("birth_id"), GrantedField("child_name"), GrantedField("registered_on", Mask.YEAR))
    for new in (more, less):
        require([delivered(before, new)], registered(delivered(before, OLD)))
    three = registered(delivered(before, OLD), delivered(before, masked))
    require([delivered(before, less, masked)], three)
    with pytest.raises(ContractError, match="birth_id"):
        require([delivered(changed(before, retype("birth_id", "long")), less, masked)], three)


def test_a_change_that_only_an_older_version_cannot_read_is_refused_too(before: dict[str, Dataset]) -> None:
    """Transitive: back to what version 1 had, as an optional value, reads version 2 and not version 1."""
    year = {"mother": GrantedField("mother_birth_year")}
    one = agreement(GrantedField("birth_id"), year["mother"])
    there = registered(delivered(before, one, None))
    with pytest.raises(ContractError, match="mother_birth_year"):
        require([delivered(changed(before, retype("mother_birth_year", ["null", "long"])), one, one)], there)


PLACE = GrantedField("province_code")
YEAR = GrantedField("registered_on", Mask.YEAR)
WIDER = agreement(*OLD.grants[0].fields, PLACE)
NARROWER = agreement(GrantedField("birth_id"), GrantedField("registered_on"))
MASKED = agreement(GrantedField("birth_id"), GrantedField("child_name"), YEAR)
PASTS = [[OLD], [OLD, WIDER], [WIDER, OLD], [OLD, MASKED], [MASKED, OLD, WIDER], [OLD, NARROWER, OLD], [WIDER, MASKED, WIDER]]
COLUMNS = ["birth_id", "child_name", "registered_on", "province_code", "child_weight_grams"]
DATASET_EDITS: dict[str, Any] = {
    "doc": lambda name: annotate(name, doc="Other words"),
    "long": lambda name: retype(name, "long"),
    "string": lambda name: retype(name, "string"),
    "nullable": lambda name: retype(name, ["null", "string"]),
    "gone": drop,
    "renamed": lambda name: rename(name, f"{name}_now"),
    "beside": lambda name: add(f"{name}_too", "string"),
}


@pytest.mark.parametrize("past", PASTS, ids=lambda past: " ".join(str(len(a.grants[0].fields)) for a in past))
def test_impact_says_fails_just_where_bus_up_refuses(before: dict[str, Dataset], past: list[Agreement]) -> None:
    """Whatever the agreement's own text has been, and whatever becomes of a column: for the same fields."""
    now = past[-1]
    there = registered(*(delivered(before, one) for one in past))
    subject = delivered(before, now).subject
    versions = {e.version: json.loads(e.schema) for e in there.versions(subject)}
    world = World(before, datasets.register_of(before), {now.id: now}, {subject: versions}, {})
    outcomes = Counter[bool]()
    for what, edit in DATASET_EDITS.items():
        for column in COLUMNS:
            try:
                found = changed(before, edit(column))
            except SchemaError:
                continue
            fails = {e.field for e in impact(world, found[NAME]) if e.agreement and e.verdict is Verdict.FAILS}
            assert fails == refused(found, now, there), (what, column)
            outcomes[bool(fails)] += 1
    assert len(outcomes) == 2


def refused(found: dict[str, Dataset], now: Agreement, there: Catalogue) -> set[str]:
    """Fields that stand in the way of `bus up`: of grants that compile what `require` names, of others what does not compile."""
    fields = now.grants[0].fields
    if unmade := {field.name for field in fields if not compiles(found, agreement(field))}:
        return unmade
    try:
        require([delivered(found, now, now)], there)
    except ContractError as error:
        return {one.field for one in error.broken}
    return set()


def compiles(found: dict[str, Dataset], one: Agreement) -> bool:
    try:
        return bool(delivery_schemas(found, datasets.register_of(found), one))
    except PlanError:
        return False


def test_bus_up_refuses_and_registers_nothing(bus_home: Settings, tmp_path: Path) -> None:
    """On a real broker, as `bus up` declares: agreement, field and remedy are named, and `_schemas` stays as it is."""
    folder = tmp_path / "schemas"
    shutil.copytree(bus_home.schemas, folder)
    path = folder / "civil" / "birth.avsc"
    row = json.loads(path.read_text(encoding="utf-8"))
    retype("mother_birth_year", ["null", "long"])(row)
    path.write_text(json.dumps(row), encoding="utf-8")
    subject = catalogue.value_subject("change.civil.birth")
    before = log.read(access.confluent(bus_home, "admin")).versions(subject)
    with pytest.raises(ContractError, match=r"statistics\.indicators, civil\.birth mother_birth_year"):
        platform.declare(dataclasses.replace(bus_home, schemas=folder))
    assert log.read(access.confluent(bus_home, "admin")).versions(subject) == before
