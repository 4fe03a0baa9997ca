"""Whether a table still fits its schema, told whole: every misfit and every column that the schema does not name.

Capture itself stops at the first table that does not fit (`source.check_tables`); this is for people, who want to know all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bus.avro.dataset import Dataset, SchemaError
from connectors.capture import columns, source
from connectors.capture.source import SCHEMA, Db


@dataclass(frozen=True, slots=True)
class Finding:
    """`stops`: capture refuses the table until it is mended; otherwise it is only worth knowing."""

    field: str
    reason: str
    remedy: str
    stops: bool = True


def look(db: Db, dataset: Dataset) -> Iterator[Finding]:
    """`db`: as `source.connect` opens it, by a role that may see the table."""
    at = f"{SCHEMA}.{dataset.table}"
    try:
        binding = columns.bind(dataset)
    except SchemaError as error:
        yield Finding("", str(error), "change the schema file")
        return
    row = source.read_table(db, dataset.table)
    if row is None:
        yield Finding("", f"the database has no table {at}", "create the table, or remove the schema file")
        return
    if set(row.primary_key or ()) != set(dataset.primary_key):
        has, wants = ", ".join(row.primary_key or ("none",)), ", ".join(dataset.primary_key)
        yield Finding("", f"the primary key of {at} is ({has}), the schema says ({wants})", "change either")
    found = source.read_columns(db, row.oid)
    for field in binding.fields:
        if why := columns.misfit(field, found.get(field.name)):
            yield Finding(
                field.name, f"{at}: {why}", "change the table back, or `bus schema evolve` says how to change the schema"
            )
    for name, column in found.items():
        if name not in dataset.fields:
            yield Finding(
                name,
                f"{at} has a column {name} ({column.type_name}) that the schema does not name: it flows nowhere",
                "nothing to do; to share it, add it to the schema with doc and tag, then to an agreement",
                stops=False,
            )
