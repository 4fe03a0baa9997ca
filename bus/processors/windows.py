"""Tumbling windows that any worker can count again from the log, so that nothing is lost or counted twice.

An event belongs to the window of its record's timestamp. Counts live in memory and belong to one generation of the
consumer group: after each assignment reading begins at `start_at`, two windows back, and counting begins afresh.
A lane's offsets only grow within a generation, so a record that comes a second time is known by its offset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

Lane = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window: begin and end in Unix seconds (end exclusive) and what was counted in it."""

    begin: float
    end: float
    counts: Counter[Hashable]


class TumblingWindows:
    """All times in Unix seconds.

    width_seconds: length of a window; windows begin at its multiples.
    grace_seconds: how long after its end a window waits for the last events before it closes. While older events than
        that keep arriving the reader is behind, and windows close as the events' own time passes their end.
    """

    def __init__(self, width_seconds: float = 60.0, grace_seconds: float = 5.0) -> None:
        self.width_seconds, self.grace_seconds = width_seconds, grace_seconds
        self._renew(-1, 0.0)

    def _renew(self, generation: int, now: float) -> None:
        self._generation, self._since = generation, now
        self._next: dict[Lane, int] = {}
        self._counts: dict[float, Counter[Hashable]] = {}
        self._oldest: dict[int, float] = {}

    def start_at(self, now: float) -> float:
        """Where reading has to begin so that the last closed window is whole."""
        return self._floor(now - self.grace_seconds) - self.width_seconds

    def observe(self, generation: int, now: float) -> None:
        """Take notice of the consumer's present generation."""
        if generation > self._generation:
            self._renew(generation, now)

    def add(self, generation: int, lane: Lane, offset: int, at: float, now: float, what: Iterable[Hashable]) -> bool:
        """Count one event once. False if it was counted before or comes from a generation that is over."""
        self.observe(generation, now)
        if generation < self._generation or offset < self._next.get(lane, 0):
            return False
        self._next[lane] = offset + 1
        tick = int(now / self.grace_seconds)
        self._oldest[tick] = min(at, self._oldest.get(tick, at))
        self._counts.setdefault(self._floor(at), Counter()).update(what)
        return True

    def closed(self, now: float) -> Window | None:
        """The last closed window, or None while the reader has not had time to find out where it stands."""
        if self._generation < 0 or now < self._since + 2 * self.grace_seconds:
            return None
        end = self._floor(self._watermark(now))
        begin = end - self.width_seconds
        self._counts = {b: c for b, c in self._counts.items() if b >= begin}
        return Window(begin, end, self._counts.get(begin, Counter()))

    def behind_seconds(self, now: float) -> float:
        """How far the newest closed window lags the clock's: 0 when the reader keeps up."""
        return max(0.0, now - self.grace_seconds - self._watermark(now))

    def _watermark(self, now: float) -> float:
        tick = int(now / self.grace_seconds)
        self._oldest = {t: at for t, at in self._oldest.items() if t >= tick - 1}
        return min([now - self.grace_seconds, *self._oldest.values()])

    def _floor(self, at: float) -> float:
        return at // self.width_seconds * self.width_seconds
