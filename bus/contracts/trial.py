"""The proof of a verdict: values of the writer, encoded, are decoded with the reader."""

from __future__ import annotations

import io
from typing import Any

import fastavro

from bus.contracts.reasons import Reason
from bus.contracts.samples import samples

UNREADABLE = "UNREADABLE"


def trial(reader: Any, writer: Any) -> tuple[Reason, ...]:
    """Schemas in plain form. What goes wrong with the first sample that cannot be read; nothing when all can."""
    writes, reads = fastavro.parse_schema(writer), fastavro.parse_schema(reader)
    for value in samples(writer):
        data = io.BytesIO()
        fastavro.schemaless_writer(data, writes, value)
        if reason := unread(data.getvalue(), reads, writes):
            return (reason,)
    return ()


def unread(data: bytes, reader: Any, writer: Any) -> Reason | None:
    """Why `data`, Avro without a frame, cannot be read; schemas as fastavro parsed them. The message quotes no value."""
    stream = io.BytesIO(data)
    try:
        fastavro.schemaless_reader(stream, writer, reader)
    except Exception as error:  # fastavro raises whatever a value leads it to
        return Reason(UNREADABLE, f"bytes of the writer could not be decoded ({type(error).__name__})", "/")
    if stream.tell() != len(data):
        return Reason(UNREADABLE, f"{len(data) - stream.tell()} bytes of the writer were left over", "/")
    return None
