"""Test files of agreements, read and checked, all problems of all files at once. docs/agreements.md says how to write one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.avro.dataset import Dataset
from bus.core import identity
from bus.core.agreement import Agreement, Grant, Mask
from bus.core.outcome import CHANGE_OPS, DELIVERY_OPS, VERDICTS, Outcome
from bus.engine import yaml_lines
from bus.engine.agreements import TEST_SUFFIX
from bus.engine.grants import Checker
from bus.engine.yaml_lines import Item, Problem
from bus.trial import values
from bus.trial.counting import delivery_schema

Row = dict[str, Any]
REASONS = tuple(o.value for o in (Outcome.ROW_FILTER, Outcome.VERDICT, Outcome.INVISIBLE))
AGREEMENT_SECRET = b"agreement-key of every test file"
"""32 bytes. What is hashed under it says nothing about any bus."""
_FILE_KEYS = ("agreement", "people", "rows", "cases")
_CASE_KEYS = ("case", "dataset", "op", "before", "after", "gets", "withheld")
_GETS_KEYS = ("op", "verdict", "data")
_PSEUDONYM = "pseudonym"


class CaseError(ValueError):
    """Test files that cannot be used; `problems` has each with file, line, reason and remedy."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line)))
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the test files of agreements:"
        super().__init__("\n".join([count, *map(str, self.problems)]))


@dataclass(frozen=True, slots=True)
class Gets:
    """A delivery as it must be, all of it."""

    op: str
    verdict: str | None
    data: Row | None


@dataclass(frozen=True, slots=True)
class Case:
    """One event in, and what comes out: a delivery, or the outcome that withholds it."""

    name: str
    line: int
    dataset: str
    op: str
    before: Row | None
    after: Row | None
    expected: Gets | str


@dataclass(frozen=True, slots=True)
class Examples:
    """One test file. `people`: the register's records."""

    path: Path
    agreement: Agreement
    people: tuple[Row, ...]
    cases: tuple[Case, ...]


def load(root: Path, agreements: Mapping[str, Agreement], datasets: Mapping[str, Dataset], register: Dataset) -> list[Examples]:
    """Every test file in the directory, by name. Raises CaseError."""
    problems: list[Problem] = []
    found = []
    for path in sorted(root.glob(f"*{TEST_SUFFIX}")):
        document = yaml_lines.read(path, problems)
        if document is not None:
            check = Checker(str(path), datasets, register, problems)
            found.append(_file(path, check, document, agreements))
    if problems:
        raise CaseError(problems)
    return [one for one in found if one is not None]


def _file(path: Path, check: Checker, document: Item, agreements: Mapping[str, Agreement]) -> Examples | None:
    entries = check.keys(document, _FILE_KEYS, "a test file")
    name = check.text(entries.get("agreement"), "agreement", document)
    if name not in agreements:
        if name:
            check.unknown(entries["agreement"].line, "agreement", name, agreements)
        return None
    people = _people(check, _items(entries.get("people")))
    rows: dict[str, Row] = {}
    for dataset, line, item in entries["rows"].named() if "rows" in entries else ():
        if dataset not in check.datasets:
            check.unknown(line, "dataset", dataset, check.datasets)
        else:
            rows[dataset] = _row(check, item, check.datasets[dataset], None)
    listed = _items(entries.get("cases"))
    if not listed:
        check.wrong(document.line, "no cases", "list events and what comes of them under 'cases:'")
    reader = _Cases(check, agreements[name], rows)
    cases = [reader.read(item) for item in listed]
    return Examples(path, agreements[name], people, tuple(c for c in cases if c is not None))


def _people(check: Checker, items: tuple[Item, ...]) -> tuple[Row, ...]:
    """The register's records. Each has a PIN of its own."""
    pin = check.register.people[0].pin
    found: dict[str, Row] = {}
    for item in items:
        person = _row(check, item, check.register, None)
        if not person[pin]:
            check.wrong(item.line, f"a person without {pin!r}", f"say '{pin}: …', invented, in quotes")
        elif person[pin] in found:
            check.wrong(item.line, f"a second person with this {pin!r}", "the register has one record of each")
        found[person[pin]] = person
    return tuple(found.values())


def _items(item: Item | None) -> tuple[Item, ...]:
    return () if item is None else item.items or ()


def _row(check: Checker, item: Item | None, dataset: Dataset, under: Row | None) -> Row:
    """The columns that are said, over `under` or, without it, over neutral values."""
    made = dict(under) if under is not None else {name: values.neutral(t) for name, t in dataset.fields.items()}
    if item is None:
        return made
    if item.entries is None:
        if item.text != "":
            check.wrong(item.line, f"a row must be a mapping, found {item.kind()}", "write 'column: value'")
        return made
    for column, line, value in item.named():
        if column not in dataset.fields:
            check.unknown(line, f"column of {dataset.name}", column, dataset.fields)
            continue
        made[column] = _value(check, column, value, dataset.fields[column])
    return made


def _value(check: Checker, name: str, item: Item, avro_type: Any) -> Any:
    if item.text is None:
        check.wrong(item.line, f"{name!r} must be one value, found {item.kind()}", f"write '{name}: …'")
        return None
    try:
        return values.parse(item.text, avro_type)
    except ValueError as error:
        check.wrong(item.line, f"{name!r}: {str(error).partition(': ')[0]}", str(error).partition(": ")[2] or "leave it out")
        return None


class _Cases:
    """Reads the cases of one file."""

    def __init__(self, check: Checker, agreement: Agreement, rows: Mapping[str, Row]) -> None:
        self._check, self._agreement, self._rows = check, agreement, rows
        self._grants: dict[str, Grant] = {g.dataset: g for g in agreement.grants}
        self._secret = identity.agreement_secret(AGREEMENT_SECRET, agreement.id)

    def read(self, item: Item) -> Case | None:
        check = self._check
        before = len(check.problems)
        entries = check.keys(item, _CASE_KEYS, "a case")
        name = check.text(entries.get("case"), "case", item)
        dataset = self._one_of(entries.get("dataset"), "dataset", item, self._grants)
        op = self._one_of(entries.get("op"), "op", item, CHANGE_OPS)
        if not dataset or not op:
            return None
        images = self._images(entries, op, dataset, item)
        expected = self._expected(entries, dataset, item)
        if len(check.problems) > before or expected is None:
            return None
        return Case(name, item.line, dataset, op, *images, expected)

    def _one_of(self, item: Item | None, what: str, parent: Item, known: Any) -> str:
        text = self._check.text(item, what, parent)
        if item is not None and text and text not in known:
            self._check.unknown(item.line, what if what != "dataset" else f"dataset of {self._agreement.id}", text, known)
            return ""
        return text

    def _images(self, entries: Mapping[str, Item], op: str, name: str, item: Item) -> tuple[Row | None, Row | None]:
        """What is said of `before` lies over the dataset's row, what is said of `after` of an update over `before`."""
        wanted = {"u": ("before", "after"), "d": ("before",)}.get(op, ("after",))
        for side in ("before", "after"):
            if side in entries and side not in wanted:
                self._check.wrong(entries[side].line, f"an event {op!r} has no {side!r}", f"it has: {', '.join(wanted)}")
        if op == "u" and "after" not in entries:
            self._check.wrong(item.line, "an update without 'after'", "say under 'after:' what has changed")
        dataset = self._check.datasets[name]
        base = self._rows.get(name)
        before = _row(self._check, entries.get("before"), dataset, base) if "before" in wanted else None
        after = _row(self._check, entries.get("after"), dataset, before or base) if "after" in wanted else None
        return before, after

    def _expected(self, entries: Mapping[str, Item], dataset: str, item: Item) -> Gets | str | None:
        if ("gets" in entries) == ("withheld" in entries):
            self._check.wrong(item.line, "either 'gets' or 'withheld' must say what comes of it", "write one of the two")
            return None
        if "withheld" in entries:
            return self._one_of(entries["withheld"], "withheld", item, REASONS)
        told = self._check.keys(entries["gets"], _GETS_KEYS, "'gets'")
        op = self._one_of(told.get("op"), "op", entries["gets"], DELIVERY_OPS)
        verdict = self._one_of(told["verdict"], "verdict", item, VERDICTS) if "verdict" in told else None
        data = self._data(told["data"], dataset) if "data" in told else None
        if op and (op in "cru") != (data is not None):
            remedy = "say under 'data:' what it gets, all of it" if op in "cru" else "leave 'data' out"
            self._check.wrong(entries["gets"].line, f"a delivery {op!r} {'has' if op in 'cru' else 'has no'} values", remedy)
        return Gets(op, verdict, data)

    def _data(self, item: Item, dataset: str) -> Row:
        """All fields of the delivery; one that is not named is a problem, for it would go unnoticed."""
        schema = delivery_schema(self._check.datasets, self._check.register, self._agreement, dataset)
        data = next(f for f in schema["fields"] if f["name"] == "data")["type"][1]
        types = {f["name"]: f["type"] for f in data["fields"]}
        if item.entries is None:
            self._check.wrong(item.line, f"'data' must be a mapping, found {item.kind()}", f"write: {', '.join(types)}")
            return {}
        made: Row = {}
        masks = {f.name.replace(".", "_"): f.mask for f in self._grants[dataset].fields}
        for name, line, value in item.named():
            if name not in types:
                self._check.unknown(line, f"field that {self._agreement.id} gets of {dataset}", name, types)
            elif masks[name] == Mask.PSEUDONYM and value.entries is not None:
                made[name] = self._pseudonym(name, value)
            else:
                made[name] = _value(self._check, name, value, types[name])
        if lacking := [name for name in types if name not in made]:
            self._check.wrong(item.line, f"'data' lacks {', '.join(lacking)}", "say what is in every field, null if nothing")
        return made

    def _pseudonym(self, name: str, item: Item) -> str:
        """`{pseudonym: text}`: that of the text, whatever hexadecimal digits it has."""
        of = dict(item.entries or ()).get(_PSEUDONYM)
        if of is None or of.text is None or len(item.entries or ()) != 1:
            self._check.wrong(item.line, f"{name!r} is a pseudonym", f"write '{name}: {{{_PSEUDONYM}: …}}' with what is hidden")
            return ""
        return identity.pseudonym(self._secret, of.text.encode()).hex()
