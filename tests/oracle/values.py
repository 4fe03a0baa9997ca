"""One spelling for a column's value, whether it comes from PostgreSQL as JSON or from Avro: the raw Avro value.

Dates are days and timestamps microseconds since 1970, decimals their unscaled integer, everything else itself.
Logical types are taken out of every schema before decoding, so that no library's idea of a date gets a say.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

Row = dict[str, Any]
Convert = Callable[[Any], Any]

UNCONVERTIBLE = ("unconvertible",)
"""Stands for a value that PostgreSQL can hold and the column's Avro type cannot."""

_DATE = re.compile(r"(\d{4,})-(\d\d)-(\d\d)( BC)?$")
_STAMP = re.compile(r"(\d{4,})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:([+-])(\d\d)(?::?(\d\d))?)?( BC)?$")


def bare(schema: Any) -> Any:
    """A schema without logical types."""
    if isinstance(schema, list):
        return [bare(s) for s in schema]
    if isinstance(schema, dict):
        return {k: bare(v) if k in ("type", "items", "values", "fields") else v for k, v in schema.items() if k != "logicalType"}
    return schema


def days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar; year 0 is 1 BC."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def date_text(since_1970: int) -> str:
    """ISO text of a number of days."""
    z = since_1970 + 719_468
    era, doe = divmod(z, 146_097)
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    month = mp + 3 if mp < 10 else mp - 9
    return f"{yoe + era * 400 + (month <= 2):04d}-{month:02d}-{doy - (153 * mp + 2) // 5 + 1:02d}"


def converters(fields: Mapping[str, Any]) -> dict[str, Convert]:
    """Column -> function from the value in `to_jsonb(row)` to the raw Avro value; None stays None."""
    return {name: _converter(kind) for name, kind in fields.items()}


def avro_converters(fields: Mapping[str, Any]) -> dict[str, Convert]:
    """Columns whose raw Avro value is not yet the common spelling, with what makes it so."""
    return {name: _unscaled for name, kind in fields.items() if _logical(kind) == "decimal"}


def _converter(kind: Any) -> Convert:
    logical, base = _logical(kind), _base(kind)
    if logical == "date":
        return _null(_days_of)
    if logical in ("timestamp-micros", "local-timestamp-micros"):
        return _null(_micros_of)
    if logical == "decimal":
        scale = int(_concrete(kind).get("scale", 0))
        return _null(lambda v: _scaled(v, scale))
    if base == "bytes":
        return _null(lambda v: bytes.fromhex(v[2:]))
    if base == "float":
        return _null(lambda v: struct.unpack(">f", struct.pack(">f", float(v)))[0])
    if base == "double":
        return _null(float)
    if base == "string":
        return _null(lambda v: v if isinstance(v, str) else json_text(v))
    return _null(lambda v: v)


def scale_of(kind: Any) -> int:
    """Digits behind the point of a decimal column, 0 for all others."""
    return int(_concrete(kind).get("scale", 0)) if _logical(kind) == "decimal" else 0


def _null(convert: Convert) -> Convert:
    return lambda v: None if v is None else convert(v)


def _concrete(kind: Any) -> Any:
    if isinstance(kind, list):
        return next(k for k in kind if k != "null")
    return kind


def _logical(kind: Any) -> str:
    found = _concrete(kind)
    return str(found.get("logicalType", "")) if isinstance(found, dict) else ""


def _base(kind: Any) -> str:
    found = _concrete(kind)
    return str(found["type"]) if isinstance(found, dict) else str(found)


def is_date(kind: Any) -> bool:
    return _logical(kind) == "date"


def _days_of(text: str) -> Any:
    found = _DATE.match(text)
    if not found:
        return UNCONVERTIBLE
    year = int(found[1])
    return days(1 - year if found[4] else year, int(found[2]), int(found[3]))


def _micros_of(text: str) -> Any:
    found = _STAMP.match(text)
    if not found:
        return UNCONVERTIBLE
    year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
    at = days(1 - year if found[11] else year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
    if found[8]:
        away = int(found[9]) * 3600 + int(found[10] or 0) * 60
        at -= away if found[8] == "+" else -away
    return at * 1_000_000 + int((found[7] or "0").ljust(6, "0"))


def _scaled(value: Any, scale: int) -> Any:
    number = Decimal(value) if not isinstance(value, float) else Decimal(repr(value))
    return int(number.scaleb(scale)) if number.is_finite() else UNCONVERTIBLE


def _unscaled(value: bytes | None) -> int | None:
    return int.from_bytes(value, "big", signed=True) if isinstance(value, bytes) else value  # the band of one is a number


def json_text(value: Any) -> str:
    """One spelling of a JSON value."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_number)


def _number(value: Decimal) -> float:
    return float(value)


def load_json(text: str) -> Any:
    """JSON with exact numbers, as the journal is read."""
    return json.loads(text, parse_float=Decimal)
