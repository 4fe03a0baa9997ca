"""What a mock agency is, and how agencies are found: every folder beside this one with a tables.sql and a mock.py.

A `mock.py` exports `AGENCY`: how it records a neighbourhood at the fill, how it reacts to what happens in the society,
and what it does of its own accord. Nothing outside the folder knows its tables.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from bus.avro import dataset
from bus.avro.dataset import Dataset
from connectors.society.people import Neighbourhood, Person
from connectors.society.slips import Row

if TYPE_CHECKING:
    from connectors.society.desk import Desk
    from connectors.society.events import Event

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT.parent / "schemas"


class SocietyError(ValueError):
    """The society cannot be filled or lived in; the message says which database and what to do."""


@dataclass(frozen=True, slots=True)
class Agency:
    """One mock agency."""

    tables: tuple[str, ...]
    """In the order of filling: referenced tables first."""
    settle: Callable[[Neighbourhood, Random], Iterator[tuple[str, Row]]]
    """(table, row) for every row that the agency holds about a neighbourhood when the society begins."""
    reactions: Mapping[type[Event], tuple[float, Callable[[Desk, Any], None]]] = field(default_factory=dict)
    """Event -> (how many seconds later the agency usually writes, what it writes); other events leave it alone."""
    routine: tuple[tuple[float, Callable[[Desk], None]], ...] = ()
    """Its own business: (weight beside the events' weights, one transaction's work)."""
    sample: Callable[[Desk, int], list[Person]] | None = None
    """The register only: about that many people who live, households together."""
    find: Callable[[Desk, str], Person | None] | None = None
    """The register only: the person with this PIN."""


@cache
def schemas() -> dict[str, dict[str, Dataset]]:
    """Domain -> table -> dataset."""
    found: dict[str, dict[str, Dataset]] = {}
    for one in dataset.load(SCHEMAS).values():
        found.setdefault(one.domain, {})[one.table] = one
    return found


@cache
def domains() -> list[str]:
    """All mock agencies' domains: the register first, the others by name."""
    register = dataset.register_of(dataset.load(SCHEMAS)).domain
    found = sorted(p.parent.name for p in ROOT.glob("*/tables.sql"))
    return sorted(found, key=lambda domain: (domain != register, domain))


def agency(domain: str) -> Agency:
    """The domain's AGENCY. Raises SocietyError when its tables and schemas name different things."""
    found: Agency = importlib.import_module(f"connectors.{domain}.mock").AGENCY
    if set(found.tables) != set(schemas().get(domain, {})):
        known = sorted(schemas().get(domain, {}))
        raise SocietyError(f"connectors/{domain}/mock.py fills {sorted(found.tables)}, but schemas/{domain} describes {known}")
    return found


def tables_sql(domain: str) -> str:
    return (ROOT / domain / "tables.sql").read_text(encoding="utf-8")


def truth_sql() -> str:
    return Path(__file__).with_name("truth.sql").read_text(encoding="utf-8")
