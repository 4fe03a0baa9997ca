"""`bus schema` beside a running bus: verdicts are confirmed on what its topics hold, and its tables are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bus.cli.main import app
from tests.contracts.seeded import add, retype
from tests.pipeline.bus import Bus


def run(bus: Bus, status: int, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--home", str(bus.settings.home), "schema", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.fixture
def proposed(running_bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """proposed(edit) -> the file with the schema of births, edited."""
    monkeypatch.setenv("BUS_HOME", str(running_bus.settings.home))  # --home sets it, for what a command starts

    def write(edit: Any) -> str:
        row = json.loads((running_bus.settings.schemas / "civil" / "birth.avsc").read_text(encoding="utf-8"))
        edit(row)
        path = tmp_path / "civil" / "birth.avsc"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(row), encoding="utf-8")
        return str(path)

    return write


def test_a_harmless_change_is_confirmed_on_recorded_records(running_bus: Bus, proposed: Any) -> None:
    found = run(running_bus, 0, "impact", proposed(add("note", ["null", "string"], default=None)))
    assert {e["verdict"] for e in found} == {"nothing"}
    agreed = {e["agreement"]: e["confirmed"] for e in found if e["agreement"]}
    assert agreed["hcmc.shared-warehouse"].endswith("recorded in agency.hcmc.shared-warehouse")
    readers = {e["dataset"]: e["confirmed"] for e in found if not e["agreement"]}
    assert readers["change.civil.birth"] == "200 recorded in change.civil.birth"
    assert readers["verified.civil.birth"] == "200 recorded in verified.civil.birth"


def test_a_harmful_change_names_agreement_field_and_steps(running_bus: Bus, proposed: Any) -> None:
    path = proposed(retype("mother_birth_year", ["null", "long"]))
    found = run(running_bus, 1, "impact", path)
    fails = {(e["agreement"], e["field"]) for e in found if e["verdict"] == "fails"}
    assert ("statistics.indicators", "mother_birth_year") in fails
    ((plan),) = run(running_bus, 0, "evolve", "--plan", "--sunset", "2030-01-01", path)
    assert any("statistics.indicators-2" in step["text"] for step in plan["steps"])


def test_schemas_and_tables_of_the_running_bus_keep_the_rules(running_bus: Bus, proposed: Any) -> None:
    found = run(running_bus, 0, "check")
    assert found["problems"] == []
    assert found["tables_compared"] == sorted(running_bus.domains)
