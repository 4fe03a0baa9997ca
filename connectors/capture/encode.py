"""PostgreSQL's text output as Avro binary, one function a type, fast.

All functions take the bytes that PostgreSQL prints with DateStyle ISO, TimeZone UTC and bytea_output hex, and raise
ValueError for what Avro (or Python's calendar) cannot say: infinity, NaN in a decimal, years before 1 or after 9999.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

NULL: Final = b"\x00"
"""Branch 0 of ["null", T]."""
PRESENT: Final = b"\x02"
"""Branch 1 of ["null", T]."""
BOOLEAN: Final = {b"t": b"\x01", b"f": b"\x00"}
SHORT_TEXT: Final = 8192
"""Lengths below this are looked up."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CACHE_ENTRIES = 65_536
_FLOAT = struct.Struct("<f").pack
_DOUBLE = struct.Struct("<d").pack


def _varint(z: int) -> bytes:
    out = bytearray()
    while z > 127:
        out.append(z & 127 | 128)
        z >>= 7
    out.append(z)
    return bytes(out)


_LAST = [_varint(z) for z in range(16_384)]
"""The one or two bytes that end a varint."""
_PAIR = [bytes((x & 127 | 128, x >> 7 | 128)) for x in range(16_384)]
"""Fourteen bits that more bytes follow."""
LENGTH: Final = [_LAST[n << 1] for n in range(SHORT_TEXT)]
"""n -> the Avro length prefix of n bytes."""
PRESENT_LENGTH: Final = [PRESENT + prefix for prefix in LENGTH]


def long(n: int) -> bytes:
    """An Avro int or long: zigzag, then seven bits a byte, lowest first."""
    z = n << 1 if n >= 0 else ~(n << 1)
    if z < 16_384:
        return _LAST[z]
    if z < 268_435_456:
        return _PAIR[z & 16_383] + _LAST[z >> 14]
    out = _PAIR[z & 16_383]
    z >>= 14
    while z >= 16_384:
        out += _PAIR[z & 16_383]
        z >>= 14
    return out + _LAST[z]


def length(n: int) -> bytes:
    """The length prefix of text or bytes of any size."""
    return LENGTH[n] if n < SHORT_TEXT else long(n)


def text(value: str) -> bytes:
    data = value.encode()
    return length(len(data)) + data


class _Dates(dict[bytes, bytes]):
    """b'1985-03-02' -> Avro date. A row's dates lie in few years, so looking up is the common case; bounded."""

    def __missing__(self, printed: bytes) -> bytes:
        made = long(_day(printed))
        if len(self) >= _CACHE_ENTRIES:
            self.clear()
        self[printed] = made
        return made


class _Minutes(dict[bytes, int]):
    """b'2026-11-22 07:40' -> microseconds since 1970; bounded."""

    def __missing__(self, printed: bytes) -> int:
        if len(printed) != 16 or printed[10] != 32:
            raise ValueError
        made = int((datetime.fromisoformat(printed.decode() + "Z") - _EPOCH).total_seconds()) * 1_000_000
        if len(self) >= _CACHE_ENTRIES:
            self.clear()
        self[printed] = made
        return made


DATES: Final = _Dates()
_MINUTES: Final = _Minutes()


def _day(printed: bytes) -> int:
    if len(printed) != 10:
        raise ValueError
    return date.fromisoformat(printed.decode()).toordinal() - _EPOCH_DAY


def _micros(minute: bytes, seconds: bytes) -> int:
    """`seconds`: b'33' or b'33.5' up to six decimals."""
    if len(seconds) == 2:
        return _MINUTES[minute] + int(seconds) * 1_000_000
    return _MINUTES[minute] + int(seconds[:2]) * 1_000_000 + int(seconds[3:].ljust(6, b"0"))


def timestamp(printed: bytes) -> bytes:
    """b'2026-11-22 07:40:33.25' -> local-timestamp-micros."""
    return long(_micros(printed[:16], printed[17:]))


def timestamptz(printed: bytes) -> bytes:
    """b'2026-11-22 07:40:33.25+00' -> timestamp-micros."""
    if printed[-3:] != b"+00":
        raise ValueError
    return long(_micros(printed[:16], printed[17:-3]))


def decimal(printed: bytes) -> bytes:
    """numeric(p, s), printed with exactly s decimals, -> its unscaled value in two's complement."""
    n = int(printed.replace(b".", b"", 1))
    size = (n if n >= 0 else ~n).bit_length() // 8 + 1
    return LENGTH[size] + n.to_bytes(size, "big", signed=True)


def real(printed: bytes) -> bytes:
    return _FLOAT(float(printed))


def double(printed: bytes) -> bytes:
    return _DOUBLE(float(printed))


def integer(printed: bytes) -> bytes:
    return long(int(printed))


def bytea(printed: bytes) -> bytes:
    r"""b'\\x00ff' -> bytes."""
    data = bytes.fromhex(printed[2:].decode())
    return length(len(data)) + data


CONVERT: Final[dict[str, Callable[[bytes], bytes]]] = {
    "integer": integer,
    "boolean": BOOLEAN.__getitem__,
    "real": real,
    "double": double,
    "date": DATES.__getitem__,
    "timestamp": timestamp,
    "timestamptz": timestamptz,
    "decimal": decimal,
    "bytea": bytea,
}
"""Kinds of columns (see columns.py) other than text, which is spliced in."""
