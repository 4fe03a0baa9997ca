"""The agencies' tables are what the schemas say, are captured whole, and keep their ground truth to themselves."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from bus.avro.dataset import Dataset
from connectors import society
from connectors.society.agency import ROOT, agency, domains, schemas, tables_sql
from tests.connectors.town import Town, all_datasets, sector_datasets

PLAIN = {
    "smallint": "int",
    "integer": "int",
    "bigint": "long",
    "boolean": "boolean",
    "real": "float",
    "double precision": "double",
    "text": "string",
    "json": "string",
    "jsonb": "string",
    "bytea": "bytes",
    "uuid": {"type": "string", "logicalType": "uuid"},
    "date": {"type": "int", "logicalType": "date"},
    "timestamp with time zone": {"type": "long", "logicalType": "timestamp-micros"},
    "timestamp without time zone": {"type": "long", "logicalType": "local-timestamp-micros"},
}
PERSONAL_WORDS = ("pin", "name", "birth", "sex", "phone", "address", "religion", "ethnicity", "guardian", "salary", "cause")
OF_AN_INSTITUTION = "education.school"
NOT_TELLING = {"land_use", "updated_at"}
"""What beside codes may stand untagged in a row that belongs to a person, directly or by the land that is theirs."""


def _avro(described: str, kind: str) -> Any:
    if kind == "e" or described.startswith("character"):
        return "string"
    if described.startswith("numeric("):
        precision, scale = described.removeprefix("numeric(").removesuffix(")").split(",")
        return {"type": "bytes", "logicalType": "decimal", "precision": int(precision), "scale": int(scale)}
    return PLAIN[described]


@pytest.mark.parametrize("dataset", all_datasets(), ids=lambda d: d.name)
def test_a_schema_describes_its_table_column_by_column(town: Town, dataset: Dataset) -> None:
    columns = town.query(
        dataset.domain,
        "SELECT attname, format_type(atttypid, atttypmod) AS described, typtype, attnotnull FROM pg_attribute"
        " JOIN pg_type t ON t.oid = atttypid WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        f"public.{dataset.table}",
    )
    expected = {c["attname"]: _avro(c["described"], c["typtype"]) for c in columns}
    nullable = {c["attname"] for c in columns if not c["attnotnull"]}
    assert dataset.fields == {name: ["null", kind] if name in nullable else kind for name, kind in expected.items()}
    assert list(dataset.fields) == list(expected)
    for field in dataset.row["fields"]:
        assert ("default" in field and field["default"] is None) == (field["name"] in nullable)
    key = town.query(
        dataset.domain,
        "SELECT attname FROM pg_index, unnest(indkey) WITH ORDINALITY AS k(n, place) JOIN pg_attribute ON attnum = n"
        " WHERE indrelid = %s::regclass AND indisprimary AND attrelid = indrelid ORDER BY place",
        f"public.{dataset.table}",
    )
    assert dataset.primary_key == tuple(c["attname"] for c in key)


def test_exactly_the_described_tables_are_captured_whole(town: Town) -> None:
    for domain, tables in schemas().items():
        found = town.query(
            domain,
            "SELECT tablename, relreplident FROM pg_publication_tables"
            " JOIN pg_class ON relname = tablename AND relnamespace = 'public'::regnamespace WHERE pubname = 'bus'",
        )
        assert {(r["tablename"], r["relreplident"]) for r in found} == {(t, "f") for t in tables}


@pytest.mark.parametrize("dataset", all_datasets(), ids=lambda d: d.name)
def test_every_field_is_documented_and_personal_data_is_tagged(dataset: Dataset) -> None:
    for field in dataset.row["fields"]:
        assert len(field["doc"]) > 6
        assert field.get("pii") in (None, "basic", "sensitive")
        words = field["name"].split("_")
        personal = "id" not in words and any(word in words for word in PERSONAL_WORDS)
        if personal and dataset.name != OF_AN_INSTITUTION:
            assert field.get("pii"), f"{dataset.name}.{field['name']} looks like personal data and is not tagged"
    for role in dataset.people:
        assert {role.pin, *role.match.values()} <= dataset.personal()


@pytest.mark.parametrize("dataset", [d for d in all_datasets() if d.name != OF_AN_INSTITUTION], ids=lambda d: d.name)
def test_in_a_persons_row_only_codes_and_the_time_of_the_change_are_untagged(dataset: Dataset) -> None:
    """Numbers, dates and places point to one row, and with it to one person, as well as a name does."""
    untagged = dataset.fields.keys() - dataset.personal()
    assert {name for name in untagged if not name.endswith("_code")} <= NOT_TELLING
    assert not untagged & {*dataset.primary_key}


def test_roles_can_be_checked_against_what_the_register_compares() -> None:
    (register,) = [d for d in all_datasets() if d.register]
    compared = {f["name"]: f["compare"] for f in register.row["fields"] if "compare" in f}
    assert compared == {"full_name": "name", "birth_date": "date", "sex": "sex"}
    for dataset in sector_datasets():
        for role in dataset.people:
            assert "full_name" in role.match
            assert set(role.match) <= set(compared)


def test_the_tables_can_be_made_again_without_loss(town: Town) -> None:
    town.fill(60)
    before = {d.name: town.as_json(d) for d in all_datasets()}
    for domain, dsn in town.owners.items():
        with psycopg.connect(dsn) as connection:
            connection.execute(tables_sql(domain))
    assert before == {d.name: town.as_json(d) for d in all_datasets()}


def test_the_bus_reads_the_tables_and_never_the_ground_truth(town: Town) -> None:
    town.fill(60)
    for domain, dsn in town.readers.items():
        with psycopg.connect(dsn, autocommit=True) as connection:
            for table in schemas()[domain]:
                connection.execute(f"SELECT * FROM {table} LIMIT 1")
            for table in ("error", "journal", "number"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT * FROM truth.{table} LIMIT 1")


def test_no_code_outside_its_folder_names_a_domain() -> None:
    """The society and the demo know agencies only by their folders."""
    assert domains()[0] == next(d.domain for d in all_datasets() if d.register)
    assert set(domains()) == set(schemas()) == {p.parent.name for p in ROOT.glob("*/tables.sql")}
    for file in (ROOT / "society").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        for domain in domains():
            assert f'"{domain}"' not in text, f"{file.name} names {domain}"
            assert f"connectors.{domain}" not in text, f"{file.name} names {domain}"
        for dataset in sector_datasets():
            assert f'"{dataset.table}"' not in text, f"{file.name} names {dataset.name}"
    assert all(set(agency(d).tables) == set(schemas()[d]) for d in society.domains())
