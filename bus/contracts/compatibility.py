"""Whether a new schema may stand beside its subject's earlier ones: the levels of Confluent's registry, verdicts with reasons.

The verdict is the Apache `avro` package's. Where it says that a pair is compatible, values of the writer are encoded and really
decoded with the reader (`trial`), because verdicts of this kind have been wrong before. Where it says that a pair is not, its own
checks are asked again place by place (`reasons`): it mixes the reasons of different places, and names no place inside a union.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bus.contracts.parsing import Parsed, parse
from bus.contracts.reasons import Reason, reasons
from bus.contracts.trial import trial

__all__ = ["Direction", "Level", "Parsed", "Problem", "check", "field_at", "parse", "reads"]


class Direction(Enum):
    BACKWARD = "BACKWARD"
    """The new schema must read what was written with the earlier one."""
    FORWARD = "FORWARD"
    """The earlier schema must read what is written with the new one."""


class Level(Enum):
    """A subject's compatibility level, by its name in the registry's API."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def transitive(self) -> bool:
        return self.value.endswith("_TRANSITIVE")

    @property
    def directions(self) -> tuple[Direction, ...]:
        name = self.value.removesuffix("_TRANSITIVE")
        return tuple(d for d in Direction if name in (d.value, "FULL"))


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the new schema is refused. `location`: JSON pointer into the schema that reads. `version`: the earlier one."""

    type: str
    """READER_FIELD_MISSING_DEFAULT_VALUE, MISSING_ENUM_SYMBOLS, … as in Confluent's registry; or AMBIGUOUS_ALIAS, UNREADABLE."""
    message: str
    location: str
    version: int
    direction: Direction

    def __str__(self) -> str:
        who = (
            "the new schema cannot read version {}"
            if self.direction is Direction.BACKWARD
            else "version {} cannot read the new schema"
        )
        return f"{self.type} at {self.location}: {self.message} ({who.format(self.version)})"


def check(level: Level, new: Parsed, earlier: Mapping[int, Parsed]) -> tuple[Problem, ...]:
    """Every problem that `new` has as its subject's next version; none: it may be registered.

    `earlier`: version -> schema, without deleted versions. Levels that are not transitive look at the greatest version only.
    """
    versions = sorted(earlier, reverse=True)
    if not level.transitive:
        versions = versions[:1]
    found = []
    for version in versions:
        for direction in level.directions:
            reader, writer = (new, earlier[version]) if direction is Direction.BACKWARD else (earlier[version], new)
            found += [Problem(r.type, r.message, r.location, version, direction) for r in reads(reader, writer)]
    return tuple(found)


def reads(reader: Parsed, writer: Parsed) -> tuple[Reason, ...]:
    """Why `reader` cannot read what was written with `writer`; none: it can, all of it."""
    return reasons(reader.plain, writer.plain) or trial(reader.plain, writer.plain)


def field_at(schema: Any, pointer: str) -> str:
    """The innermost field that a JSON pointer into a schema passes."""
    name, here = "", schema
    for step in pointer.strip("/").split("/"):
        try:
            here = here[int(step)] if isinstance(here, list) else here[step]
        except (KeyError, ValueError, IndexError, TypeError):
            break
        if isinstance(here, dict) and "name" in here and "type" in here and here["type"] not in ("record", "enum", "fixed"):
            name = here["name"]
    return str(name)
