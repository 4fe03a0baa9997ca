"""Delivered schemas evolve under FULL_TRANSITIVE: a dataset's schema may change only so far as no agreement's consumers notice.

An agreement's own text may change what it delivers, other fields or other masks: that is signed by both sides, and is not refused
here. What a change of a dataset would break without anybody having agreed to it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bus.avro.catalogue import Catalogue
from bus.avro.dataset import SchemaError
from bus.contracts.compatibility import Direction, Level, Parsed, check, field_at, parse
from bus.core import topics
from bus.core.agreement import Grant


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one grant delivers from now on. `before`: the grant of the agreement in force until now, if there was one."""

    agreement: str
    grant: Grant
    subject: str
    schema: Any
    before: Grant | None


@dataclass(frozen=True, slots=True, order=True)
class Broken:
    """One field of one agreement that its consumers could no longer read."""

    agreement: str
    dataset: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.agreement}, {self.dataset} {self.field}: {self.reason}"


def levels(subjects: Iterable[str]) -> dict[str, str]:
    """Subject -> compatibility level in the registry, of what is delivered; others have the registry's own."""
    return {name: Level.FULL_TRANSITIVE.value for name in subjects if name.startswith(topics.agency(""))}


_REMEDY = (
    "Put the old schema back; `bus schema evolve --plan` says how to make the change: the new field beside the old one, and "
    "agreements of a new name, with a topic of their own, for those who want it"
)


class ContractError(SchemaError):
    """A change of schemas breaks agreements; `broken` has each with agreement, field and reason."""

    def __init__(self, broken: list[Broken]) -> None:
        self.broken = tuple(sorted(set(broken)))
        listed = "\n".join(f"{one}" for one in self.broken)
        super().__init__(
            f"the schemas have changed so that {len(self.broken)} delivered fields could not be read as agreed; nothing was "
            f"done:\n{listed}\n    {_REMEDY}"
        )


def require(delivered: list[Delivered], found: Catalogue) -> None:
    """Raises ContractError unless everything delivered reads, and is read by, every version registered before."""
    if broken := [b for one in delivered for b in _broken(one, found)]:
        raise ContractError(broken)


def _broken(one: Delivered, found: Catalogue) -> Iterator[Broken]:
    versions = {e.version: json.loads(e.schema) for e in found.versions(one.subject)}
    if not versions:
        return
    latest = versions[max(versions)]
    parsed = {v: parse(s) for v, s in versions.items()}
    known = set(_fields(latest, parsed[max(versions)], {v: p for v, p in parsed.items() if v != max(versions)}, versions))
    for version, field, direction in _fields(one.schema, parse(one.schema), parsed, versions):
        if (version, field, direction) in known or field in _own(one, versions[version]):
            continue
        consumers = f"consumers of its version {version}" if direction is Direction.FORWARD else "new consumers"
        what = "what would be delivered" if direction is Direction.FORWARD else f"what was delivered under version {version}"
        yield Broken(one.agreement, one.grant.dataset, field, f"{consumers} could not read {what}")


def _fields(
    schema: Any, new: Parsed, earlier: Mapping[int, Parsed], versions: Mapping[int, Any]
) -> Iterator[tuple[int, str, Direction]]:
    """(version, field, direction) of every problem."""
    for problem in check(Level.FULL_TRANSITIVE, new, earlier):
        reader = versions[problem.version] if problem.direction is Direction.FORWARD else schema
        yield problem.version, field_at(reader, problem.location), problem.direction


def _own(one: Delivered, earlier: Any) -> set[str]:
    """Delivered fields that the agreement's own text has added, taken away or masked otherwise."""
    now, then = _data(one.schema), _data(earlier)
    masks = {f.name: f.mask for f in one.before.fields} if one.before else {}
    masked = {f.name.replace(".", "_") for f in one.grant.fields if masks.get(f.name, f.mask) != f.mask}
    return (now ^ then) | masked


def _data(schema: Any) -> set[str]:
    data: list[Any] = next((f["type"] for f in schema["fields"] if f["name"] == "data"), [])
    return {f["name"] for branch in data if isinstance(branch, dict) for f in branch["fields"]}
