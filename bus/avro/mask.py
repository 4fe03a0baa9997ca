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
from bus.avro.types import split_null
from bus.core.agreement import Mask
from bus.core.identity import pseudonyms

Apply = Callable[[bytes], bytes]
NULL = b"\0"
_LAST = 4
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
    last4      text -> text
    pseudonym  text -> 32 hexadecimal digits
    """
    if mask is Mask.PLAIN:
        return Masked(avro_type)
    what = scalar(avro_type)
    _, nullable = split_null(avro_type)
    if mask is Mask.YEAR and what == DATE:
        return _remembered("int", nullable, _year_of_date)
    if mask is Mask.YEAR and what == "string":
        return Masked(["null", "int"], apply := _present(_year_of_text) if nullable else _year_of_text, Memo(apply))
    if what != "string":
        raise MaskError(f"mask {mask.value!r} does not work on this type")
    if mask is Mask.LAST4:
        return _applied("string", nullable, _last4)
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


def _last4(value: bytes) -> bytes:
    text = content(value)
    tail = text[-_LAST:]
    if not tail.isascii():
        tail = text.decode()[-_LAST:].encode()
    return varint.encode_text("") if len(tail.decode()) < _LAST else varint.encode(len(tail)) + tail


def _pseudonym(secret: bytes) -> Apply:
    keyed = pseudonyms(secret)
    head = varint.encode(32)
    return lambda value: head + keyed(content(value)).hex().encode()
