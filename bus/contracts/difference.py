"""What is different between two schemas of one dataset, as values and in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bus.avro.dataset import Schema


class What(Enum):
    """Kinds of changes. The last ones change nothing in the bytes."""

    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    TYPE = "type"
    MEANING = "meaning"
    """The same bytes stand for something else: another logical type, precision or scale."""
    NULLABLE = "nullable"
    REQUIRED = "required"
    PRIMARY_KEY = "primary key"
    PEOPLE = "people"
    COMPARE = "compare"
    PII = "pii"
    DEFAULT = "default"
    DOC = "doc"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Change:
    """`field` is '' where the row as a whole is meant; of a renamed field the new name, `before` the old one."""

    what: What
    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return _WORDS[self.what](self)


def differences(old: Schema, new: Schema) -> list[Change]:
    """From one row schema to another. A field is renamed where the new one has the old name among its aliases."""
    before, after = _fields(old), _fields(new)
    renamed = {
        name: alias
        for name, field in after.items()
        if name not in before
        for alias in field.get("aliases", ())
        if alias in before and alias not in after
    }
    found = [Change(What.ADDED, n, None, f) for n, f in after.items() if n not in before and n not in renamed]
    found += [Change(What.REMOVED, n, f, None) for n, f in before.items() if n not in after and n not in renamed.values()]
    for name, field in after.items():
        if name in renamed:
            found.append(Change(What.RENAMED, name, renamed[name], name))
        if earlier := before.get(renamed.get(name, name)):
            found += _of_field(name, earlier, field)
    found += _of_row(old, new)
    kept = [n for n in before if n in after]
    if kept != [n for n in after if n in before]:
        found.append(Change(What.ORDER, "", list(before), list(after)))
    return found


def split(avro_type: Any) -> tuple[str, tuple[Any, ...], bool]:
    """(base type, what it stands for: logical type, precision, scale; whether it may be null) of a column's type."""
    nullable = isinstance(avro_type, list)
    inner = next((t for t in avro_type if t != "null"), "null") if nullable else avro_type
    if not isinstance(inner, dict):
        return str(inner), (), nullable
    logical = tuple(inner.get(key) for key in ("logicalType", "precision", "scale"))
    return str(inner["type"]), logical if any(logical) else (), nullable


def type_words(avro_type: Any) -> str:
    """A column's type as a person says it."""
    base, logical, nullable = split(avro_type)
    words = _TYPE_WORDS.get(str(logical[0]) if logical else base, base)
    if logical and logical[0] == "decimal":
        words += f"({logical[1]},{logical[2] or 0})"
    return f"{words}, or nothing" if nullable else words


def _fields(row: Schema) -> dict[str, Schema]:
    return {f["name"]: f for f in row["fields"]}


def _of_field(name: str, old: Schema, new: Schema) -> Iterator[Change]:
    was, now = split(old["type"]), split(new["type"])
    if was[0] != now[0]:
        yield Change(What.TYPE, name, old["type"], new["type"])
    elif was[1] != now[1]:
        yield Change(What.MEANING, name, old["type"], new["type"])
    if was[2] != now[2]:
        yield Change(What.NULLABLE if now[2] else What.REQUIRED, name, old["type"], new["type"])
    for what, key in ((What.COMPARE, "compare"), (What.PII, "pii"), (What.DOC, "doc")):
        if old.get(key) != new.get(key):
            yield Change(what, name, old.get(key), new.get(key))
    if was[2] == now[2] and (old.get("default", ...), "default" in old) != (new.get("default", ...), "default" in new):
        yield Change(What.DEFAULT, name, old.get("default"), new.get("default"))


def _of_row(old: Schema, new: Schema) -> Iterator[Change]:
    for what, key in ((What.PRIMARY_KEY, "primary_key"), (What.PEOPLE, "people"), (What.DOC, "doc")):
        if old.get(key) != new.get(key):
            yield Change(what, "", old.get(key), new.get(key))


_TYPE_WORDS: dict[str, str] = {
    "string": "text",
    "int": "a whole number of 32 bits",
    "long": "a whole number of 64 bits",
    "float": "a number of single precision",
    "double": "a number of double precision",
    "boolean": "yes or no",
    "date": "a date",
    "timestamp-micros": "a moment (UTC, microseconds)",
    "timestamp-millis": "a moment (UTC, milliseconds)",
    "local-timestamp-micros": "a date and time without time zone",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}


def _added(change: Change) -> str:
    return f"{change.field}: new, {type_words(change.after['type'])}"


def _retyped(change: Change) -> str:
    return f"{change.field}: was {type_words(change.before)}, becomes {type_words(change.after)}"


_WORDS: dict[What, Callable[[Change], str]] = {
    What.ADDED: _added,
    What.REMOVED: lambda c: f"{c.field}: gone (it was {type_words(c.before['type'])})",
    What.RENAMED: lambda c: f"{c.field}: new name of {c.before}",
    What.TYPE: _retyped,
    What.MEANING: lambda c: f"{_retyped(c)}: the same bytes stand for something else",
    What.NULLABLE: lambda c: f"{c.field}: may be missing from now on",
    What.REQUIRED: lambda c: f"{c.field}: is always there from now on",
    What.PRIMARY_KEY: lambda c: f"the primary key was ({', '.join(c.before or ())}), becomes ({', '.join(c.after or ())})",
    What.PEOPLE: lambda _: "who stands in a row, or what is checked of them, is another",
    What.COMPARE: lambda c: f"{c.field}: compared as {c.after or 'nothing'}, was {c.before or 'nothing'}",
    What.PII: lambda c: f"{c.field}: personal data: {c.after or 'none'}, was {c.before or 'none'}",
    What.DEFAULT: lambda c: f"{c.field}: another default",
    What.DOC: lambda c: f"{c.field or 'the row'}: described in other words",
    What.ORDER: lambda _: "the fields stand in another order; readers go by names",
}
