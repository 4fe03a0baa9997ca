"""How far capture of one database has come: the record in `bus.positions`, written in the transaction of what it covers.

A table is read in key order, in one or more *segments*: the rows up to some key as of some point of the log. An interrupted
snapshot goes on under a new consistent point, so its tables have several. A streamed change belongs to its row's segment and
counts only if it committed at or after that segment's point; before it, the snapshot has it already.

A table that was altered so that its schema does not fit is *held*: the slot stays where its changes begin, the other tables go
on, and what they have published by then is passed over when the log is read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bus.core.position import format_lsn, parse_lsn
from connectors.capture.errors import Refusal

FORMAT: Final = 1
FORMAT_HELD: Final = 2
"""With held tables: an older capture, which knows nothing of them, must not go on from such a record."""
_NONCE_BYTES = 16
Nonce = Callable[[int], bytes]
Place = tuple[int, int]
"""(LSN of the commit, ordinal): where an event stands in the log."""


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
class Held:
    """Of a held table everything before `next` is published. `since` is where it began, `row` the LSN of the first row message
    that was held in that transaction. From there on each of its row messages takes MESSAGE_ORDINALS ordinals, be it published or
    not: what an update will become, one event or two, is not known while it cannot be read."""

    since: Place
    row: int
    next: Place

    def begins_before(self, commit: int, row: int) -> bool:
        """Whether the row message at `row`, of the transaction that committed at `commit`, is held."""
        return commit > self.since[0] or (commit == self.since[0] and row >= self.row)


MESSAGE_ORDINALS: Final = 2
BEHIND_THE_LAST_ROW: Final = 2**64 - 1
"""As `row` of what begins between two transactions."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`confirmed`: what the slot may have been told; None until anything was published. `rows`: snapshot rows so far."""

    system_id: int
    timeline: int
    streamed: Streamed | None = None
    confirmed: int | None = None
    rows: int = 0
    tables: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)
    oids: Mapping[str, int] = field(default_factory=dict)
    """Table -> what PostgreSQL knows it by, whatever its name: a table that was dropped and made anew has another one."""
    whole: bool = False
    """Of the transaction of `streamed` everything is published that could be read."""

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

    def first(self, table: str) -> int:
        """What committed before this LSN is in the snapshot of the table, whatever it looked like then: it takes no ordinals."""
        return min(s.lsn for s in self.tables[table])

    def floor(self) -> int:
        """From this LSN on every change counts, whatever its row."""
        return max((s.lsn for segments in self.tables.values() for s in segments), default=0)

    def between_transactions(self) -> bool:
        """Whether no source transaction is published in part."""
        return self.streamed is None or self.whole or (self.confirmed or 0) > self.streamed.lsn

    def settled(self) -> Progress:
        """Without segments that the stream has left behind: they cannot hold anything back any more. While a table is held they
        do: the log is read again for its sake, and every table's rows have to count as they did."""
        if self.held or self.streamed is None or self.streamed.lsn < self.floor():
            return self
        return replace(self, tables={t: (Segment(None, max(s.lsn for s in found)),) for t, found in self.tables.items()})

    def hold(self, table: str, at: Place, row: int) -> Progress:
        """From here on nothing of the table is published. One that is held already keeps where that began."""
        if found := self.held.get(table):
            held = Held(found.since, found.row, max(found.next, at))
        else:
            if self.streamed and at <= (self.streamed.lsn, self.streamed.ordinal):
                at, row = (self.streamed.lsn, self.streamed.ordinal + 1), BEHIND_THE_LAST_ROW
            held = Held(at, row, at)
        return replace(self, held={**self.held, table: held})

    def caught_up(self, tables: Collection[str], at: Place) -> Progress:
        """Of these held tables everything before `at` is published, too."""
        moved = {t: Held(h.since, h.row, max(h.next, at)) if t in tables else h for t, h in self.held.items()}
        return replace(self, held=moved)

    def release(self, tables: Collection[str]) -> Progress:
        return replace(self, held={t: h for t, h in self.held.items() if t not in tables})

    def only(self, tables: Collection[str]) -> Progress:
        """Without tables that are no longer captured: should one come back, it is read anew. Of one that was not
        read yet no oid is kept: another table of that name is as good."""
        kept = {t: s for t, s in self.tables.items() if t in tables}
        held = {t: h for t, h in self.held.items() if t in tables}
        return replace(self, tables=kept, held=held, oids={t: oid for t, oid in self.oids.items() if t in kept})


def still_captured(known: Progress, domain: str, tables: Collection[str]) -> Progress:
    """Without tables that have no schema any more. Raises Refusal where events of others, numbered among their rows, wait."""
    gone = known.tables.keys() - set(tables)
    others = sorted(known.held.keys() - gone)
    if gone and (others or not known.between_transactions()):
        waits = f"{', '.join(others)} held" if others else "a transaction published in part"
        raise Refusal(
            f"{domain} has no schema any more of {', '.join(sorted(gone))}, and events of other tables wait that are numbered "
            f"among its rows ({waits}): put the file back, have them published (`bus up`), `bus down`, and then remove it"
        )
    return known.only(tables)


def to_json(progress: Progress, secret: bytes, nonce: Nonce) -> bytes:
    """The record's value. Keys that a snapshot stopped at are sealed: a register's primary key is a PIN."""
    tables = {
        table: [{"upto": s.upper and _seal(s.upper, secret, nonce), "lsn": format_lsn(s.lsn)} for s in segments]
        for table, segments in progress.tables.items()
    }
    at = progress.streamed
    return json.dumps(
        {
            "format": FORMAT_HELD if progress.held else FORMAT,
            "system_id": str(progress.system_id),
            "timeline": progress.timeline,
            "streamed": at and {"lsn": format_lsn(at.lsn), "xid": at.xid, "ordinal": at.ordinal, "whole": progress.whole},
            "confirmed": None if progress.confirmed is None else format_lsn(progress.confirmed),
            "rows": progress.rows,
            "tables": tables,
            "oids": dict(progress.oids),
            **({"held": {t: [*h.since, h.row, *h.next] for t, h in progress.held.items()}} if progress.held else {}),
        },
        separators=(",", ":"),
    ).encode()


def from_json(value: bytes, secret: bytes) -> Progress:
    """Raises Refusal for a record of another format or another bus's secret."""
    try:
        found = json.loads(value)
        if found["format"] not in (FORMAT, FORMAT_HELD):
            raise ValueError
        at = found["streamed"]
        return Progress(
            int(found["system_id"]),
            int(found["timeline"]),
            at and Streamed(parse_lsn(at["lsn"]), int(at["xid"]), int(at["ordinal"])),
            None if found["confirmed"] is None else parse_lsn(found["confirmed"]),
            int(found["rows"]),
            {t: tuple(_segment(s, secret) for s in segments) for t, segments in found["tables"].items()},
            {t: _held(numbers) for t, numbers in found.get("held", {}).items()},
            {t: int(oid) for t, oid in found.get("oids", {}).items()},  # an earlier version wrote none
            bool(at and at.get("whole", False)),
        )
    except (KeyError, TypeError, ValueError):
        raise Refusal(
            "this database's record in bus.positions is unreadable: another version of capture, or other secrets, wrote it"
        ) from None


def _held(numbers: list[int]) -> Held:
    since_lsn, since_ordinal, row, next_lsn, next_ordinal = map(int, numbers)
    return Held((since_lsn, since_ordinal), row, (next_lsn, next_ordinal))


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
