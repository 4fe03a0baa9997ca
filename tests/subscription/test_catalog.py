"""The catalogue says of each dataset what its schema and the agreements say, and `bus catalog` shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bus import config
from bus.subscription import catalog, files, words

SETTINGS = config.load(Path("/nonexistent"), env={})
FILES = files.read(SETTINGS)
NOW_MS = 1_795_000_000_000
ENTRIES = catalog.entries(FILES.datasets, FILES.agreements, lambda one: FILES.state(one, NOW_MS))


def bus(home: Path, *words_: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BUS_")} | {"COLUMNS": "200"}
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(home), *words_]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_field_of_the_schema_file_is_there_with_type_tag_and_meaning(name: str) -> None:
    domain, table = name.split(".")
    raw = json.loads((SETTINGS.schemas / domain / f"{table}.avsc").read_text(encoding="utf-8"))
    entry = ENTRIES[name]
    assert [field.name for field in entry.fields] == [field["name"] for field in raw["fields"]]
    for field, source in zip(entry.fields, raw["fields"], strict=True):
        assert (field.personal, field.meaning) == (source.get("pii", ""), source["doc"])
        assert field.optional == (isinstance(source["type"], list) and "null" in source["type"])
        assert "{" not in field.type
        assert "null" not in field.type
    assert [(p.role, p.pin) for p in entry.people] == [(p["role"], p["pin"]) for p in raw.get("people", ())]
    assert [p.subject for p in entry.people] == [True, *[False] * (len(entry.people) - 1)][: len(entry.people)]


def test_every_grant_of_every_agreement_is_told_at_its_dataset() -> None:
    told = {(one.agreement, name): one for name, entry in ENTRIES.items() for one in entry.agreements}
    granted = {(a.id, g.dataset): g for a in FILES.agreements.values() for g in a.grants}
    assert told.keys() == granted.keys()
    for place, grant in granted.items():
        assert told[place].fields == {field.name: str(field.mask) for field in grant.fields}
        assert told[place].where == dict(grant.where)
        assert told[place].verdicts == grant.verdicts


def test_a_legal_basis_is_asked_for_where_there_are_personal_fields() -> None:
    for entry in ENTRIES.values():
        personal = [field for field in entry.fields if field.personal]
        assert ("not needed" in entry.asking.legal_basis) == (not personal)
        assert ("sensitive" in entry.asking.legal_basis) == any(field.personal == "sensitive" for field in personal)


@pytest.mark.parametrize(
    ("avro_type", "said", "optional"),
    [
        ("string", "string", False),
        (["null", "long"], "long", True),
        (["null", {"type": "bytes", "logicalType": "decimal", "precision": 14, "scale": 2}], "decimal(14,2)", True),
        ({"type": "bytes", "logicalType": "decimal", "precision": 14}, "decimal(14,0)", False),
        ({"type": "int", "logicalType": "date"}, "date", False),
        (["null", "int", "string"], "null or int or string", True),
        ({"type": "array", "items": "string"}, "array", False),
    ],
)
def test_types_in_words(avro_type: object, said: str, optional: bool) -> None:
    assert (words.type_name(avro_type), words.optional(avro_type)) == (said, optional)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0 s ago"), (0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7_200, "2 h ago"), (1e6, "12 d ago")],
)
def test_ages_in_words(seconds: float, said: str) -> None:
    assert words.age(seconds) == said


@pytest.mark.parametrize(
    ("unix_ms", "said"),
    [(0, "1970-01-01T00:00:00Z"), (1_751_302_800_001, "2025-06-30T17:00:00.001Z"), (-(2**60), f"{-(2**60)} ms since 1970")],
)
def test_instants_in_words(unix_ms: int, said: str) -> None:
    assert words.instant(unix_ms) == said


def test_without_a_bus_everything_is_told_but_freshness(tmp_path: Path) -> None:
    told = bus(tmp_path, "catalog", "--json")
    assert told.returncode == 0, told.stderr
    listed = json.loads(told.stdout)
    assert [one["dataset"] for one in listed] == list(ENTRIES)
    assert {one["freshness"]["state"] for one in listed} == {"not running"}
    assert {one["freshness"]["age_seconds"] for one in listed} == {None}
    assert listed[0]["fields"][0].keys() == {"name", "type", "optional", "personal", "meaning", "checked_as"}


def test_one_dataset_is_shown_alone(tmp_path: Path) -> None:
    name, entry = next(iter(ENTRIES.items()))
    shown = bus(tmp_path, "catalog", name).stdout
    assert all(re.search(rf"^{re.escape(field.name)}\s", shown, re.MULTILINE) for field in entry.fields)
    assert all(one.agreement in shown for one in entry.agreements)
    assert json.loads(bus(tmp_path, "catalog", name, "--json").stdout)["dataset"] == name


@pytest.mark.parametrize(
    ("words_", "says"),
    [
        (["catalog", "civil.brith"], "did you mean 'civil.birth'?"),
        (["subscriber", "describe", "taxx"], "did you mean 'tax'?"),
        (["subscriber", "contract", "tax.taxpayer"], "did you mean 'tax.taxpayers'?"),
        (["subscriber", "bundle", "taxx", "--lang", "kcat"], "did you mean 'tax'?"),
        (["subscriber", "bundle", "tax", "--lang", "kcat"], "bus up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_in_one_line(tmp_path: Path, words_: list[str], says: str) -> None:
    told = bus(tmp_path / "none", *words_)
    assert told.returncode == 64
    assert says in told.stderr
    assert len(told.stderr.splitlines()) == 1
    assert told.stdout == ""
