"""How far capture of one database has come: the record in `bus.positions`, written in the transaction of what it covers.

A table is read in key order, in one or more *segments*: the rows up to some key as of some point of the log. An interrupted
snapshot goes on under a new consistent point, so its tables have several. A streamed change belongs to its row's segment and
counts only if it committed at or after that segment's point; before it, the snapshot has it already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bus.core.position import format_lsn, parse_lsn
from connectors.capture.errors import Refusal

FORMAT: Final = 1
_NONCE_BYTES = 16
Nonce = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows after the previous segment up to and including `upper` (the key columns as text; None: all the rest)."""

    upper: tuple[str, ...] | None
    lsn: int
    """The consistent point they were read at."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """The last change event of the stream that Kafka has. Later transactions have higher LSNs."""

    lsn: int
    xid: int
    ordinal: int


@dataclass(frozen=True, slots=True)
class Progress:
    """`confirmed`: what the slot may have been told; None until anything was published. `rows`: snapshot rows so far."""

    system_id: int
    timeline: int
    streamed: Streamed | None = None
    confirmed: int | None = None
    rows: int = 0
    tables: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)

    def done(self, table: str) -> bool:
        segments = self.tables.get(table, ())
        return bool(segments) and segments[-1].upper is None

    def last_key(self, table: str) -> tuple[str, ...] | None:
        """Where the snapshot of a table stopped; None: at its beginning."""
        segments = self.tables.get(table, ())
        return segments[-1].upper if segments else None

    def read(self, table: str, upper: tuple[str, ...] | None, lsn: int, rows: int) -> Progress:
        """The same after `rows` more snapshot rows up to `upper` as of `lsn`."""
        segments = self.tables.get(table, ())
        kept = segments[:-1] if segments and segments[-1].lsn == lsn else segments
        return replace(self, rows=self.rows + rows, tables={**self.tables, table: (*kept, Segment(upper, lsn))})

    def floor(self) -> int:
        """From this LSN on every change counts, whatever its row."""
        return max((s.lsn for segments in self.tables.values() for s in segments), default=0)

    def settled(self) -> Progress:
        """Without segments that the stream has left behind: they cannot hold anything back any more."""
        if self.streamed is None or self.streamed.lsn < self.floor():
            return self
        return replace(self, tables={t: (Segment(None, max(s.lsn for s in found)),) for t, found in self.tables.items()})

    def only(self, tables: set[str]) -> Progress:
        """Without tables that are no longer captured: should one come back, it is read anew."""
        return replace(self, tables={t: s for t, s in self.tables.items() if t in tables})


def to_json(progress: Progress, secret: bytes, nonce: Nonce) -> bytes:
    """The record's value. Keys that a snapshot stopped at are sealed: a register's primary key is a PIN."""
    tables = {
        table: [{"upto": s.upper and _seal(s.upper, secret, nonce), "lsn": format_lsn(s.lsn)} for s in segments]
        for table, segments in progress.tables.items()
    }
    at = progress.streamed
    return json.dumps(
        {
            "format": FORMAT,
            "system_id": str(progress.system_id),
            "timeline": progress.timeline,
            "streamed": at and {"lsn": format_lsn(at.lsn), "xid": at.xid, "ordinal": at.ordinal},
            "confirmed": None if progress.confirmed is None else format_lsn(progress.confirmed),
            "rows": progress.rows,
            "tables": tables,
        },
        separators=(",", ":"),
    ).encode()


def from_json(value: bytes, secret: bytes) -> Progress:
    """Raises Refusal for a record of another format or another bus's secret."""
    try:
        found = json.loads(value)
        if found["format"] != FORMAT:
            raise ValueError
        at = found["streamed"]
        return Progress(
            int(found["system_id"]),
            int(found["timeline"]),
            at and Streamed(parse_lsn(at["lsn"]), int(at["xid"]), int(at["ordinal"])),
            None if found["confirmed"] is None else parse_lsn(found["confirmed"]),
            int(found["rows"]),
            {t: tuple(_segment(s, secret) for s in segments) for t, segments in found["tables"].items()},
        )
    except (KeyError, TypeError, ValueError):
        raise Refusal(
            "this database's record in bus.positions is unreadable: another version of capture, or other secrets, wrote it"
        ) from None


def _segment(found: dict[str, Any], secret: bytes) -> Segment:
    return Segment(None if found["upto"] is None else _unseal(found["upto"], secret), parse_lsn(found["lsn"]))


def _seal(key: tuple[str, ...], secret: bytes, nonce: Nonce) -> str:
    salt = nonce(_NONCE_BYTES)
    return (salt + _with_keystream(json.dumps(key).encode(), secret, salt)).hex()


def _unseal(sealed: str, secret: bytes) -> tuple[str, ...]:
    data = bytes.fromhex(sealed)
    opened = _with_keystream(data[_NONCE_BYTES:], secret, data[:_NONCE_BYTES])
    return tuple(str(part) for part in json.loads(opened))


def _with_keystream(data: bytes, secret: bytes, salt: bytes) -> bytes:
    """XOR with keyed BLAKE2b in counter mode (a stream cipher from a pseudo-random function; its own inverse)."""
    out = bytearray()
    for start in range(0, len(data), hashlib.blake2b.MAX_DIGEST_SIZE):
        counter = start.to_bytes(8, "big")
        stream = hashlib.blake2b(salt + counter, key=secret, person=b"bus.cursor").digest()
        out += bytes(a ^ b for a, b in zip(data[start : start + len(stream)], stream, strict=False))
    return bytes(out)
