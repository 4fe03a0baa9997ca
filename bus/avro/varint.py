"""Avro's integers and lengths: zigzag numbers, seven bits a byte, least significant first. Only canonical (shortest) forms
are read, so equal values are equal bytes."""

from __future__ import annotations

from bus.avro.frame import Malformed

LONG_BYTES = 10
_LONG_BITS = 64


def encode(value: int) -> bytes:
    """An int or long in Avro. Raises OverflowError beyond 64 bits."""
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError("not a 64-bit integer")
    rest = value << 1 if value >= 0 else (-value << 1) - 1
    made = bytearray()
    while rest > 127:
        made.append(rest & 127 | 128)
        rest >>= 7
    made.append(rest)
    return bytes(made)


def decode(b: bytes, i: int = 0) -> tuple[int, int]:
    """(value, index after it). Raises Malformed when it is overlong or beyond 64 bits, IndexError where the bytes end."""
    value = shift = 0
    for k in range(i, i + LONG_BYTES):
        byte = b[k]
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> _LONG_BITS or (byte == 0 and k > i):
                break
            return value >> 1 ^ -(value & 1), k + 1
        shift += 7
    raise Malformed


def encode_text(text: str) -> bytes:
    """A string in Avro."""
    content = text.encode()
    return encode(len(content)) + content


def skip_length(b: bytes, i: int) -> tuple[int, int]:
    """For a length of more than one byte at `i`: (twice the length, index of its last byte). Raises Malformed when it is
    negative or more than what follows."""
    length, end = decode(b, i)
    if not 0 <= length <= len(b) - end:
        raise Malformed
    return length << 1, end - 1


def skip_text_length(b: bytes, begin: int, i: int) -> tuple[int, int, int]:
    """`skip_length` for a string within a run of text that began at `begin`: also checks that the run so far and the
    string are UTF-8 (raises UnicodeDecodeError), and gives the index where the run goes on."""
    twice, last = skip_length(b, i)
    end = last + 1 + (twice >> 1)
    b[begin:i].decode()
    b[last + 1 : end].decode()
    return twice, last, end
