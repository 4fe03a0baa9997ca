"""A filled set of agency databases, and what tests ask of it: rows, journal, and the verdict each record deserves.

The verdicts are reckoned from the rows themselves, so they are a second opinion on what the ground truth expects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from bus.avro.dataset import Dataset, Role
from bus.core.matching import COMPARE
from connectors import society
from connectors.society.agency import schemas

Row = dict[str, Any]
NOON = datetime(2026, 3, 5, 5, tzinfo=UTC)


@dataclass
class Town:
    """`owners` and `readers`: DSN by domain, of the agency and of the bus."""

    owners: Mapping[str, str]
    readers: Mapping[str, str]

    def fill(self, people: int, seed: int = 1) -> dict[str, int]:
        return society.fill(self.owners, people, seed, lambda *_: None)

    def live(
        self,
        rate: float,
        seconds: float,
        seed: int = 1,
        tick: Callable[[Mapping[str, int]], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, int]:
        """Life as fast as the machine can, on a clock that only pauses move."""
        clock = Clock()
        return society.live(self.owners, rate, seconds, seed, tick, stop, clock=clock, pause=clock.pause, wall=lambda: NOON)

    def query(self, domain: str, statement: str, *values: Any) -> list[Row]:
        with psycopg.connect(self.owners[domain], row_factory=dict_row) as connection:
            return connection.execute(statement, values).fetchall()

    def rows(self, dataset: Dataset) -> list[Row]:
        return self.query(dataset.domain, f"SELECT * FROM {dataset.table}")

    def as_json(self, dataset: Dataset) -> dict[str, Row]:
        """Row key -> row, with values as PostgreSQL writes them in JSON."""
        found = self.query(dataset.domain, f"SELECT to_jsonb(t) AS row FROM {dataset.table} t")
        return {key_of(dataset, r["row"]): r["row"] for r in found}

    def journal(self, domain: str) -> list[Row]:
        return self.query(domain, "SELECT * FROM truth.journal ORDER BY seq")

    def journal_counts(self) -> Counter[str]:
        return Counter(f"{d}.{r['table_name']}" for d in self.owners for r in self.journal(d))

    def errors(self, domain: str, table: str) -> dict[tuple[str, str], list[Row]]:
        """(row key, role) -> what is wrong with it now."""
        found: dict[tuple[str, str], list[Row]] = {}
        for error in self.query(domain, "SELECT * FROM truth.error WHERE table_name = %s AND corrected_at IS NULL", table):
            found.setdefault((error["row_key"], error["role"]), []).append(error)
        return found

    def register(self) -> dict[str, Row]:
        return {row["pin"]: row for row in self.query(society.domains()[0], "SELECT * FROM person")}

    def disagreements(self) -> Iterator[str]:
        """Records whose verdict is another than the ground truth expects, and errors without a record."""
        register = self.register()
        for dataset in sector_datasets():
            errors = self.errors(dataset.domain, dataset.table)
            for row in self.rows(dataset):
                for role in dataset.people:
                    key = (key_of(dataset, row), role.name)
                    expected = sorted({e["expected"] for e in errors.pop(key, [])} - {"MATCH"}) or ["MATCH"]
                    found = verdict(register, role, row, subject=role is dataset.people[0])
                    if found is not None and [found] != expected:
                        yield f"{dataset.name} {key}: {found}, expected {expected}"
            yield from (f"{dataset.name} {key}: an error without a record" for key in errors)


class Clock:
    """Seconds that pass only while somebody pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def all_datasets() -> list[Dataset]:
    return [d for tables in schemas().values() for d in tables.values()]


def sector_datasets() -> list[Dataset]:
    return [d for d in all_datasets() if not d.register]


def key_of(dataset: Dataset, row: Row) -> str:
    return "/".join(str(row[c]) for c in dataset.primary_key)


def verdict(register: Mapping[str, Row], role: Role, row: Row, *, subject: bool = True) -> str | None:
    """None where nobody stands in the role; somebody always is the row's subject."""
    if row[role.pin] is None:
        return "NO_PIN" if subject or any(row[c] is not None for c in role.match.values()) else None
    person = register.get(row[role.pin])
    if person is None:
        return "NOT_FOUND"
    kinds = {"full_name": "name", "birth_date": "date", "sex": "sex"}
    pairs = [
        (kinds[field], str(person[field]), str(row[column])) for field, column in role.match.items() if row[column] is not None
    ]
    return "MATCH" if all(COMPARE[kind](left, right) for kind, left, right in pairs) else "MISMATCH"


def entries(town: Town) -> list[Row]:
    """All journals, each entry with its domain."""
    return [entry | {"domain": d} for d in society.domains() for entry in town.journal(d)]
