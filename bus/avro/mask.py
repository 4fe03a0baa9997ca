"""Masks on encoded values: an Avro type and a mask give the delivered type and the function from value to delivered value.

Every function is total: for each value that a walker accepts it returns a value of the delivered type. A null stays null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bus.avro import varint
from bus.avro.memo import Memo
from bus.avro.scalar import DATE, civil, content, scalar
from bus.avro.types import kind, logical, split_null
from bus.core.agreement import Mask, MaskKind
from bus.core.identity import pseudonyms

Apply = Callable[[bytes], bytes]
NULL = b"\0"
_BAND_DIGITS = 18
_FAR = 10**18
_BAND_BYTES = 64
_LONG_MIN = -(2**63)
_YEAR_DIGITS = 4


class MaskError(ValueError):
    """A mask that cannot be applied to a type; the message names both."""


@dataclass(frozen=True, slots=True)
class Masked:
    """`apply`: an encoded value -> what is delivered, encoded as `type`; None: the value itself. `memo` is `apply` by look-up.
    `keyed`: `apply` is the pseudonym of a text under the agreement's secret."""

    type: Any
    apply: Apply | None = None
    memo: Memo[bytes, bytes] | None = None
    keyed: bool = False


def masked(avro_type: Any, mask: Mask, secret: bytes) -> Masked:
    """`secret`: the agreement's. Raises MaskError.

    year       date -> int; text -> nullable int, null where the text does not begin with four digits
    last<N>    text -> text
    band<N>    whole number, decimal of up to 18 digits before the point -> long; date -> int
    pseudonym  text -> 32 hexadecimal digits
    """
    if mask == Mask.PLAIN:
        return Masked(avro_type)
    what = scalar(avro_type)
    inner, nullable = split_null(avro_type)
    if mask.kind is MaskKind.BAND and (band := _band(inner, what, mask.size)):
        return _remembered("int" if what == DATE else "long", nullable, band)
    if mask == Mask.YEAR and what == DATE:
        return _remembered("int", nullable, _year_of_date)
    if mask == Mask.YEAR and what == "string":
        return Masked(["null", "int"], apply := _present(_year_of_text) if nullable else _year_of_text, Memo(apply))
    if what != "string" or mask.kind is MaskKind.BAND:
        raise MaskError(f"mask '{mask}' does not work on this type")
    if mask.kind is MaskKind.LAST:
        return _applied("string", nullable, _last(mask.size))
    return replace(_applied("string", nullable, _pseudonym(secret)), keyed=True)


def _applied(delivered: str, nullable: bool, apply: Apply) -> Masked:
    return Masked(["null", delivered], _optional(apply)) if nullable else Masked(delivered, apply)


def _remembered(delivered: str, nullable: bool, apply: Apply) -> Masked:
    made = _applied(delivered, nullable, apply)
    assert made.apply
    return Masked(made.type, made.apply, Memo(made.apply))


def _optional(apply: Apply) -> Apply:
    return lambda value: b"\2" + apply(value[1:]) if value[0] else NULL


def _present(apply: Apply) -> Apply:
    """For masks whose result is nullable by itself."""
    return lambda value: apply(value[1:]) if value[0] else NULL


def _year_of_date(value: bytes) -> bytes:
    return varint.encode(civil(varint.decode(value)[0])[0])


def _year_of_text(value: bytes) -> bytes:
    digits = content(value)[:_YEAR_DIGITS]
    return b"\2" + varint.encode(int(digits)) if len(digits) == _YEAR_DIGITS and digits.isdigit() else NULL


def _last(size: int) -> Apply:
    def apply(value: bytes) -> bytes:
        text = content(value)
        tail = text[-size:]
        if not tail.isascii():
            tail = text.decode()[-size:].encode()
        return varint.encode_text("") if len(tail.decode()) < size else varint.encode(len(tail)) + tail

    return apply


def _band(inner: Any, what: str, width: int) -> Apply | None:
    """None where a value of the type has no band."""
    if what == DATE:
        return lambda value: varint.encode(_floor(civil(varint.decode(value)[0])[0], width))
    if what in ("int", "long"):
        return lambda value: varint.encode(_floor(varint.decode(value)[0], width))
    if logical(inner) == "decimal" and kind(inner) == "bytes":
        precision, scale = inner.get("precision"), inner.get("scale", 0)
        if (
            type(precision) is type(scale) is int and 0 <= scale <= precision <= scale + _BAND_DIGITS
        ):  # no schema says what they are
            return lambda value: varint.encode(_floor(_whole(content(value), scale), width))
    return None


def _floor(number: int, width: int) -> int:
    """The lowest number of the band, held within a long: the lowest band may begin below it."""
    return max(number // width * width, _LONG_MIN)


def _whole(unscaled: bytes, scale: int) -> int:
    """Of a decimal, rounded down; nothing but a schema's word keeps one within its precision, so it is held within it here."""
    if len(unscaled) > _BAND_BYTES:
        return -_FAR if unscaled[0] & 0x80 else _FAR
    divisor: int = 10**scale
    return min(max(int.from_bytes(unscaled, "big", signed=True) // divisor, -_FAR), _FAR)


def _pseudonym(secret: bytes) -> Apply:
    keyed = pseudonyms(secret)
    head = varint.encode(32)
    return lambda value: head + keyed(content(value)).hex().encode()
