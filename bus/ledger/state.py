"""Is the state that a change topic tells the state of the table? Compared row by row through 16-byte digests."""

from __future__ import annotations

import datetime
import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from bus.avro.dataset import Dataset

_FETCH_ROWS = 5_000


def digest(values: Any) -> bytes:
    """16 bytes for a tuple of column values; equal values in Avro's and in PostgreSQL's reading give equal digests."""
    return hashlib.blake2b(repr([_plain(v) for v in values]).encode(), digest_size=16).digest()


def _plain(value: Any) -> Any:
    """One spelling for what the two readers may spell differently. bool before int: it is one."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat() if value.tzinfo else value.isoformat()
    if isinstance(value, datetime.date | UUID):
        return str(value)
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, float):
        return struct.pack(">f", value) if abs(value) < 3e38 else value
    return bytes(value) if isinstance(value, memoryview) else value


@dataclass(slots=True)
class Fold:
    """The table as the change events tell it. Feed it events in any order of lanes; the newest by position counts."""

    dataset: Dataset
    rows: dict[bytes, tuple[tuple[int, int, int], bytes | None]] = field(default_factory=dict)

    def add(self, event: Mapping[str, Any]) -> None:
        source = event["source"]
        place = (source["lsn"], 0 if source["snapshot"] else 1, source["ordinal"])
        before, after = event["before"], event["after"]
        old = self._key(before) if before else None
        new = self._key(after) if after else None
        if old is not None and old != new:
            self._put(old, place, None)
        if new is not None:
            self._put(new, place, digest(after.get(c) for c in self.dataset.fields))  # an older event lacks newer columns

    def _key(self, row: Mapping[str, Any]) -> bytes:
        return digest(row[c] for c in self.dataset.primary_key)

    def _put(self, key: bytes, place: tuple[int, int, int], content: bytes | None) -> None:
        known = self.rows.get(key)
        if known is None or place >= known[0]:
            self.rows[key] = (place, content)

    def compare(self, dsn: str) -> Difference:
        """Against the table as it is now; run it when nothing writes."""
        told = {key: content for key, (_, content) in self.rows.items() if content is not None}
        absent = differing = count = 0
        places = [list(self.dataset.fields).index(c) for c in self.dataset.primary_key]
        for row in _table(dsn, self.dataset):
            count += 1
            content = told.pop(digest(row[i] for i in places), None)
            absent += content is None
            differing += content is not None and content != digest(row)
        return Difference(count, absent, differing, len(told))


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows in the table, and of them how many the topic lacks or tells differently; `phantom` rows are only in the topic."""

    table_rows: int
    absent: int
    differing: int
    phantom: int

    @property
    def ok(self) -> bool:
        return not (self.absent or self.differing or self.phantom)


def _table(dsn: str, dataset: Dataset) -> Iterator[tuple[Any, ...]]:
    """Every row, columns in the schema's order; what Avro holds as plain text is read as text."""
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(name)) if _is_text(kind) else sql.Identifier(name)
        for name, kind in dataset.fields.items()
    )
    query = sql.SQL("SELECT {} FROM public.{}").format(columns, sql.Identifier(dataset.table))
    with psycopg.connect(dsn) as connection, connection.cursor(name="ledger") as cursor:
        cursor.itersize = _FETCH_ROWS
        cursor.execute(query)
        yield from cursor


def _is_text(kind: Any) -> bool:
    if isinstance(kind, list):
        return any(_is_text(k) for k in kind)
    return kind == "string" or (isinstance(kind, dict) and kind.get("type") == "string")
