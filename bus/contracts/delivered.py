"""Delivered schemas evolve under FULL_TRANSITIVE: a dataset's schema may change only so far as no agreement's consumers notice.

An agreement's own text may change what it delivers, other fields or other masks: that is signed by both sides, and is not refused
here. What a change of a dataset would break without anybody having agreed to it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Set
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


@dataclass(frozen=True, slots=True)
class Unread:
    """One field that either of a new delivered schema and an earlier version cannot read of the other."""

    version: int
    field: str
    direction: Direction
    message: str

    @property
    def place(self) -> tuple[int, str, Direction]:
        return self.version, self.field, self.direction


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
    masks = {f.name: f.mask for f in one.before.fields} if one.before else {}
    masked = {f.name.replace(".", "_") for f in one.grant.fields if masks.get(f.name, f.mask) != f.mask}
    for problem in judged(one.schema, versions, masked)[0]:
        forward, version = problem.direction is Direction.FORWARD, problem.version
        consumers = f"consumers of its version {version}" if forward else "new consumers"
        what = "what would be delivered" if forward else f"what was delivered under version {version}"
        yield Broken(one.agreement, one.grant.dataset, problem.field, f"{consumers} could not read {what}")


def judged(schema: Any, versions: Mapping[int, Any], masked: Set[str] = frozenset()) -> tuple[list[Unread], list[Unread]]:
    """What a delivered schema and its subject's earlier versions cannot read of each other: first what nobody has agreed to, then
    what is no concern of a dataset's change, for the newest version has it already, or the agreement's own text has made it.

    `versions`: version -> schema. `masked`: delivered fields that the text masks otherwise now.
    """
    if not versions:
        return [], []
    parsed = {version: parse(one) for version, one in versions.items()}
    newest = max(versions)
    earlier = {version: one for version, one in parsed.items() if version != newest}
    known = {u.place for u in _unread(versions[newest], parsed[newest], earlier, versions)}
    unagreed: list[Unread] = []
    agreed: list[Unread] = []
    for one in _unread(schema, parse(schema), parsed, versions):
        own = one.field in _data(schema) ^ _data(versions[one.version]) | masked
        (agreed if own or one.place in known else unagreed).append(one)
    return unagreed, agreed


def _unread(schema: Any, new: Parsed, earlier: Mapping[int, Parsed], versions: Mapping[int, Any]) -> Iterator[Unread]:
    for problem in check(Level.FULL_TRANSITIVE, new, earlier):
        reader = versions[problem.version] if problem.direction is Direction.FORWARD else schema
        yield Unread(problem.version, field_at(reader, problem.location), problem.direction, problem.message)


def _data(schema: Any) -> set[str]:
    data: list[Any] = next((f["type"] for f in schema["fields"] if f["name"] == "data"), [])
    return {f["name"] for branch in data if isinstance(branch, dict) for f in branch["fields"]}
