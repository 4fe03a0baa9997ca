"""`bus schema check` names every problem of every file at once, with field, reason and remedy; what is shipped has none."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus.config import Settings
from bus.contracts import rules
from tests.contracts.seeded import add, annotate, drop, find, of_row, retype

BIRTH = Path("schemas/civil/birth.avsc")
Row = dict[str, Any]


def texts(edit: Callable[[Row], Any] = lambda row: None, path: Path = BIRTH) -> dict[Path, str]:
    root = Settings().schemas
    found = {Path("schemas") / p.relative_to(root): p.read_text(encoding="utf-8") for p in sorted(root.glob("*/*.avsc"))}
    row = json.loads(found[path])
    edit(row)
    return found | {path: json.dumps(row)}


def problems(edit: Callable[[Row], Any], path: Path = BIRTH) -> list[rules.Problem]:
    return rules.check(texts(edit, path))[1]


def test_the_schemas_that_are_shipped_keep_all_rules() -> None:
    datasets, found = rules.check(texts())
    assert found == []
    assert len(datasets) == len(texts())


def person(role: str, /, **more: Any) -> Callable[[Row], Any]:
    return lambda row: next(p for p in row["people"] if p["role"] == role).update(more)


@pytest.mark.parametrize(
    ("edit", "field", "reason"),
    [
        (annotate("birth_place", doc=" "), "birth_place", "no doc"),
        (of_row(doc=""), "", "the record has no doc"),
        (annotate("child_pin", pii=None), "child_pin", "without a tag"),
        (lambda row: find(row, "child_name").pop("pii"), "child_name", "without a tag"),
        (annotate("child_weight_grams", pii="basic"), "child_weight_grams", "sensitive personal data"),
        (add("religion", ["null", "string"], default=None, pii="basic"), "religion", "sensitive personal data"),
        (add("phone", ["null", "string"], default=None), "phone", "without a tag"),
        (annotate("birth_place", pii="secret"), "birth_place", "unknown pii tag"),
        (annotate("birth_place", piii="basic"), "birth_place", "nobody reads the key 'piii'"),
        (annotate("birth_place", compare="name"), "birth_place", "register's fields"),
        (of_row(registered=True), "", "nobody reads the key 'registered'"),
        (of_row(namespace="vn.elsewhere"), "", "namespace"),
        (of_row(primary_key=["child_pin"]), "child_pin", "never null"),
        (of_row(primary_key=["nothing"]), "", "the record lacks: nothing"),
        (of_row(name="births"), "", "must be 'birth'"),
        (of_row(people=[{}]), "", "not as it must be"),
        (add("witness_pin", ["null", "string"], default=None, pii="basic"), "witness_pin", "no role"),
        (person("child", match={}), "child_pin", "nothing of role 'child' is checked"),
        (person("child", match={"address": "birth_place"}), "birth_place", "no field of the register that can be compared"),
        (person("mother", role="child"), "", "two roles are called 'child'"),
        (person("child", pin="registered_on"), "registered_on", "is not text"),
        (add("Name", "string"), "Name", "not a column name"),
        (add("x" * 64, "string"), "x" * 64, "not a column name"),
        (add("a", ["string", "null"]), "a", 'other than ["null", T]'),
        (add("a", ["null", "string"]), "a", "has the default null"),
        (add("a", {"type": "array", "items": "int"}), "a", "no column's"),
        (add("a", {"type": "long", "logicalType": "timestamp-millis"}), "a", "'timestamp-millis' does not stand on 'long'"),
        (add("a", {"type": "long", "logicalType": "date"}), "a", "'date' does not stand on 'long'"),
        (add("a", {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}), "a", "a decimal needs"),
        (add("a", "int", default="x"), "a", "not Avro, at /fields/18/default"),
        (add("child_pin", "int"), "child_pin", "already"),
    ],
)
def test_each_rule_is_kept(edit: Callable[[Row], Any], field: str, reason: str) -> None:
    found = [p for p in problems(edit) if p.field == field and reason in p.reason]
    assert found, problems(edit)
    assert all(p.file == str(BIRTH) and p.remedy for p in found)


def test_all_problems_of_all_files_at_once() -> None:
    def spoil(row: Row) -> None:
        annotate("birth_place", doc="")(row)
        annotate("child_name", pii="?")(row)
        retype("registered_on", ["null", "int", "string"])(row)

    both = texts(spoil)
    register = Path("schemas/population/person.avsc")
    both[register] = texts(drop("phone"), register)[register].replace('"compare": "sex"', '"compare": "looks"')
    both[Path("schemas/land/parcel.avsc")] = "{"
    found = rules.check(both)[1]
    assert {(p.file, p.field) for p in found} >= {
        (str(BIRTH), "birth_place"),
        (str(BIRTH), "child_name"),
        (str(BIRTH), "registered_on"),
        (str(register), "sex"),
        ("schemas/land/parcel.avsc", ""),
    }


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_exactly_one_register(count: int) -> None:
    found = texts()
    names = list(found)
    for path in names:
        row = json.loads(found[path])
        row["register"] = (path.stem == "person" and count > 0) or (path == BIRTH and count > 1)
        found[path] = json.dumps(row)
    assert any("exactly one schema is the population register" in p.reason for p in rules.check(found)[1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "deeper than anybody reads"),
        ('{"a":' * 200_000, "deeper than anybody reads"),
        ('"\\ud800"', "not a record"),
        ("NaN", "not a record"),
        ("9" * 5_000, "not JSON"),
    ],
    ids=["lists", "objects", "surrogate", "NaN", "digits"],
)
def test_a_file_that_no_reader_takes_is_a_problem_of_the_file(text: str, reason: str) -> None:
    found = [p for p in rules.check(texts() | {BIRTH: text})[1] if p.file == str(BIRTH)]
    assert any(reason in p.reason for p in found), found


@pytest.mark.parametrize(
    ("edit", "field", "reason"),
    [
        (annotate("birth_place", doc="\ud800"), "birth_place", "half of a surrogate pair"),
        (annotate("birth_place", **{"\udfff": 1}), "birth_place", "half of a surrogate pair"),
        (of_row(doc="\udfff"), "", "half of a surrogate pair"),
        (lambda row: find(row, "birth_place").update(name="\ud800"), "", "half of a surrogate pair"),
        (add("a", "double", default=math.nan), "a", "NaN or Infinity"),
        (add("a", "double", default=-math.inf), "a", "NaN or Infinity"),
        (add("a", "double", default=10**400), "a", "double precision"),
    ],
)
def test_what_others_could_not_read_is_named_with_its_field(edit: Callable[[Row], Any], field: str, reason: str) -> None:
    """It would pass here, and fail where the schema is registered or read."""
    found = [p for p in problems(edit) if p.field == field and reason in p.reason]
    assert found, problems(edit)
    str(found[0]).encode()


def test_a_number_that_is_read_as_infinite_is_named_too() -> None:
    text = texts(add("a", "double", default=7.5e77))[BIRTH].replace("7.5e+77", "1e999")
    assert any(p.field == "a" and "NaN or Infinity" in p.reason for p in rules.check(texts() | {BIRTH: text})[1])


def test_no_text_however_odd_is_a_fault_of_ours() -> None:
    """Values of wrong kinds in every place of a schema give problems, never an exception."""
    original = json.loads(texts()[BIRTH])
    oddities: list[Any] = [None, 3, "x", [], {}, [3], {"a": 1}, [None], [[]], "\ud800", {"\udfff": "x"}, math.nan, 10**400]
    for odd in oddities:
        for key in original:
            row = copy.deepcopy(original)
            row[key] = odd
            rules.check(texts() | {BIRTH: json.dumps(row)})
        for key in ("name", "type", "default", "doc", "pii", "compare"):
            row = copy.deepcopy(original)
            row["fields"][3][key] = odd
            rules.check(texts() | {BIRTH: json.dumps(row)})
        for key in ("role", "pin", "match"):
            row = copy.deepcopy(original)
            row["people"][0][key] = odd
            rules.check(texts() | {BIRTH: json.dumps(row)})
        rules.check(texts() | {BIRTH: json.dumps(odd)})
