"""Reading Avro records as any subscriber can, without the code that wrote them."""

from __future__ import annotations

import io
from typing import Any

import fastavro

from bus.avro import frame


def bare(schema: Any) -> Any:
    """Without logical types: days and microseconds stay whole numbers."""
    if isinstance(schema, list):
        return [bare(s) for s in schema]
    return {k: bare(v) for k, v in schema.items() if k != "logicalType"} if isinstance(schema, dict) else schema


def read(parsed: Any, value: bytes) -> Any:
    """A framed record, read with a schema that fastavro has parsed."""
    body = io.BytesIO(value)
    body.seek(frame.HEADER_BYTES)
    return fastavro.schemaless_reader(body, parsed)
