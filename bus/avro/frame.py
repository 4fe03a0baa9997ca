"""Confluent's wire format: 00, the schema id in four bytes big-endian, then Avro binary. And the one error of bad bytes."""

from __future__ import annotations

import struct

from bus.core.outcome import DeadCode

MAGIC = 0
HEADER_BYTES = 5
MAX_ID = 2**31 - 1

_HEADER = struct.Struct(">BI")


class Malformed(ValueError):
    """A record that cannot be processed. Carries its dead-letter code and nothing else: its bytes may be personal data."""

    def __init__(self, code: DeadCode = DeadCode.MALFORMED) -> None:
        super().__init__(code.value)
        self.code = code


def header(schema_id: int) -> bytes:
    """The five bytes before every Avro value. Raises ValueError when the id is not a positive 31-bit number."""
    if not 0 < schema_id <= MAX_ID:
        raise ValueError(f"schema id {schema_id} is out of range")
    return _HEADER.pack(MAGIC, schema_id)


def schema_id(value: bytes | memoryview) -> int:
    """The id a framed value names. Raises Malformed (BAD_FRAME) when there is no frame."""
    if len(value) < HEADER_BYTES or value[0] != MAGIC:
        raise Malformed(DeadCode.BAD_FRAME)
    return int.from_bytes(value[1:HEADER_BYTES], "big")
