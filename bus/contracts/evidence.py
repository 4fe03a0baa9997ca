"""Bytes on which a verdict is confirmed: recorded ones where a bus runs, generated ones otherwise."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import fastavro

from bus.contracts.parsing import parse
from bus.contracts.samples import samples
from bus.contracts.trial import unread


@dataclass(frozen=True, slots=True)
class Evidence:
    """`values`: (schema as parsed JSON, its values in Avro without frame). `words` say what they are."""

    words: str
    values: Sequence[tuple[Any, Sequence[bytes]]] = field(repr=False)

    def without(self, schemas: Sequence[Any]) -> Evidence:
        """But for the values of these schemas."""
        return replace(self, values=[(schema, values) for schema, values in self.values if schema not in schemas])

    def unreadable(self, reader: Any, through: Any = None) -> str:
        """Why `reader` cannot read some of them; '' when it reads all. Never quotes a value.

        With `through`, what is read is each value as that schema would have written it, but for those that it cannot take over.
        """
        reads = _parsed(reader)
        failed = total = 0
        reason = ""
        for schema, values in self.values:
            writes, other = _parsed(schema), _parsed(through) if through is not None else None
            for value in values:
                if unread(value, writes, writes):
                    continue  # a damaged record, which nobody can read whatever changes
                data = value if other is None else _rewritten(value, writes, other)
                if data is None:
                    continue
                total += 1
                if found := unread(data, reads, other or writes):
                    failed += 1
                    reason = found.message
        return f"{failed} of {total} values ({self.words}) cannot be read: {reason}" if failed else ""


def _parsed(schema: Any) -> Any:
    return fastavro.parse_schema(parse(schema).plain)


def _rewritten(value: bytes, writer: Any, other: Any) -> bytes | None:
    """A value as another schema writes it; None where that has no value for it."""
    if unread(value, other, writer):
        return None
    taken = fastavro.schemaless_reader(io.BytesIO(value), writer, other)
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, other, taken)
    return stream.getvalue()


def generated(versions: Mapping[int, Any]) -> Evidence:
    """Values made of registered schemas, by version."""
    made = [(schema, _encoded(parse(schema).plain)) for schema in versions.values()]
    return Evidence(f"{sum(len(v) for _, v in made)} generated", made)


def recorded(topic: str, values: Sequence[tuple[Any, Sequence[bytes]]]) -> Evidence:
    return Evidence(f"{sum(len(v) for _, v in values)} recorded in {topic}", values)


def _encoded(plain: Any) -> list[bytes]:
    parsed = fastavro.parse_schema(plain)
    found = []
    for value in samples(plain):
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, parsed, value)
        found.append(stream.getvalue())
    return found
