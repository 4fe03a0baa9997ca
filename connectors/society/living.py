"""Life in the seeded society: events at a given rate, each a chain of transactions in the databases it touches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime

from connectors.society.agency import SocietyError
from connectors.society.life import Life

_TICK_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 0.05
_FORGIVEN_SECONDS = 1.0
"""After a longer stall the rest is not caught up, so that one stall does not become a flood."""


def live(
    dsns: Mapping[str, str],
    rate: float,
    seconds: float | None,
    seed: int,
    tick: Callable[[Mapping[str, int]], None],
    stop: Callable[[], bool],
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, int]:
    """Let life go on at `rate` row changes a second over all databases, for `seconds` or until `stop()`.

    `dsns` are owner DSNs by domain. Returns committed row changes by dataset; `tick` gets the same so far, five times a
    second. What has begun is brought to its end before it returns, which takes some seconds more (at once after `stop()`).
    The society has its own time, which the clock only slows down: what happens follows from the seed, the rate and what the
    databases hold. Raises SocietyError when a database is empty, or away for a minute.
    """
    if rate <= 0:
        raise SocietyError(f"the rate is row changes a second and above 0, not {rate}")
    with closing(Life(dsns, rate, seed, wall, pause)) as life:
        pace = _Pace(clock, pause)
        ticked = clock()
        unfinished = True
        while unfinished:
            if stop() or (seconds is not None and life.now >= seconds):
                unfinished = life.finish(at_once=stop())
            else:
                life.beat()
            pace.hold(life.now, stop)
            if clock() - ticked >= _TICK_SECONDS:
                ticked = clock()
                tick(dict(life.done))
        tick(dict(life.done))
        return dict(life.done)


class _Pace:
    """Holds the society's time to the clock's."""

    def __init__(self, clock: Callable[[], float], pause: Callable[[float], None]) -> None:
        self._clock, self._pause = clock, pause
        self._start = clock()

    def hold(self, society_seconds: float, stop: Callable[[], bool]) -> None:
        ahead = self._start + society_seconds - self._clock()
        if ahead < -_FORGIVEN_SECONDS:
            self._start -= ahead + _FORGIVEN_SECONDS
        while ahead > 0 and not stop():
            self._pause(min(ahead, _LONGEST_PAUSE_SECONDS))
            ahead = self._start + society_seconds - self._clock()
