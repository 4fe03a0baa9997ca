"""Which records a replay covers: per lane a first offset and an end, both fixed before the first record is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # re-exported without saying so

from bus.core import topics

ANSWER_SECONDS = 15.0
"""How long the broker may take to answer one question."""
DISORDER_MS = 60_000
"""How far the timestamps of a lane may go back. A record that is so much later than the end of the range ends its lane."""
_AGO = re.compile(r"([0-9]{1,6})(s|m|h|d)")
LATEST = 2**63 - 1
"""As an offset: the end of what is committed."""
_REPLAYED = (topics.change(""), topics.verified(""), topics.agency(""), topics.SANDBOX_PREFIX)
"""What the developer's rights open (bus/platform/declared.py)."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class ReplayError(ValueError):
    """A replay cannot begin or go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Point:
    """One edge of a range: an offset that holds in every lane, or a moment (Unix milliseconds). One of the two is None."""

    offset: int | None = None
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """Per lane (first offset, end offset), end exclusive; lanes without anything in between are left out.

    Of the records in `ranges` those count whose timestamp is in [begin_ms, end_ms), where these are given. `estimate` is
    about how many offsets these are; ends of transactions have offsets too.
    """

    topic: str
    lanes: int
    ranges: Mapping[int, tuple[int, int]]
    begin_ms: int | None = None
    end_ms: int | None = None
    estimate: int = 0

    def covers(self, at_ms: int) -> bool:
        """Whether a record with this timestamp counts."""
        return (self.begin_ms is None or self.begin_ms <= at_ms) and (self.end_ms is None or at_ms < self.end_ms)

    def whole(self) -> Extent:
        """Every record in `ranges`, whatever its timestamp."""
        return replace(self, begin_ms=None, end_ms=None)

    def is_past(self, at_ms: int) -> bool:
        """Whether nothing that counts can follow a record with this timestamp in its lane."""
        return self.end_ms is not None and at_ms >= self.end_ms + DISORDER_MS


def parse_point(text: str, now: datetime) -> Point:
    """'beginning', 'now', an offset ('1200'), how long ago ('15m'), or ISO 8601 ('2025-07-01T08:00+07:00'; no zone: local).

    Raises ReplayError for anything else.
    """
    if text == "beginning":
        return Point(offset=0)
    if text == "now":
        return Point(offset=LATEST)
    if text.isascii() and text.isdigit() and len(text) < 19:
        return Point(offset=int(text))
    try:
        if ago := _AGO.fullmatch(text):
            return Point(at_ms=_ms(now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})))
        return Point(at_ms=_ms(datetime.fromisoformat(text).astimezone(UTC)))
    except (ValueError, OverflowError):
        raise ReplayError(
            f"{text!r} is neither a time nor an offset: give 'beginning', 'now', an offset as 1200, "
            "how long ago as 15m, or a time as 2025-07-01T08:00+07:00"
        ) from None


def _ms(moment: datetime) -> int:
    return max(0, int(moment.timestamp() * 1000))  # negative times have other meanings in Kafka


def lanes_of(admin: AdminClient, topic: str) -> int:
    """How many partitions a topic has. Raises ReplayError naming near topics when it does not exist or is not ours to see."""
    known = admin.list_topics(timeout=ANSWER_SECONDS).topics
    if topic not in known:
        raise ReplayError(refusal(topic, known))
    return len(known[topic].partitions)


def refusal(topic: str, known: Mapping[str, Any]) -> str:
    """Why a topic that is not among `known`, which the developer may read, cannot be replayed."""
    if topic.startswith(_REPLAYED):
        return f"no topic {topic!r}{near(topic, known)}"
    allowed = ", ".join(f"{prefix}*" for prefix in _REPLAYED)
    if hint := _meant(topic, known):
        return f"{topic!r} cannot be replayed, only {allowed}{hint}"
    return f"{topic!r} cannot be replayed, only {allowed}: `bus tail {topic}` shows an operator its newest records"


def near(topic: str, known: Mapping[str, Any]) -> str:
    """'; did you mean …?' with the nearest names, or a pointer to the list."""
    return _meant(topic, known) or ": `bus topics` lists them"


def _meant(topic: str, known: Mapping[str, Any]) -> str:
    found = difflib.get_close_matches(topic, known, 3, 0.5)
    return f": did you mean {' or '.join(map(repr, found))}?" if found else ""


def resolve(admin: AdminClient, consumer: Consumer, topic: str, begin: Point, end: Point) -> Extent:
    """The extent of [begin, end) as of now, up to the last committed record. Raises ReplayError.

    The broker finds a time's first entry, which may be the end of a transaction: that bears the broker's time, while records
    bear their producers'. So its answer is where to begin, and for the end no more than an estimate.
    """
    lanes = lanes_of(admin, topic)
    earliest, latest = edges(admin, topic, lanes)
    first, last = (_offsets(consumer, topic, point, earliest, latest) for point in (begin, end))
    ends = latest if end.offset is None else last
    ranges = {lane: (first[lane], ends[lane]) for lane in range(lanes) if first[lane] < ends[lane]}
    estimate = sum(max(0, last[lane] - first[lane]) for lane in ranges)
    return Extent(topic, lanes, ranges, begin.at_ms, end.at_ms, estimate)


def oldest_ms(admin: AdminClient, extent: Extent) -> int | None:
    """No record of the extent is older, but for disorder (Unix milliseconds). None when there is none."""
    if not extent.ranges:
        return None
    first = OffsetSpec.for_timestamp(0)
    asked = {TopicPartition(extent.topic, lane): first for lane in extent.ranges}
    futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_SECONDS)
    found = [at for future in futures.values() if (at := future.result(ANSWER_SECONDS).timestamp) >= 0]
    return max(min(found), extent.begin_ms or 0) if found else None


def edges(admin: AdminClient, topic: str, lanes: int) -> tuple[dict[int, int], dict[int, int]]:
    """Per lane the earliest offset, and the end of what is committed."""
    earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
    return _listed(admin, topic, lanes, earliest), _listed(admin, topic, lanes, latest)


def _listed(admin: AdminClient, topic: str, lanes: int, spec: OffsetSpec) -> dict[int, int]:
    asked = {TopicPartition(topic, lane): spec for lane in range(lanes)}
    futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_SECONDS)
    return {tp.partition: future.result(ANSWER_SECONDS).offset for tp, future in futures.items()}


def _offsets(consumer: Consumer, topic: str, point: Point, earliest: dict[int, int], latest: dict[int, int]) -> dict[int, int]:
    if point.offset is not None:
        return {lane: min(max(point.offset, earliest[lane]), latest[lane]) for lane in earliest}
    try:
        found = consumer.offsets_for_times([TopicPartition(topic, lane, point.at_ms or 0) for lane in earliest], ANSWER_SECONDS)
    except KafkaException as error:
        raise ReplayError(f"{topic}: the broker does not say where that time is: {error.args[0].str()}") from error
    at = {tp.partition: tp.offset for tp in found}
    return {lane: min(at[lane], latest[lane]) if at[lane] >= 0 else latest[lane] for lane in earliest}
