"""What the stream says of a table, made ready to read its rows: or why its schema cannot read them."""

from __future__ import annotations

from dataclasses import replace

import psycopg

from connectors.capture import columns, compiled, pgoutput, source
from connectors.capture.columns import Binding, Column
from connectors.capture.errors import Interrupted, Misfit
from connectors.capture.events import Target
from connectors.capture.pgoutput import Relation
from connectors.capture.segments import Segments
from connectors.capture.session import Session, Shape

RowImage = tuple[bytes, bytes, bytes]
"""(row, PIN, row key), as the converters give them."""


class Captured:
    """A relation that is captured, as the stream last described it."""

    __slots__ = ("convert", "convert_pair", "names", "segments", "target")

    def __init__(self, target: Target, binding: Binding, names: list[str], segments: Segments | None) -> None:
        self.target = target
        self.convert = compiled.from_tuple(binding, names)
        self.convert_pair = compiled.from_pair(binding, names)
        self.names = names
        self.segments = segments


def described(s: Session, table: str, relation: Relation) -> tuple[Captured, str]:
    """How its rows are read, and why they must not be published, '' if they may: no schema of today reads them, though one that
    was registered earlier does. Raises Misfit where none does."""
    if not relation.full_identity:
        raise Misfit(identity(table))
    resolved = {c.name: _resolved(s, c) for c in relation.columns}
    binding = s.bindings[table]
    wrong = [why for f in binding.fields if (why := _misfit(s, f, resolved, binding))]
    if not wrong:
        if extra := [c.name for c in relation.columns if c.name not in binding.dataset.fields]:
            s.log.warning("columns_ignored", table=table, columns=extra)
        return _captured(s, relation, Shape(binding, s.targets[table]), resolved), ""
    reason = (
        f"{source.SCHEMA}.{table} was altered and does not fit schema {binding.dataset.name}: "
        f"{'; '.join(wrong)}. Undo the change, or change the schema file"
    )
    for shape in s.earlier[table]:
        if not any(columns.misfit(f, _as_if(f, resolved.get(f.name))) for f in shape.binding.fields):
            return _captured(s, relation, shape, resolved), "" if shape.usable else reason
    raise Misfit(reason)


def _captured(s: Session, relation: Relation, shape: Shape, resolved: dict[str, Column]) -> Captured:
    found = s.progress.tables[shape.target.dataset.table]
    segments = Segments(shape.binding, {name: c.type_oid for name, c in resolved.items()}, found) if s.progress.floor() else None
    return Captured(shape.target, shape.binding, [c.name for c in relation.columns], segments)


def _as_if(field: columns.Field, column: Column | None) -> Column | None:
    """The log does not say whether a column may be null."""
    return column and replace(column, nullable=field.nullable)


def _resolved(s: Session, column: pgoutput.RelationColumn) -> Column:
    try:
        base = source.base_type(s.db, column.type_oid, column.typmod)
    except psycopg.Error as error:
        raise Interrupted(f"a type could not be looked up ({type(error).__name__})") from None
    type_oid, typmod = base or (0, -1)
    return Column(column.name, type_oid, typmod, f"of type {column.type_oid}", False, False)


def _misfit(s: Session, field: columns.Field, resolved: dict[str, Column], binding: Binding) -> str | None:
    """A nullable column that the log does not have yet, but the table has now, was added later: null until then. One that was
    renamed was not."""
    found = resolved.get(field.name)
    if found is None and field.nullable and columns.name_before(field, resolved) == field.name:
        tables, misfits = source.check_tables(s.db, [binding])
        table = tables.get(binding.dataset.table)
        return columns.misfit(field, table.columns.get(field.name)) if table else str(misfits[binding.dataset.table])
    return columns.misfit(field, _as_if(field, found))


def identity(table: str) -> str:
    at = f"{source.SCHEMA}.{table}"
    return (
        f"{at} does not log whole rows any more, so its changes are incomplete: ALTER TABLE {at} REPLICA IDENTITY FULL, "
        "then forget this database's position (python -m connectors.capture.forget), and capture reads everything anew"
    )
