"""A delivery as a CloudEvent in JSON: what webhooks send and the feed answers.

CloudEvents 1.0.2, JSON event format. `id` is the delivery's event id, constant over repeats; with `source`, the agreement, it
is unique. `partitionkey` (partitioning extension) stands for the person: events with the same one are told in their order.
`sequence` is the delivery's `seq`, `lane` the partition that counts it. Nothing here says more than the delivery does.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from bus.core.outcome import Op

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/cloudevents+json"
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"
SOURCE_PREFIX = "/agreements/"
TYPE_PREFIX = "vn.lienthong."
_WORDS = {
    Op.CREATE.value: "created",
    Op.UPDATE.value: "updated",
    Op.DELETE.value: "deleted",
    Op.READ.value: "read",
    Op.WITHDRAWN.value: "withdrawn",
}


def event(delivery: Mapping[str, Any], dataset: str, key: bytes, lane: int) -> dict[str, Any]:
    """JSON-ready; `delivery`: a decoded record of an agency's topic, `key` that record's, `dataset` as '<domain>.<table>'."""
    op = str(delivery["op"])
    return {
        "specversion": SPEC_VERSION,
        "id": delivery["event_id"].hex(),
        "source": SOURCE_PREFIX + str(delivery["agreement"]),
        "type": f"{TYPE_PREFIX}{dataset}.{_WORDS[op]}",
        "subject": delivery["row_key"].hex(),
        "time": _instant(int(delivery["ts_ms"])),
        "partitionkey": key.hex(),
        "sequence": str(delivery["seq"]),
        "lane": lane,
        "granthash": delivery["grant_hash"].hex(),
        "datacontenttype": "application/json",
        "data": {"op": op, "verdict": delivery["verdict"], "row": plain(delivery["data"])},
    }


def plain(value: Any) -> Any:
    """A value of a row for JSON: decimals as text, so that none loses a digit; dates as ISO 8601; bytes in base64."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for these
    return value


def _instant(ts_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond, for any year that has four digits."""
    when = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=ts_ms)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
