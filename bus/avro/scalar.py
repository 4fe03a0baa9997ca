"""Single columns as text, for the few places that must look into a value: comparison with the register, filters, masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bus.avro import varint
from bus.avro.types import kind, logical, split_null

Text = Callable[[bytes], str | None]
"""An Avro value -> its text, None for null."""
DATE = "date"


def scalar(avro_type: Any) -> str:
    """What a column is when it is not null: 'string', 'int', 'long', 'boolean', 'date', or '' for everything else."""
    inner, _ = split_null(avro_type)
    what = kind(inner)
    if what == "string":
        return "string"
    if what == "int" and logical(inner) == DATE:
        return DATE
    return what if what in ("int", "long", "boolean") and not logical(inner) else ""


def reader(avro_type: Any) -> Text | None:
    """How a column's value reads as text: dates as ISO 8601, numbers in decimal; None when the type has no text form."""
    _, nullable = split_null(avro_type)
    read = _READERS.get(scalar(avro_type))
    if read is None or not nullable:
        return read
    present = read
    return lambda value: present(value[1:]) if value[0] else None


def content(value: bytes) -> bytes:
    """The bytes of a string, without its length."""
    size = value[0] >> 1
    return value[1:] if size == len(value) - 1 and size < 64 else value[varint.decode(value)[1] :]


def civil(days: int) -> tuple[int, int, int]:
    """(year, month, day) of days since 1970-01-01, proleptic Gregorian, for any number of days (H. Hinnant's algorithm)."""
    shifted = days + 719_468
    era, of_era = divmod(shifted, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month += 3 if month < 10 else -9
    return year_of_era + era * 400 + (month <= 2), month, day


def _date(value: bytes) -> str:
    year, month, day = civil(varint.decode(value)[0])
    return f"{year:04d}-{month:02d}-{day:02d}"


_READERS: dict[str, Text] = {
    "string": lambda value: content(value).decode(),
    "int": lambda value: str(varint.decode(value)[0]),
    "long": lambda value: str(varint.decode(value)[0]),
    "boolean": lambda value: "true" if value[0] else "false",
    DATE: _date,
}


def encodings(avro_type: Any, texts: tuple[str, ...]) -> frozenset[bytes]:
    """The Avro values of a column that read as one of `texts`. Raises ValueError for a text that the column can never read as."""
    _, nullable = split_null(avro_type)
    write = _WRITERS[scalar(avro_type)]
    return frozenset((b"\2" if nullable else b"") + write(text) for text in texts)


def _number(text: str) -> bytes:
    if str(int(text)) != text:
        raise ValueError(text)
    return varint.encode(int(text))


def _flag(text: str) -> bytes:
    return bytes([("false", "true").index(text)])


_WRITERS: dict[str, Callable[[str], bytes]] = {
    "string": varint.encode_text,
    "int": _number,
    "long": _number,
    "boolean": _flag,
}
FILTERABLE = frozenset(_WRITERS)
