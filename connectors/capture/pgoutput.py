"""PostgreSQL's logical replication messages (pgoutput, protocol version 1), as the walsender sends them.

Every function takes the bytes of one CopyData message: `w`, three 64-bit numbers, and from HEADER on the pgoutput message.
Layouts: PostgreSQL documentation, "Logical Replication Message Formats". Row messages are read by compiled.py.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from connectors.capture.errors import ProtocolError

HEADER: Final = 25
XLOG_DATA: Final = ord("w")
KEEPALIVE: Final = ord("k")
BEGIN, COMMIT, RELATION, TRUNCATE, MESSAGE = (ord(c) for c in "BCRTM")
INSERT, UPDATE, DELETE = (ord(c) for c in "IUD")
OLD, NEW = ord("O"), ord("N")
TEXT, ABSENT, UNCHANGED = ord("t"), ord("n"), ord("u")
EPOCH_MS: Final = 946_684_800_000
"""2000-01-01, where PostgreSQL counts from, in Unix milliseconds."""

_BEGIN = struct.Struct(">QqI").unpack_from
_COMMIT = struct.Struct(">BQQq").unpack_from
_KEEPALIVE = struct.Struct(">QqB").unpack_from
_MESSAGE = struct.Struct(">BQ").unpack_from
_U32 = struct.Struct(">I").unpack_from
_COLUMN = struct.Struct(">Ii").unpack_from


class Begin(NamedTuple):
    lsn: int
    """Where the commit record starts: the transaction's place among all others."""
    ts_ms: int
    xid: int


class RelationColumn(NamedTuple):
    name: str
    type_oid: int
    typmod: int


class Relation(NamedTuple):
    oid: int
    schema: str
    table: str
    full_identity: bool
    columns: tuple[RelationColumn, ...]


def begin(b: bytes) -> Begin:
    lsn, micros, xid = _BEGIN(b, HEADER + 1)
    return Begin(lsn, EPOCH_MS + micros // 1000, xid)


def commit_end(b: bytes) -> int:
    """The LSN after the transaction's commit record."""
    end: int = _COMMIT(b, HEADER + 1)[2]
    return end


def keepalive(b: bytes) -> tuple[int, bool]:
    """(the server's WAL end, whether it wants an answer at once)."""
    end, _, reply = _KEEPALIVE(b, 1)
    return end, bool(reply)


def message_at(b: bytes) -> int:
    """The LSN of the change that a row message tells of; within a transaction they come in this order."""
    return int.from_bytes(b[1:9], "big")


def message_lsn(b: bytes) -> int:
    """The LSN of a logical message (pg_logical_emit_message)."""
    lsn: int = _MESSAGE(b, HEADER + 1)[1]
    return lsn


def oid(b: bytes) -> int:
    """The relation of a row message."""
    found: int = _U32(b, HEADER + 1)[0]
    return found


def truncated(b: bytes) -> tuple[int, ...]:
    """The relations a TRUNCATE emptied."""
    count = _U32(b, HEADER + 1)[0]
    return struct.unpack_from(f">{count}I", b, HEADER + 6)


def relation(b: bytes) -> Relation:
    number = oid(b)
    schema, i = _string(b, HEADER + 5)
    table, i = _string(b, i)
    identity, count, i = b[i], b[i + 1] << 8 | b[i + 2], i + 3
    columns = []
    for _ in range(count):
        name, i = _string(b, i + 1)
        columns.append(RelationColumn(name, *_COLUMN(b, i)))
        i += 8
    return Relation(number, schema or "pg_catalog", table, identity == ord("f"), tuple(columns))


def _string(b: bytes, i: int) -> tuple[str, int]:
    end = b.index(0, i)
    return b[i:end].decode(), end + 1


def columns_at(b: bytes, i: int) -> tuple[list[bytes | None], list[bool], int]:
    """The tuple at i, generically: (values, which are unchanged TOAST, where it ends)."""
    count, i = b[i] << 8 | b[i + 1], i + 2
    values: list[bytes | None] = []
    unchanged = []
    for _ in range(count):
        kind = b[i]
        unchanged.append(kind == UNCHANGED)
        i += 1
        if kind == TEXT:
            end = i + 4 + _U32(b, i)[0]
            values.append(b[i + 4 : end])
            i = end
        elif kind in (ABSENT, UNCHANGED):
            values.append(None)
        else:
            raise ProtocolError("unknown kind of column in a row message")
    return values, unchanged, i


def tuple_bytes(values: list[bytes | None]) -> bytes:
    """The inverse of columns_at."""
    parts = [len(values).to_bytes(2, "big")]
    parts.extend(b"n" if value is None else b"t" + len(value).to_bytes(4, "big") + value for value in values)
    return b"".join(parts)


def fill_unchanged(b: bytes, old_at: int, new_at: int) -> bytes:
    """The new tuple with its unchanged TOAST values taken from the old one, which REPLICA IDENTITY FULL sends whole."""
    old, missing, _ = columns_at(b, old_at)
    new, unchanged, _ = columns_at(b, new_at)
    if len(old) != len(new) or any(a and b for a, b in zip(missing, unchanged, strict=True)):
        raise ProtocolError("an unchanged value is in neither image of the row")
    return tuple_bytes([o if same else n for o, n, same in zip(old, new, unchanged, strict=True)])
