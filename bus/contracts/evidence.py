"""Bytes on which a verdict is confirmed: recorded ones where a bus runs, generated ones otherwise."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

    def unreadable(self, reader: Any) -> str:
        """Why `reader` cannot read some of them; '' when it reads all. Never quotes a value."""
        reads = fastavro.parse_schema(parse(reader).plain)
        failed = total = 0
        reason = ""
        for schema, values in self.values:
            writes = fastavro.parse_schema(parse(schema).plain)
            total += len(values)
            for value in values:
                if found := unread(value, reads, writes):
                    failed += 1
                    reason = found.message
        return f"{failed} of {total} values ({self.words}) cannot be read: {reason}" if failed else ""


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
