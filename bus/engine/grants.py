"""What one agreement opens of one dataset: read from its file and checked against the schemas, all problems at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bus.avro.dataset import Dataset
from bus.core.agreement import MOST_LAST, Grant, GrantedField, Mask, MaskKind
from bus.core.outcome import VERDICTS
from bus.engine.yaml_lines import Item, Problem

REGISTER_PREFIX = "register."
_GRANT_KEYS = ("dataset", "where", "verdicts", "share_verdict", "fields", "sensitive_basis")
_MASKS = ("plain", "year", "last4", "band10", "pseudonym")
"""As they are written; `last` and `band` with any number."""
_MASKABLE = {
    MaskKind.YEAR: ("date", "string"),
    MaskKind.LAST: ("string",),
    MaskKind.BAND: ("int", "long", "decimal", "date"),
    MaskKind.PSEUDONYM: ("string",),
}
_NUMBERED = re.compile(r"(last|band)[0-9]+")
_MOST_OF_PIN = 6
"""The digits before these tell province, century, sex and year of birth; these tell people of one such group apart."""
_FILTERABLE = ("string", "int", "long", "boolean")
_BITS = {"int": 31, "long": 63}


@dataclass(slots=True)
class Checker:
    """One file under examination: collects problems, knows what may be named."""

    file: str
    datasets: Mapping[str, Dataset]
    register: Dataset
    problems: list[Problem]

    def wrong(self, line: int, reason: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, reason, remedy))

    def unknown(self, line: int, what: str, name: str, known: Iterable[str]) -> None:
        """A name that does not exist, with the nearest one that does."""
        listed = sorted(known)
        near = difflib.get_close_matches(name, listed, 1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(listed) or 'none'}"
        self.wrong(line, f"unknown {what} {name!r}", remedy)

    def keys(self, item: Item, known: tuple[str, ...], what: str) -> dict[str, Item]:
        """The entries of a mapping; keys that nobody reads are problems, for they would grant or limit nothing."""
        if item.entries is None:
            self.wrong(item.line, f"{what} must be a mapping, found {item.kind()}", f"write it with: {', '.join(known)}")
        for name, line, _ in item.named():
            if name not in known:
                self.unknown(line, f"key in {what}", name, known)
        return {name: value for name, value in item.entries or () if name in known}

    def text(self, item: Item | None, name: str, parent: Item) -> str:
        """Non-empty text, or '' with a problem."""
        if item is None:
            self.wrong(parent.line, f"{name!r} is missing", f"add '{name}: …'")
            return ""
        if not (item.text or "").strip():
            self.wrong(
                item.line, f"{name!r} must be text, found {item.kind() if item.text is None else 'nothing'}", f"write '{name}: …'"
            )
            return ""
        return str(item.text).strip()

    def texts(self, item: Item, what: str) -> list[tuple[str, int]]:
        """One text or a list of texts, each with its line."""
        listed = (item,) if item.items is None else item.items
        for bad in (i for i in listed if i.text is None):
            self.wrong(bad.line, f"{what} must be text, found {bad.kind()}", "write one value or a list of values")
        if not listed:
            self.wrong(item.line, f"{what}: an empty list", "name at least one value, or leave the key out")
        return [(i.text, i.line) for i in listed if i.text is not None]


@dataclass(frozen=True, slots=True)
class ReadGrant:
    """A grant, and the first field that carries personal data, which makes a legal basis necessary."""

    grant: Grant
    personal: tuple[str, str, int] | None
    """(field, 'basic' or 'sensitive', line); the first sensitive one if there is any."""


def read_grant(check: Checker, item: Item) -> ReadGrant | None:
    """One entry of `datasets`; None when nothing could be made of it (the problems say why)."""
    entries = check.keys(item, _GRANT_KEYS, "a dataset's grant")
    name = check.text(entries.get("dataset"), "dataset", item)
    dataset = check.datasets.get(name)
    if dataset is None:
        if name:
            check.unknown(entries["dataset"].line, "dataset", name, check.datasets)
        return None
    fields, personal = _fields(check, entries.get("fields"), dataset, item)
    basis = _sensitive_basis(check, entries.get("sensitive_basis"), entries.get("fields"), dataset)
    verdicts = _verdicts(check, entries.get("verdicts"), dataset)
    share = _share(check, entries.get("share_verdict"), dataset)
    grant = Grant(name, fields, _where(check, entries.get("where"), dataset), verdicts, share, basis)
    return ReadGrant(grant, personal)


def _fields(
    check: Checker, item: Item | None, dataset: Dataset, parent: Item
) -> tuple[tuple[GrantedField, ...], tuple[str, str, int] | None]:
    if item is None or not item.items:
        line = parent.line if item is None else item.line
        check.wrong(line, "no fields", "list what is granted under 'fields:', one field a line, as '- name' or '- name: mask'")
        return (), None
    granted: dict[str, GrantedField] = {}
    personal: tuple[str, str, int] | None = None
    for entry in item.items:
        field = _field(check, entry, dataset)
        if field is None:
            continue
        if field.name in granted:
            check.wrong(entry.line, f"field {field.name!r} is listed twice", "keep one")
        granted[field.name] = field
        kind = _column(field.name, dataset, check.register)[1]
        if kind and (personal is None or (kind == "sensitive" and personal[1] != "sensitive")):
            personal = (field.name, kind, entry.line)
    return tuple(granted.values()), personal


def _sensitive_basis(check: Checker, item: Item | None, fields: Item | None, dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """(field, law) for each sensitive field that is granted, and for no other."""
    granted = {}
    for entry in (fields.items if fields else None) or ():
        name = entry.text or (entry.entries[0][0] if entry.entries else "")
        if _column(name, dataset, check.register)[1] == "sensitive":
            granted[name] = entry.line
    basis: dict[str, str] = {}
    for name, line, law in item.named() if item is not None else ():
        if name in granted:
            basis[name] = check.text(law, name, law)
        else:
            check.unknown(line, "sensitive field of this grant", name, granted)
    if item is not None and item.entries is None:
        check.wrong(
            item.line, f"'sensitive_basis' must be a mapping, found {item.kind()}", "write 'field: the law that opens it'"
        )
    for name in granted.keys() - basis.keys():
        check.wrong(
            granted[name],
            f"{name!r} is sensitive personal data without a legal basis of its own",
            f"add '{name}: the law that opens it' under 'sensitive_basis:'",
        )
    return tuple(sorted(basis.items()))


def _field(check: Checker, entry: Item, dataset: Dataset) -> GrantedField | None:
    if entry.text is not None:
        name, mask_name, line = entry.text, str(Mask.PLAIN), entry.line
    elif entry.entries is not None and len(entry.entries) == 1 and entry.entries[0][1].text is not None:
        name, mask_name, line = entry.entries[0][0], str(entry.entries[0][1].text), entry.line
    else:
        check.wrong(
            entry.line, f"a field must be '- name' or '- name: mask', found {entry.kind()}", f"masks are: {', '.join(_MASKS)}"
        )
        return None
    if name.startswith(REGISTER_PREFIX) and not _verified(dataset):
        check.wrong(line, f"{name!r}: nobody of {dataset.name} is looked up in the register", "leave the field out")
        return None
    avro_type, _ = _column(name, dataset, check.register)
    if avro_type is None:
        known = (
            [*dataset.fields, *(REGISTER_PREFIX + f for f in check.register.fields)]
            if _verified(dataset)
            else list(dataset.fields)
        )
        check.unknown(line, f"field of {dataset.name}", name, known)
        return None
    try:
        mask = Mask.of(mask_name)
    except ValueError:
        if _NUMBERED.fullmatch(mask_name):
            check.wrong(line, f"mask {mask_name!r} is out of bounds", f"last takes 1 to {MOST_LAST}, band any number from 1")
        else:
            check.unknown(line, "mask", mask_name, _MASKS)
        return None
    fitting = _MASKABLE.get(mask.kind)
    if fitting and (kind := _kind(avro_type)) not in fitting:
        check.wrong(
            line, f"mask {mask_name!r} cannot be applied to {name!r}, which is {kind}", f"it works on: {', '.join(fitting)}"
        )
        return None
    if mask.kind is MaskKind.LAST and mask.size > _MOST_OF_PIN and name in _pins(dataset, check.register):
        check.wrong(
            line, f"mask {mask_name!r} leaves so much of the PIN {name!r} that it says who it is",
            f"leave at most the last {_MOST_OF_PIN}, or use 'pseudonym'; 'plain' if the agency is to know the PIN",
        )  # fmt: skip
        return None
    return GrantedField(name, mask)


def _pins(dataset: Dataset, register: Dataset) -> set[str]:
    """Fields of a grant on the dataset that hold personal identification numbers."""
    of_register = {role.pin for role in register.people} | set(register.primary_key)
    own = of_register if dataset.register else set()
    return {role.pin for role in dataset.people} | own | {REGISTER_PREFIX + pin for pin in of_register}


def _verified(dataset: Dataset) -> bool:
    """Whether people in the rows are held against the register; the register itself is not."""
    return bool(dataset.people) and not dataset.register


def _column(name: str, dataset: Dataset, register: Dataset) -> tuple[Any, str]:
    """(Avro type or None, 'basic', 'sensitive' or '') of a column or a 'register.<column>'."""
    owner, column = (register, name[len(REGISTER_PREFIX) :]) if name.startswith(REGISTER_PREFIX) else (dataset, name)
    found = next((f for f in owner.row["fields"] if f["name"] == column), None)
    return (None, "") if found is None else (found["type"], str(found.get("pii", "")))


def _kind(avro_type: Any) -> str:
    """'date' and other logical types by their name, else the base type; of a nullable one what it is when present."""
    if isinstance(avro_type, list):
        avro_type = next(t for t in avro_type if t != "null")
    if isinstance(avro_type, dict):
        base = str(avro_type["type"])
        return base if base == "string" else str(avro_type.get("logicalType", base))
    return str(avro_type)


def _where(check: Checker, item: Item | None, dataset: Dataset) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if item is None:
        return ()
    if not item.entries:
        check.wrong(item.line, f"'where' must be a mapping, found {item.kind()}", "write 'column: value' or 'column: [value, …]'")
    conditions: list[tuple[str, tuple[str, ...]]] = []
    for column, line, value in item.named():
        if column not in dataset.fields:
            check.unknown(line, f"column of {dataset.name}", column, dataset.fields)
            continue
        kind = _kind(dataset.fields[column])
        if kind not in _FILTERABLE:
            check.wrong(line, f"a row filter cannot compare {column!r}, which is {kind}", f"it can: {', '.join(_FILTERABLE)}")
            continue
        texts = check.texts(value, f"the filter on {column!r}")
        for text, at in texts:
            if not _fits(text, kind):
                check.wrong(at, f"{text!r} can never equal {column!r}, which is {kind}", "write it as the column holds it")
        conditions.append((column, tuple(sorted({text for text, _ in texts}))))
    return tuple(sorted(conditions))


def _fits(text: str, kind: str) -> bool:
    if kind == "boolean":
        return text in ("true", "false")
    if kind == "string":
        return True
    digits = text.removeprefix("-")
    bits = _BITS[kind]
    return (
        len(text) <= 20
        and digits.isascii()
        and digits.isdigit()
        and str(int(text)) == text
        and -(1 << bits) <= int(text) < 1 << bits
    )


def _verdicts(check: Checker, item: Item | None, dataset: Dataset) -> tuple[str, ...]:
    if item is None:
        return ()
    if not _verified(dataset):
        check.wrong(item.line, f"'verdicts' on {dataset.name}, where nobody is verified", "leave 'verdicts' out")
        return ()
    named = set()
    for text, line in check.texts(item, "'verdicts'"):
        if text not in VERDICTS:
            check.unknown(line, "verdict", text, VERDICTS)
        named.add(text)
    return tuple(v for v in VERDICTS if v in named)


def _share(check: Checker, item: Item | None, dataset: Dataset) -> bool:
    if item is None:
        return False
    if item.text not in ("true", "false"):
        check.wrong(
            item.line, f"'share_verdict' must be true or false, found {item.text or item.kind()!r}", "write 'share_verdict: true'"
        )
    elif item.text == "true" and not _verified(dataset):
        check.wrong(item.line, f"'share_verdict' on {dataset.name}, where nobody is verified", "leave it out")
    return item.text == "true"
