"""Sequence numbers as Avro longs by look-up: two bytes come from a table, the rest changes every 8,192 deliveries."""

from __future__ import annotations

from bus.avro import varint
from bus.avro.memo import Memo

STEP = 8_192
"""14 bits of the zigzag form, thus two varint bytes."""
SMALL = tuple(varint.encode(n) for n in range(STEP))
"""n -> Avro long, below STEP."""
LOW = tuple(bytes([n << 1 & 127 | 128, n >> 6 | 128]) for n in range(STEP))
"""n % STEP -> the first two bytes, when more follow."""


def _unsigned(rest: int) -> bytes:
    made = bytearray()
    while rest > 127:
        made.append(rest & 127 | 128)
        rest >>= 7
    made.append(rest)
    return bytes(made)


HIGH: Memo[int, bytes] = Memo(_unsigned, 4_096)
"""n // STEP -> the bytes after them."""


def encode(n: int) -> bytes:
    """The same by the names above; n from 0 below 2^63. Generated code has this expression in place."""
    return SMALL[n] if n < STEP else LOW[n % STEP] + HIGH[n // STEP]
