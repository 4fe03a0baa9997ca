"""Values of rows and deliveries as people write them in a test file, and as fastavro has them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from bus.avro.types import kind, logical, split_null

_NULL = "null"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse(text: str, avro_type: Any) -> Any:
    """The value that a text stands for; null where the column may be. Raises ValueError that says how to write it."""
    inner, nullable = split_null(avro_type)
    if nullable and text in ("", _NULL, "~"):
        return None
    name = logical(inner) or kind(inner)
    read = _READERS.get(name)
    if read is None:
        raise ValueError(f"a {name} cannot be written in a test file")
    try:
        return read[0](text)
    except (ValueError, InvalidOperation, struct.error, OverflowError):
        raise ValueError(f"not a {name}: write it like {read[1]}") from None


def neutral(avro_type: Any) -> Any:
    """What a column holds that nobody says anything about: null where it may, else nothing, 0, false or 1970-01-01."""
    inner, nullable = split_null(avro_type)
    if nullable:
        return None
    if logical(inner) in _NEUTRAL:
        return _NEUTRAL[logical(inner)]
    return {"string": "", "bytes": b"", "boolean": False, "float": 0.0, "double": 0.0}.get(kind(inner), 0)


def text(value: Any) -> str:
    """A value for people, as `parse` reads it."""
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _flag(text: str) -> bool:
    return (("false", "true").index(text)) == 1


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(text)
    return found.astimezone(UTC)


def _local(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is not None:
        raise ValueError(text)
    return found


def _float(text: str) -> float:
    """As precise as the column is."""
    found: float = struct.unpack(">f", struct.pack(">f", float(text)))[0]
    return found


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "string": (str, "text"),
    "int": (int, "42"),
    "long": (int, "42"),
    "boolean": (_flag, "true"),
    "float": (_float, "1.5"),
    "double": (float, "1.5"),
    "bytes": (bytes.fromhex, "00ff"),
    "date": (date.fromisoformat, "2025-07-01"),
    "timestamp-micros": (_instant, "2025-07-01T08:00:00+07:00"),
    "local-timestamp-micros": (_local, "2025-07-01T08:00:00"),
    "decimal": (Decimal, "12.50"),
    "uuid": (UUID, "00000000-0000-4000-8000-000000000001"),
}
_NEUTRAL: dict[str | None, Any] = {
    "date": date(1970, 1, 1),
    "timestamp-micros": _EPOCH,
    "local-timestamp-micros": datetime(1970, 1, 1),  # noqa: DTZ001 a time of the clock on the wall has no zone
    "decimal": Decimal(0),
    "uuid": UUID(int=0),
}
