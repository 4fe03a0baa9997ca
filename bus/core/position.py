"""Where a committed change stands in its database, and the event id that follows from it."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

_PACK = struct.Struct(">QQQI").pack
EVENT_ID_BYTES = 16


class Position(NamedTuple):
    """A change's place. Compare as numbers, never as text; an LSN alone is not a position.

    system_id: PostgreSQL's system identifier (IDENTIFY_SYSTEM).
    lsn: start of the commit record (pgoutput Begin.final_lsn); for snapshot rows the snapshot's consistent point.
    xid: the transaction; 0 for snapshot rows.
    ordinal: counts the *emitted events* of one transaction (or snapshot run) from 0.
    """

    system_id: int
    lsn: int
    xid: int
    ordinal: int


def event_id(database: str, position: Position) -> bytes:
    """16 bytes that only this change of this database has; the same after every re-read of the log."""
    seed = _PACK(position.system_id, position.lsn, position.xid, position.ordinal)
    return hashlib.blake2b(seed + database.encode(), digest_size=EVENT_ID_BYTES, person=b"bus.event").digest()


def parse_lsn(text: str) -> int:
    """'16/B374D848' -> int. Raises ValueError for anything else."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """The way PostgreSQL prints it: 'HIGH/LOW' in hexadecimal."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
