"""How to make a change safe: which steps, in which order, in words.

The pattern is always the same. What is new comes first and beside the old; whoever reads the old moves in their own time, under a
new agreement with a topic of its own; on a day that was announced the old one ends; only then it goes from the schema, and last
from the table. A change that breaks nobody is one step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import count
from typing import Any

from bus.contracts.difference import Change, What, split, type_words
from bus.contracts.impact import SENSITIVE, Effect, Verdict

_FIELD_CHANGES = (What.TYPE, What.MEANING, What.NULLABLE, What.REQUIRED)
_SILENT = (What.DOC, What.ORDER, What.DEFAULT)


@dataclass(frozen=True, slots=True)
class Step:
    """`who` does it: the agency that owns the data, the bus's operator, or the agencies that receive it."""

    who: str
    text: str

    def __str__(self) -> str:
        return f"{self.who}: {self.text}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One change and its steps, in order."""

    change: Change
    steps: tuple[Step, ...]


def plan(
    dataset: str, changes: Sequence[Change], effects: Sequence[Effect], sunset: date, columns: Collection[str]
) -> list[Plan]:  # fmt: skip
    """`effects`: of all changes together. `sunset`: the day on which what is old ends. `columns`: of the dataset, as it is and as
    proposed; a new column takes none of their names."""
    types = {c.field: c.after for c in changes if c.what in _FIELD_CHANGES}
    done: set[str] = set()
    plans = []
    for change in changes:
        if change.what in _FIELD_CHANGES and change.field in done:
            continue  # a field whose type and nullability both change takes one way
        done.add(change.field)
        hurt = [e for e in effects if e.verdict is not Verdict.NOTHING and _concerns(e, change)]
        plans.append(Plan(change, tuple(_steps(dataset, change, hurt, sunset, _fresh(change, types, columns)))))
    return plans


def _concerns(effect: Effect, change: Change) -> bool:
    names = {change.field, str(change.before)} if change.what is What.RENAMED else {change.field}
    return effect.field.removeprefix("register.") in names or not change.field


def _fresh(change: Change, types: Mapping[str, Any], columns: Collection[str]) -> tuple[str, str]:
    """Name and type, in words, of the column that stands beside the old one."""
    if change.what is What.RENAMED:
        return change.field, f"as {type_words(types[change.field])}" if change.field in types else "with the same type"
    name = next(one for n in count(2) if (one := f"{change.field}_v{n}") not in columns)
    return name, f"as {type_words(change.after)}" if change.what in _FIELD_CHANGES else ""


def _steps(dataset: str, change: Change, hurt: Sequence[Effect], sunset: date, fresh: tuple[str, str]) -> Iterator[Step]:
    agreements = sorted({e.agreement for e in hurt if e.agreement})
    others = sorted({e.dataset for e in hurt if e.agreement and e.dataset != dataset})
    readers = any(not e.agreement for e in hurt)
    if change.what in _SILENT or (not hurt and change.what not in (What.ADDED, What.REMOVED, What.RENAMED)):
        yield _release(dataset, "nobody who reads it notices")
    elif change.what is What.ADDED:
        yield from _add(dataset, change)
    elif change.what is What.REMOVED:
        yield from _retire(dataset, change.field, agreements, others, readers, sunset)
    elif change.what in (What.RENAMED, *_FIELD_CHANGES):
        yield from _replace(dataset, change, agreements, sunset, fresh)
        yield from _retire(dataset, _old(change), (), others, readers, sunset)
    elif change.what is What.PII:
        yield from _tag(dataset, change, agreements)
    else:
        yield from _announce(dataset, change, agreements, sunset)


def _tag(dataset: str, change: Change, agreements: Sequence[str]) -> Iterator[Step]:
    if not agreements:
        yield _release(dataset, "every agreement on it names the legal basis that it needs")
        return
    if change.after == SENSITIVE:
        what = f"name the law that opens {change.field} under sensitive_basis"
    elif change.before == SENSITIVE:
        what = f"take {change.field} out of sensitive_basis"
    else:
        what = "name a legal basis"
    yield Step("receiving agencies", f"{what} in {_listed(agreements)}, together with the new schema; both parties sign again")
    yield _release(dataset, "`bus agreement apply` refuses the agreements without")


def _release(dataset: str, why: str) -> Step:
    return Step("operator", f"put the new schema of {dataset} in place and run `bus down`, `bus up`: {why}")


def _add(dataset: str, change: Change) -> Iterator[Step]:
    name, avro = change.field, change.after["type"]
    nullable = split(avro)[2]
    words = "" if nullable else ", or nullable first: rows from before have no value, and ADD COLUMN NOT NULL needs a DEFAULT"
    yield Step("owner", f"add the column {name} to the table{words}; capture reports it, and it flows nowhere")
    yield _release(dataset, "no agreement names the field, so none delivers it")
    yield Step("receiving agencies", f"who needs {name} and may have it agrees on it: a line in an agreement of its own topic")


def _retire(
    dataset: str, name: str, agreements: Sequence[str], others: Sequence[str], readers: bool, sunset: date
) -> Iterator[Step]:  # fmt: skip
    """`others`: datasets that are checked against this one, the register, or take something from it."""
    yield Step("owner", f"say in the doc of {name} that it ends on {sunset}, and tell its readers")
    yield from _move(agreements, f"without {name}", sunset)
    if others:
        words = (
            f"where `match` in the schemas of {_listed(others)} has {name}, take it out: rows could not be verified without it"
        )
        yield Step("owners of what is checked", words)
    if readers:
        yield Step(
            "developers", f"processors and programs that read {name} of change.{dataset} or verified.{dataset} stop doing so"
        )
    yield Step("operator", f"after {sunset}, take {name} out of the schema of {dataset}, then `bus down`, `bus up`")
    yield Step("owner", f"last, drop the column {name} from the table")


def _old(change: Change) -> str:
    return str(change.before) if change.what is What.RENAMED else change.field


def _replace(
    dataset: str, change: Change, agreements: Sequence[str], sunset: date, beside: tuple[str, str]
) -> Iterator[Step]:  # fmt: skip
    old, (fresh, words) = _old(change), beside
    yield Step("owner", f"leave {old} as it is; add a column {fresh} {words}, nullable, and fill both with every write")
    yield Step("owner", f"fill {fresh} of the rows that are there; each becomes an update event")
    yield _release(dataset, f"with {fresh} beside {old}, no agreement is touched")
    yield from _move(agreements, f"with {fresh} in the place of {old}", sunset)


def _move(agreements: Sequence[str], how: str, sunset: date) -> Iterator[Step]:
    if not agreements:
        return
    for name in agreements:
        yield Step(
            "operator",
            f"copy {name} to {name}-2 {how}, past: all, and `bus agreement apply`: topic agency.{name}-2 begins with what was "
            f"verified before; set valid_until: {sunset} in {name}",
        )
    yield Step("receiving agencies", f"move to the new topics before {sunset}: {_listed(agreements)}")


def _announce(dataset: str, change: Change, agreements: Sequence[str], sunset: date) -> Iterator[Step]:
    if agreements:
        yield Step("owner", f"tell {_listed(agreements)} what will be different, and from which day: the data will not show it")
        if change.what is What.PRIMARY_KEY:
            yield from _move(agreements, "unchanged", sunset)
    yield _release(dataset, "on the day that was announced" if agreements else "no agreement is concerned")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
