"""`bus schema check` beside a real database: every misfit of every table at once, and new columns, which flow nowhere."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bus.avro import derive
from bus.cli import schema_check
from bus.cli.schema_check import Checked
from tests.capture.conftest import MakeLab
from tests.capture.lab import Lab, field, schema

SQL = """
CREATE TABLE book (id integer PRIMARY KEY, pin varchar(12), title text NOT NULL, price numeric(10,2));
CREATE TABLE shelf (id integer PRIMARY KEY, place text NOT NULL);
"""
MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}
BOOK = schema(
    "book",
    ["id"],
    [
        field("id", "int"),
        field("pin", ["null", "string"], pii="basic"),
        field("title", "string"),
        field("price", ["null", MONEY]),
    ],
)
SHELF = schema("shelf", ["id"], [field("id", "int"), field("place", "string")], pin=None)


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab(SQL, BOOK, SHELF)


def look(lab: Lab) -> Checked:
    return schema_check.run(lab.settings, [], [f"{lab.domain}={lab.dsn}"])


def tables(checked: Checked) -> set[tuple[str, str]]:
    return {(p.field, p.reason) for p in checked.problems if "public." in p.reason}


def test_tables_that_fit_are_not_spoken_of(lab: Lab) -> None:
    found = look(lab)
    assert tables(found) == set()
    assert found.looked_at == (lab.domain,)


def test_every_misfit_of_every_table_at_once(lab: Lab) -> None:
    with lab.connect() as db:
        db.execute("ALTER TABLE book DROP COLUMN price")
        db.execute("ALTER TABLE book ALTER id TYPE bigint")
        db.execute("ALTER TABLE shelf ALTER place DROP NOT NULL")
    found = look(lab)
    assert {name for name, _ in tables(found)} == {"price", "id", "place"}
    assert found.must_mend


def test_a_new_column_is_reported_and_flows_nowhere(lab: Lab) -> None:
    """Reported, not wrong; and neither in the events of its table nor in their schema."""
    with lab.connect() as db:
        db.execute("ALTER TABLE book ADD COLUMN secret text DEFAULT 'never seen'")
    found = look(lab)
    ((name, reason),) = tables(found)
    assert name == "secret"
    assert "flows nowhere" in reason
    with lab.capture() as capture, lab.connect() as db:
        capture.streaming()
        db.execute("INSERT INTO book VALUES (1, NULL, 'x', 1, 'never seen')")
        (event,) = lab.wait_for_events(1)
    assert set(event.row) == {"id", "pin", "title", "price"}
    assert "secret" not in json.dumps(derive.change(lab.datasets[f"{lab.domain}.book"]))


def test_a_database_that_does_not_answer_is_said_and_the_files_are_checked_all_the_same(lab: Lab) -> None:
    found = schema_check.run(lab.settings, [], [f"{lab.domain}={lab.dsn.replace('port=', 'port=1')}"])
    assert found.looked_at == ()
    assert lab.domain in found.not_looked_at
    assert found.files == 2


def test_with_a_bus_its_own_databases_are_asked(lab: Lab) -> None:
    settings: Any = dataclasses.replace(lab.settings)
    assert schema_check.run(settings, [], []).looked_at == (lab.domain,)
