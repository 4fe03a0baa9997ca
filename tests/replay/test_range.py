"""Laws of the command's words: what is a time, what an offset, and that nothing outside the sandbox is a target."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.replay.extent import LATEST, Point, ReplayError, near, parse_point, refusal
from bus.replay.sandbox import KEEP_MS, check_name, retention_ms

NOW = datetime(2025, 7, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("beginning", Point(offset=0)),
        ("1200", Point(offset=1200)),
        ("now", Point(offset=LATEST)),
        ("15m", Point(at_ms=1751371200000 - 900_000)),
        ("2d", Point(at_ms=1751371200000 - 172_800_000)),
        ("2025-07-01T08:00+07:00", Point(at_ms=1751331600000)),
        ("2025-07-01T01:00:00Z", Point(at_ms=1751331600000)),
    ],
)
def test_points(text: str, point: Point) -> None:
    assert parse_point(text, NOW) == point


@given(st.one_of(st.text(max_size=20), st.from_regex(r"[0-9]{1,30}[smhd]?", fullmatch=True)))
def test_any_other_text_is_refused_with_what_is_allowed(text: str) -> None:
    point = None
    with suppress(ReplayError):
        point = parse_point(text, NOW)
    if point is None:
        with pytest.raises(ReplayError, match="neither a time nor an offset"):
            parse_point(text, NOW)
    else:
        assert (point.offset is None) != (point.at_ms is None)


@given(st.text(max_size=30))
def test_a_target_outside_the_sandbox_is_refused(name: str) -> None:
    if not name.startswith("sandbox."):
        with pytest.raises(ReplayError, match="only"):
            check_name(name)


@pytest.mark.parametrize(
    "name", ["sandbox.", "sandbox", "Sandbox.x", "change.civil.birth", "sandbox.a b", "sandbox.ô", "sandbox.x\n", "x.sandbox.y"]
)
def test_names_that_only_look_like_a_sandbox(name: str) -> None:
    with pytest.raises(ReplayError):
        check_name(name)


def test_near_names_are_offered() -> None:
    assert "'change.civil.birth'" in near("change.civil.brith", {"change.civil.birth": 1, "bus.audit": 2})
    assert "bus topics" in near("zzz", {"change.civil.birth": 1})


KNOWN = {"change.civil.birth": 1, "verified.civil.birth": 1, "agency.tax.taxpayers": 1, "_schemas": 1}


@pytest.mark.parametrize("topic", ["bus.audit", "bus.lanes", "bus.positions", "dead.civil.birth", "population.person", "zzz"])
def test_a_topic_that_no_replay_may_read_is_refused_with_what_may_be_and_where_it_can_be_seen(topic: str) -> None:
    told = refusal(topic, {"_schemas": 1})
    assert "only change.*, verified.*, agency.*, sandbox.*" in told
    assert f"`bus tail {topic}`" in told


def test_a_slip_in_a_topics_name_is_answered_with_the_nearest() -> None:
    assert "did you mean 'verified.civil.birth'" in refusal("verifed.civil.birth", KNOWN)
    assert "did you mean 'verified.civil.birth'" in refusal("verified.civil.brith", KNOWN)
    assert "no topic 'verified.x'" in refusal("verified.x", KNOWN)


DAY_MS = 86_400_000
TIMES = st.lists(st.integers(0, 400 * DAY_MS), min_size=1)


@given(st.integers(0, 400 * DAY_MS), TIMES)
def test_every_record_of_a_sandbox_stays_a_week_and_none_for_ever(now: int, ages: list[int]) -> None:
    """Kafka deletes a record when its timestamp is older than the retention."""
    times = [now - age for age in ages]
    retention = retention_ms(min(times), now)
    for time in times:
        deleted = time + retention
        assert KEEP_MS <= deleted - now <= KEEP_MS + (max(times) - min(times)) + DAY_MS / 24
