"""Records of several lanes in the order of their timestamps, at the pace they had or a multiple of it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Merge(Generic[T]):
    """A merge of lanes by timestamp. A lane's own order is never changed, even where its timestamps go back.

    A record can leave once every lane that is still open has one waiting. `full` and `starved` tell the reader which
    lanes to pause and resume, so that no more than about `bound` records of a lane are held.
    """

    def __init__(self, lanes: Iterable[int], bound: int = 1_000) -> None:
        self._bound = bound
        self._waiting: dict[int, deque[tuple[int, T]]] = {lane: deque() for lane in lanes}
        self._heads: list[tuple[int, int]] = []
        self._missing = set(self._waiting)
        self._open = set(self._waiting)

    def put(self, lane: int, at_ms: int, record: T) -> None:
        self._waiting[lane].append((at_ms, record))
        if len(self._waiting[lane]) == 1:
            heapq.heappush(self._heads, (at_ms, lane))
            self._missing.discard(lane)

    def close(self, lane: int) -> None:
        """Nothing more comes from this lane."""
        self._open.discard(lane)
        self._missing.discard(lane)

    def peek_ms(self) -> int | None:
        """The timestamp of the record that `take` would give, or None while a lane's next record is not known."""
        return None if self._missing or not self._heads else self._heads[0][0]

    def take(self) -> T:
        """The next record. Only after `peek_ms` gave a time."""
        _, lane = heapq.heappop(self._heads)
        waiting = self._waiting[lane]
        _, record = waiting.popleft()
        if waiting:
            heapq.heappush(self._heads, (waiting[0][0], lane))
        elif lane in self._open:
            self._missing.add(lane)
        return record

    def full(self) -> set[int]:
        return {lane for lane in self._open if len(self._waiting[lane]) >= self._bound}

    def starved(self) -> set[int]:
        return {lane for lane in self._open if len(self._waiting[lane]) <= self._bound // 4}

    @property
    def done(self) -> bool:
        return not self._open and not self._heads


class Pacer:
    """Says how long to wait before a record may go out, so that records keep their distances divided by `speed`.

    clock: seconds, monotonic. The first record asked about sets the origin.
    """

    def __init__(self, speed: float, clock: Callable[[], float]) -> None:
        self._speed, self._clock = speed, clock
        self._origin: tuple[float, int] | None = None

    def wait_seconds(self, at_ms: int) -> float:
        """0 when it is due or late."""
        now = self._clock()
        if self._origin is None:
            self._origin = now, at_ms
        began, first_ms = self._origin
        return max(0.0, began + (at_ms - first_ms) / 1000 / self._speed - now)
