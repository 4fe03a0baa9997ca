"""Row changes as change events: key, envelope, order within the transaction, and which of them Kafka has already.

`Events` is told where it is (`transaction`, `snapshot`) and then what happened to rows; it produces records and counts.
One instance belongs to one session; nothing in it outlives an error.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from typing import Final

from bus.avro.dataset import Dataset
from bus.core import identity, topics
from bus.core.outcome import DeadCode
from bus.core.position import EVENT_ID_BYTES, format_lsn
from connectors.capture import encode
from connectors.capture.progress import Place, Streamed

CREATE, UPDATE, DELETE, READ = range(4)
"""Places in bus.core.outcome.CHANGE_OPS."""
MAX_VALUE_BYTES: Final = 8_000_000
"""A larger event becomes a dead letter of its position only. The topics take 8 MiB with a record's overhead."""
MAX_ORDINAL: Final = 2**31 - 1

Produce = Callable[[str, bytes, bytes], None]
"""(topic, value, key)"""
DeadLetter = Callable[[Dataset, DeadCode, bytes, bytes, str], None]
"""(dataset, code, key, value, position)"""

_ORDINAL = struct.Struct(">I").pack
_SEED = struct.Struct(">QQQ").pack
_OPS = tuple(encode.long(i) for i in range(4))
_ABSENT_BEFORE = encode.NULL + encode.PRESENT
_SHA_BLOCK = 64


class Keys:
    """Message keys, as bus.core.identity defines them. The two halves of the HMAC are begun once, which halves its cost."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        block = secret.ljust(_SHA_BLOCK, b"\0")  # RFC 2104; the secret is shorter than a block
        self._inner = hashlib.sha256(bytes(x ^ 0x36 for x in block))
        self._outer = hashlib.sha256(bytes(x ^ 0x5C for x in block))
        if len(secret) != identity.SECRET_BYTES:
            raise ValueError(f"the person key's secret must be {identity.SECRET_BYTES} bytes")

    def of(self, dataset: str, pin: bytes, row_key: bytes) -> bytes:
        """The person key of `pin`, or where that is empty the row's key."""
        if not pin:
            return identity.row_key(self._secret, dataset, row_key)
        inner = self._inner.copy()
        inner.update(pin)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[: identity.KEY_BYTES]


class Target:
    """Where a dataset's events go, and the parts of them that never change."""

    def __init__(self, dataset: Dataset, frame: bytes, system_id: int, schema: str, counts: list[int] | None = None) -> None:
        self.dataset = dataset
        self.name = dataset.name
        self.topic = dataset.topic
        self.dead_topic = topics.dead(dataset.name)
        self.frame = frame
        self.source = encode.text(dataset.domain) + encode.text(schema) + encode.text(dataset.table) + encode.long(system_id)
        self.counts = [0, 0, 0, 0] if counts is None else counts
        """Events since the last commit, by place in CHANGE_OPS; shared by all schemas of a dataset."""


class Events:
    """Makes records out of row changes of one database.

    `ordinal` is that of the next event. `published` is the last event that Kafka has: those up to it are counted, not sent.
    """

    def __init__(self, domain: str, system_id: int, keys: Keys, produce: Produce, dead_letter: DeadLetter) -> None:
        self._domain = domain.encode()
        self._system_id = system_id
        self._keys = keys
        self._produce = produce
        self._dead_letter = dead_letter
        self.lsn = self.xid = self.ordinal = 0
        self._last: Streamed | None = None
        self.bytes = 0
        self.events_since_commit = 0
        self._skip_below = 0
        self.owed: Mapping[str, Place] = {}
        """Dataset -> from where on its events are not published, although later ones of other datasets are."""
        self._seed = hashlib.blake2b()
        self._op_heads = _OPS
        self._head = self._tail = b""

    def transaction(self, lsn: int, xid: int, ts_ms: int, now_ms: int, published: Streamed | None) -> None:
        """A source transaction begins: committed at `lsn` at `ts_ms`; captured now."""
        self._last = self.streamed()
        self._place(lsn, xid, ts_ms, now_ms, b"\x00")
        self.ordinal = 0
        self._skip_below = 0
        if published is not None:
            if lsn < published.lsn:
                self._skip_below = MAX_ORDINAL
            elif (lsn, xid) == (published.lsn, published.xid):
                self._skip_below = published.ordinal + 1

    def snapshot(self, lsn: int, ts_ms: int, rows: int) -> None:
        """A snapshot run begins; `rows` were read by earlier runs. Ordinals run on, so they are unique over all runs."""
        self._place(lsn, 0, ts_ms, ts_ms, b"\x01")
        self.ordinal = rows
        self._skip_below = 0

    def _place(self, lsn: int, xid: int, ts_ms: int, now_ms: int, snapshot: bytes) -> None:
        self.lsn, self.xid = lsn, xid
        self._seed = hashlib.blake2b(_SEED(self._system_id, lsn, xid), digest_size=EVENT_ID_BYTES, person=b"bus.event")
        now = encode.long(now_ms)
        self._op_heads = tuple(op + now for op in _OPS)
        self._head = encode.long(lsn) + encode.long(xid)
        self._tail = encode.long(ts_ms) + snapshot

    def row(self, target: Target, op: int, row: bytes, pin: bytes, row_key: bytes) -> None:
        """c, d or r of one row."""
        key = self._keys.of(target.name, pin, row_key)
        if op == DELETE:
            self._emit(target, op, key, encode.PRESENT, row, encode.NULL)
        else:
            self._emit(target, op, key, _ABSENT_BEFORE, row, b"")

    def update(self, target: Target, old: tuple[bytes, bytes, bytes], new: tuple[bytes, bytes, bytes]) -> None:
        """`old` and `new` are (row, PIN, row key). A change of PIN or row key becomes d of the old row, c of the new one.

        The PIN decides the lane; the row key is what subscribers know the row by, so the old one has to be told off.
        """
        row0, pin0, key0 = old
        row1, pin1, key1 = new
        if key0 == key1 and pin0 == pin1:
            self._emit(target, UPDATE, self._keys.of(target.name, pin1, key1), encode.PRESENT, row0, encode.PRESENT + row1)
        else:
            self.row(target, DELETE, row0, pin0, key0)
            self.row(target, CREATE, row1, pin1, key1)

    def _emit(self, target: Target, op: int, key: bytes, before: bytes, row: bytes, after: bytes) -> None:
        n = self.ordinal
        self.ordinal = n + 1
        if n < self._skip_below and not self._is_owed(target, n):
            return
        event_id = self._seed.copy()
        event_id.update(_ORDINAL(n) + self._domain)
        value = b"".join(
            (
                target.frame,
                event_id.digest(),
                self._op_heads[op],
                target.source,
                self._head,
                encode.long(n),
                self._tail,
                before,
                row,
                after,
            )
        )
        self.events_since_commit += 1
        self.bytes += len(value)
        if len(value) > MAX_VALUE_BYTES:
            self._dead_letter(target.dataset, DeadCode.TOO_LARGE, b"", self.position(n).encode(), self.position(n))
            return
        self._produce(target.topic, value, key)
        target.counts[op] += 1

    def dead(self, target: Target, code: DeadCode, original: bytes | None) -> None:
        """A change that cannot be an event takes an ordinal like one. `original`: its bytes; None: only its position is told."""
        n = self.ordinal
        self.ordinal = n + 1
        if n < self._skip_below and not self._is_owed(target, n):
            return
        self.events_since_commit += 1
        at = self.position(n)
        value = at.encode() if original is None or len(original) > MAX_VALUE_BYTES else original
        self._dead_letter(target.dataset, code, b"", value, at)

    def is_published(self) -> bool:
        """Whether the next event is, by an earlier session."""
        return self.ordinal < self._skip_below

    def _is_owed(self, target: Target, ordinal: int) -> bool:
        since = self.owed.get(target.name)
        return since is not None and (self.lsn, ordinal) >= since

    def position(self, ordinal: int) -> str:
        return f"{format_lsn(self.lsn)}:{self.xid}:{ordinal}"

    def streamed(self) -> Streamed | None:
        """The last event of the stream that was sent in this session, if any."""
        if self.xid and self.ordinal > self._skip_below:
            return Streamed(self.lsn, self.xid, self.ordinal - 1)
        return self._last

    def committed(self) -> None:
        self.events_since_commit = self.bytes = 0
