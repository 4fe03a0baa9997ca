"""What a table's columns must be for its schema: PostgreSQL types to Avro types, as ARCHITECTURE.md lists them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from bus.avro.dataset import Dataset, Schema, SchemaError

_BY_TYPE: dict[int, tuple[str, Any]] = {
    16: ("boolean", "boolean"),
    17: ("bytea", "bytes"),
    20: ("integer", "long"),
    21: ("integer", "int"),
    23: ("integer", "int"),
    25: ("text", "string"),
    114: ("text", "string"),
    700: ("real", "float"),
    701: ("double", "double"),
    1042: ("text", "string"),
    1043: ("text", "string"),
    1082: ("date", ("int", "date")),
    1114: ("timestamp", ("long", "local-timestamp-micros")),
    1184: ("timestamptz", ("long", "timestamp-micros")),
    2950: ("text", ("string", "uuid")),
    3802: ("text", "string"),
}
"""Type oid (PostgreSQL, pg_type.dat: constant since 7.x) -> (kind of conversion, Avro type)."""
_NUMERIC = 1700
_BLANK_PADDED = 1042
ENUM = -1
"""Stands for the oid of any enum type: those differ from database to database."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a row schema. `avro` is a plain type name, (type, logical type) or ('bytes', 'decimal', p, s)."""

    name: str
    avro: Any
    nullable: bool
    aliases: tuple[str, ...] = ()
    """What it was called before, as far as no other field is called so now."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A dataset's fields in schema order, with what capture needs to know about them."""

    dataset: Dataset
    fields: tuple[Field, ...]
    kinds: tuple[str, ...]
    key: tuple[int, ...]
    """Places of the primary key's columns, in schema order."""
    pin: int | None
    """Place of the subject's PIN."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the database has it now. `type_oid` is the base type's for a domain, ENUM for an enum type."""

    name: str
    type_oid: int
    typmod: int
    type_name: str
    nullable: bool
    generated: bool


def bind(dataset: Dataset) -> Binding:
    """Raises SchemaError for a field type that no column can have."""
    names = [f["name"] for f in dataset.row["fields"]]
    fields = tuple(_field(dataset, f, names) for f in dataset.row["fields"])
    subject = dataset.people[0].pin if dataset.people else None
    binding = Binding(
        dataset,
        fields,
        tuple(_kind(dataset, f) for f in fields),
        tuple(i for i, name in enumerate(names) if name in dataset.primary_key),
        names.index(subject) if subject else None,
    )
    if binding.pin is not None and fields[binding.pin].avro != "string":
        raise SchemaError(f"{dataset.name}: the PIN column {subject!r} must be a string")
    for place in binding.key:
        if binding.kinds[place] not in ("integer", "text"):
            raise SchemaError(f"{dataset.name}: {names[place]!r} cannot be in a primary key: integers, text, uuid, enums can")
        if fields[place].nullable:
            raise SchemaError(f"{dataset.name}: {names[place]!r} is in the primary key and must not be nullable")
    return binding


def _field(dataset: Dataset, schema: Schema, names: Collection[str]) -> Field:
    avro = schema["type"]
    nullable = isinstance(avro, list)
    if nullable:
        if len(avro) != 2 or avro[0] != "null":
            raise SchemaError(f"{dataset.name}: {schema['name']!r} has a union that is not ['null', T]")
        avro = avro[1]
    aliases = tuple(name for name in schema.get("aliases", ()) if name not in names)
    return Field(schema["name"], _shape(avro), nullable, aliases)


def _shape(avro: Any) -> Any:
    if not isinstance(avro, dict):
        return avro
    if avro.get("logicalType") == "decimal":
        return ("bytes", "decimal", int(avro["precision"]), int(avro.get("scale", 0)))
    return (avro["type"], avro["logicalType"]) if "logicalType" in avro else avro["type"]


def _kind(dataset: Dataset, field: Field) -> str:
    if isinstance(field.avro, tuple) and field.avro[1] == "decimal":
        return "decimal"
    for kind, avro in _BY_TYPE.values():
        if avro == field.avro:
            return kind
    raise SchemaError(f"{dataset.name}: no PostgreSQL type becomes the Avro type of {field.name!r}")


def avro_of(type_oid: int, typmod: int) -> Any:
    """The Avro type of a column, in the shape of Field.avro; None where there is none."""
    if type_oid == ENUM:
        return "string"
    if type_oid == _NUMERIC:
        return _decimal(typmod)
    found = _BY_TYPE.get(type_oid)
    return found[1] if found else None


def _decimal(typmod: int) -> Any:
    """numeric without precision has no bound, and a negative scale or one beyond the precision has no Avro type."""
    if typmod < 0:
        return None
    precision, scale = (typmod - 4) >> 16 & 0xFFFF, (typmod - 4) & 0x7FF
    return ("bytes", "decimal", precision, scale) if scale <= precision else None


def blank_padded(type_oid: int) -> bool:
    return type_oid == _BLANK_PADDED


def misfit(field: Field, column: Column | None) -> str | None:
    """What is wrong with `column` as the source of `field`, or None. The text names types, never values."""
    if column is None:
        return f"column {field.name} is missing"
    if column.generated:
        return f"column {field.name} is generated, and generated columns are not replicated"
    if avro_of(column.type_oid, column.typmod) != field.avro:
        return f"column {field.name} is {column.type_name}, which does not become the schema's {_said(field.avro)}"
    if column.nullable != field.nullable:
        return f"column {field.name} is {'nullable' if column.nullable else 'NOT NULL'}, the schema says otherwise"
    return None


def shows(field: Field, column: Column | None) -> bool:
    """Whether the log shows what `misfit` says: it names columns and types, and not whether one may be null."""
    return column is None or avro_of(column.type_oid, column.typmod) != field.avro


_WIDER = {("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"), ("float", "double")}


def reads(now: Binding, earlier: Binding) -> bool:
    """Whether rows under an earlier schema mean the same under the present one (Avro 1.12, schema resolution): nobody could use
    others."""
    had = {f.name: f for f in earlier.fields}
    return all(_reads(field, had.get(name_before(field, had))) for field in now.fields)


def name_before(field: Field, had: Collection[str]) -> str:
    """What the field is called among these names: as today, or where it is not there as its aliases say."""
    return next((name for name in (field.name, *field.aliases) if name in had), field.name)


def _reads(field: Field, had: Field | None) -> bool:
    if had is None or (had.nullable and not field.nullable):
        return had is None and field.nullable
    return had.avro == field.avro or (had.avro, field.avro) in _WIDER


def _said(avro: Any) -> str:
    if not isinstance(avro, tuple):
        return str(avro)
    return f"decimal({avro[2]},{avro[3]})" if avro[1] == "decimal" else f"{avro[0]}/{avro[1]}"
