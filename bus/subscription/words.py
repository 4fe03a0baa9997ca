"""Avro types, validity and masks in the words that people read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bus.avro.types import kind, logical, split_null
from bus.core.agreement import Agreement, Mask, MaskKind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MASKS = {
    MaskKind.PLAIN: "as it is",
    MaskKind.YEAR: "the year only",
    MaskKind.LAST: "the last {} characters",
    MaskKind.BAND: "the lower bound of its band of {:,}",
    MaskKind.PSEUDONYM: "a pseudonym of this agreement's own",
}
IN_FORCE, NOT_YET, OVER = "in force", "not yet in force", "over"
AGREED, NOT_APPLIED = "agreed", "agreed on, not applied"
UNTOLD = "valid by its dates (no bus runs that could say whether both parties stand by it)"


def type_name(avro_type: Any) -> str:
    """What a value is when it is there: the logical type by its name, with its precision, else the Avro type."""
    inner, _ = split_null(avro_type)
    named = logical(inner)
    if named == "decimal":
        return f"decimal({inner['precision']},{inner.get('scale', 0)})"
    if isinstance(inner, list):
        return " or ".join(type_name(branch) for branch in inner)
    return named or kind(inner)


def mask(one: Mask) -> str:
    return _MASKS[one.kind].format(one.size)


def optional(avro_type: Any) -> bool:
    return avro_type == "null" or (isinstance(avro_type, list) and "null" in avro_type)


def instant(unix_ms: int) -> str:
    """ISO 8601 in UTC, to the second where it is a whole one. Also for times beyond what Python's clock functions take."""
    try:
        moment = _EPOCH + timedelta(milliseconds=unix_ms)
    except OverflowError:
        return f"{unix_ms} ms since 1970"
    return moment.isoformat(timespec="milliseconds" if unix_ms % 1000 else "seconds").replace("+00:00", "Z")


def state(agreement: Agreement, now_ms: int, standing: str | None) -> str:
    """`standing`: as bus.subscription.standing says; None where no bus runs."""
    if agreement.valid_until_ms is not None and now_ms >= agreement.valid_until_ms:
        return OVER
    if standing not in (AGREED, None):
        return f"not in force: {standing}"
    if now_ms < agreement.valid_from_ms:
        return NOT_YET
    return IN_FORCE if standing else UNTOLD


def age(seconds: float) -> str:
    """How long ago, in the largest unit that is not 0."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
