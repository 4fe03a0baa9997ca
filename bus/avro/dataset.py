"""Datasets: one row schema under schemas/<domain>/<table>.avsc each, with the annotations the bus lives by.

Beside plain Avro a row schema carries
  primary_key: [column, ...]
  register: true                      (the population register only)
  people: [{role, pin, match: {register field: row field}}, ...]; the first one is the row's subject
and each field
  doc, pii: "basic" | "sensitive" (Decree 356/2025), and in the register's schema
  compare: "name" | "date" | "sex" | "text" (how a sector's value is compared with it; see bus.core.matching).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.core import topics

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Role:
    """One person in a row: where the PIN stands and which row fields the register can check."""

    name: str
    pin: str
    match: dict[str, str]
    """Register field -> row field."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One captured table. `name` is '<domain>.<table>'."""

    name: str
    domain: str
    table: str
    row: Schema
    primary_key: tuple[str, ...]
    people: tuple[Role, ...]
    register: bool

    @property
    def topic(self) -> str:
        return topics.change(self.name, self.register)

    @property
    def fields(self) -> dict[str, Any]:
        """Column -> Avro type, in order."""
        return {f["name"]: f["type"] for f in self.row["fields"]}

    def personal(self) -> frozenset[str]:
        """Columns that carry personal data."""
        return frozenset(f["name"] for f in self.row["fields"] if f.get("pii"))


class SchemaError(ValueError):
    """A schema file breaks a rule; the message names file, field and remedy."""


def load(root: Path) -> dict[str, Dataset]:
    """All datasets under `root` (schemas/), by name, in name order. Raises SchemaError."""
    found = [read(path) for path in sorted(root.glob("*/*.avsc"))]
    if not found:
        raise SchemaError(f"no schemas under {root}: expected <domain>/<table>.avsc")
    return {d.name: d for d in found}


def register_of(datasets: dict[str, Dataset]) -> Dataset:
    """The one dataset that is the population register. Raises SchemaError unless there is exactly one."""
    found = [d for d in datasets.values() if d.register]
    if len(found) != 1:
        raise SchemaError(f'exactly one schema must say "register": true, found {[d.name for d in found]}')
    return found[0]


def read(path: Path) -> Dataset:
    """The dataset of one file. Raises SchemaError for what it cannot be without (bus.contracts.rules has the rest)."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise SchemaError(f"{path}: cannot be read as JSON: {error}") from error
    return dataset_of(row, path.parent.name, path.stem, str(path))


def shaped(row: Any) -> bool:
    """Whether fields and the annotations of a parsed file are of the kinds that everybody takes them for."""
    if not isinstance(row, dict):
        return False
    fields, key, people = row.get("fields", []), row.get("primary_key", []), row.get("people", [])
    named = isinstance(fields, list) and all(isinstance(f, dict) and "type" in f and _texts([f.get("name")]) for f in fields)
    return named and _texts(key) and isinstance(people, list) and all(isinstance(p, dict) and _role(p) for p in people)


def _role(person: dict[str, Any]) -> bool:
    match = person.get("match", {})
    return _texts([person.get("role"), person.get("pin")]) and isinstance(match, dict) and _texts(list(match.values()))


def _texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def dataset_of(row: Schema, domain: str, table: str, path: str) -> Dataset:
    """The dataset of a parsed file; `path` is for the message. Raises SchemaError."""
    if not shaped(row):
        raise SchemaError(f"{path}: its fields, people or primary_key are not as they must be: `bus schema check` says more")
    names = {f["name"] for f in row.get("fields", ())}
    roles = tuple(Role(p["role"], p["pin"], dict(p.get("match", {}))) for p in row.get("people", ()))
    key = tuple(row.get("primary_key", ()))
    named = [*key, *(n for r in roles for n in (r.pin, *r.match.values()))]
    if missing := sorted(set(named) - names):
        raise SchemaError(f"{path}: primary_key or people name columns that the record lacks: {', '.join(missing)}")
    if row.get("name") != table or not key:
        raise SchemaError(f"{path}: the record's name must be {table!r} and primary_key must not be empty")
    return Dataset(f"{domain}.{table}", domain, table, row, key, roles, bool(row.get("register")))
