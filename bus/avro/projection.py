"""A grant compiled against schemas: the delivery's schema, and its `data` as an expression over slices of the change event.

Granted columns that stand side by side in the row and are not masked are one slice. What is not granted has no expression:
it is not read. In generated code `b` is the change event, `p` the register's record as the replica keeps it, or None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bus.avro import derive
from bus.avro.dataset import Dataset, Schema
from bus.avro.mask import Masked, MaskError, masked
from bus.avro.scalar import FILTERABLE, encodings, scalar
from bus.avro.types import split_null
from bus.core.agreement import Grant, Mask

REGISTER = "register."
Spans = Mapping[str, tuple[str, str]]
"""Column -> expressions for where it begins and ends."""


class GrantError(ValueError):
    """A grant that does not fit its dataset; the message names the field and the remedy."""


@dataclass(frozen=True, slots=True)
class Part:
    """One granted field: `column` of the row, or of the register's record."""

    name: str
    """Field name in the delivery: a dot becomes an underscore."""
    column: str
    of_register: bool
    nullable: bool
    masked: Masked


@dataclass(frozen=True, slots=True)
class Projection:
    """What one agreement opens of one dataset, ready for code to be generated from."""

    schema: Schema
    parts: tuple[Part, ...]
    order: tuple[str, ...]
    """The row's columns, in order."""
    conditions: tuple[tuple[str, frozenset[bytes]], ...]
    """Row filter: column -> the encoded values that pass."""

    def columns(self) -> set[str]:
        """Columns of the row that are read."""
        return {p.column for p in self.parts if not p.of_register} | {column for column, _ in self.conditions}

    def register_columns(self) -> set[str]:
        return {p.column for p in self.parts if p.of_register}

    def data(self, row: Spans, register: Spans, constants: dict[str, Any]) -> list[str]:
        """Expressions of bytes whose concatenation is the projected row. Functions they call are added to `constants`."""
        made: list[str] = []
        for part, last in self.runs():
            if part.of_register:
                made.append(_of_register(part, register[part.column], constants))
            elif part.masked.apply is None:
                made.append(f"b[{row[part.column][0]}:{row[last.column][1]}]")
            else:
                start, end = row[part.column]
                made.append(_apply(part, f"b[{start}:{end}]", constants))
        return made

    def runs(self) -> Iterator[tuple[Part, Part]]:
        """The parts in order, those that can share a slice as the first and the last of them."""
        i = 0
        while i < len(self.parts):
            last = self._run_end(i)
            yield self.parts[i], self.parts[last]
            i = last + 1

    def _run_end(self, first: int) -> int:
        """The last part that can share a slice with the first."""
        last = first
        while last + 1 < len(self.parts) and self._side_by_side(self.parts[last], self.parts[last + 1]):
            last += 1
        return last

    def _side_by_side(self, left: Part, right: Part) -> bool:
        if left.of_register or right.of_register or left.masked.apply or right.masked.apply:
            return False
        return self.order.index(left.column) + 1 == self.order.index(right.column)

    def passes(self, row: Spans, constants: dict[str, Any]) -> str:
        """The row filter as an expression, '' where there is none."""
        tests = []
        for column, allowed in self.conditions:
            start, end = row[column]
            if len(allowed) == 1:
                tests.append(f"b[{start}:{end}]=={next(iter(allowed))!r}")
            else:
                tests.append(f"b[{start}:{end}] in {_constant(constants, 'IN', allowed)}")
        return " and ".join(tests)


def compile_grant(dataset: Dataset, register: Dataset, agreement: str, grant: Grant, secret: bytes) -> Projection:
    """`secret`: the agreement's, 32 bytes. Raises GrantError."""
    parts = tuple(_part(dataset, register, f.name, f.mask, secret) for f in grant.fields)
    names = [p.name for p in parts]
    if not names:
        raise GrantError("no fields: name at least one")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise GrantError(f"field {twice[0]!r} would be delivered twice: keep one")
    docs = {f["name"]: f.get("doc", "") for f in dataset.row["fields"]}
    listed = [(p.name, _delivered(p), docs.get(p.column, "") if not p.of_register else "From the register") for p in parts]
    conditions = tuple((column, _allowed(dataset, column, texts)) for column, texts in grant.where)
    return Projection(derive.delivery(dataset, agreement, listed), parts, tuple(dataset.fields), conditions)


def _part(dataset: Dataset, register: Dataset, name: str, mask: Mask, secret: bytes) -> Part:
    of_register = name.startswith(REGISTER)
    if of_register and (dataset.register or not dataset.people):
        raise GrantError(f"{name!r}: nobody of {dataset.name} is looked up in the register; leave the field out")
    owner, column = (register, name[len(REGISTER) :]) if of_register else (dataset, name)
    if column not in owner.fields:
        raise GrantError(f"{name!r} is not a column of {owner.name}: it has {', '.join(owner.fields)}")
    avro_type = derive.plain(owner.fields[column])
    if not _self_contained(avro_type):
        raise GrantError(f"{name!r} has a named or nested type, which cannot be granted: give the column a primitive type")
    try:
        made = masked(avro_type, mask, secret)
    except MaskError as error:
        raise GrantError(f"{name!r}: {error}; grant it plain, or not at all") from None
    return Part(name.replace(".", "_"), column, of_register, split_null(made.type)[1], made)


def _self_contained(avro_type: Any) -> bool:
    """Whether the type can stand in another schema as it is: primitives, with or without null and logical type."""
    inner, _ = split_null(avro_type)
    return (inner["type"] if isinstance(inner, dict) else inner) in _GRANTABLE


_GRANTABLE = ("boolean", "int", "long", "float", "double", "bytes", "string")


def _delivered(part: Part) -> Any:
    return ["null", part.masked.type] if part.of_register and not part.nullable else part.masked.type


def _allowed(dataset: Dataset, column: str, texts: tuple[str, ...]) -> frozenset[bytes]:
    avro_type = dataset.fields.get(column)
    if avro_type is None:
        raise GrantError(f"the row filter names {column!r}, which is not a column of {dataset.name}")
    if scalar(avro_type) not in FILTERABLE:
        raise GrantError(f"the row filter cannot compare {column!r}: only text, whole numbers and booleans")
    try:
        return encodings(avro_type, texts)
    except (ValueError, OverflowError) as error:
        raise GrantError(f"the row filter on {column!r} holds a value that the column can never have: {error}") from None


def _of_register(part: Part, span: tuple[str, str], constants: dict[str, Any]) -> str:
    """Null when the register lacks the person."""
    value = f"p[{span[0]}:{span[1]}]"
    value = _apply(part, value, constants) if part.masked.apply else value
    present = value if part.nullable else rf'b"\2"+{value}'
    return rf'(b"\0" if p is None else {present})'


def _apply(part: Part, value: str, constants: dict[str, Any]) -> str:
    if part.masked.memo is not None:
        return f"{_constant(constants, 'MEMO', part.masked.memo)}[{value}]"
    return f"{_constant(constants, 'MASK', part.masked.apply)}({value})"


def _constant(constants: dict[str, Any], prefix: str, value: Any) -> str:
    """A name for a value that the code uses; the same value keeps its name."""
    for name, known in constants.items():
        if known is value and name.startswith(prefix):
            return name
    name = f"{prefix}{len(constants)}"
    constants[name] = value
    return name
