"""Laws of the lag: 0 when caught up, the age of what was captured last otherwise, and never still while nothing gets on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.capture.lag import CAUGHT_UP_MS, Lag

TIMES = st.integers(1, 10**13)
PAUSES = st.integers(0, 10**9)
STEPS = st.lists(st.tuples(PAUSES, st.none() | st.integers(-10_000, 10**9)), max_size=8)
"""(milliseconds that pass, None: a contact, otherwise by how much the commit that is then captured is older)."""


class Clock:
    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def after(steps: list[tuple[int, int | None]], begin: int) -> tuple[Clock, Lag]:
    clock = Clock(begin)
    lag = Lag(clock)
    for passed, age in steps:
        clock.now_ms += passed
        lag.contact() if age is None else lag.captured(clock.now_ms - age)
    return clock, lag


@given(TIMES, STEPS, st.integers(CAUGHT_UP_MS + 1, 10**9), st.integers(1, 10**9))
def test_while_the_database_is_away_it_grows_with_time_whatever_was_before(
    begin: int, steps: list[tuple[int, int | None]], away: int, longer: int
) -> None:
    clock, lag = after(steps, begin)
    clock.now_ms += 10_000 + away  # the database's clock may be ahead by as much as STEPS say
    first = lag.seconds()
    clock.now_ms += longer
    assert first >= away / 1000
    assert abs(lag.seconds() - first - longer / 1000) < 1e-3


@given(TIMES, STEPS, st.integers(0, CAUGHT_UP_MS))
def test_caught_up_is_exactly_0(begin: int, steps: list[tuple[int, int | None]], since: int) -> None:
    clock, lag = after([*steps, (0, None)], begin)
    clock.now_ms += since
    assert lag.seconds() == 0


@given(TIMES, STEPS, st.integers(0, 10**9))
def test_behind_it_is_the_age_of_the_commit_captured_last(begin: int, steps: list[tuple[int, int | None]], age: int) -> None:
    _, lag = after([*steps, (0, age)], begin)
    assert lag.seconds() == age / 1000


@given(TIMES)
def test_a_database_that_was_never_reached_is_as_far_behind_as_capture_is_old(begin: int) -> None:
    clock, lag = after([], begin)
    clock.now_ms += 90_000
    assert lag.seconds() == 90
