"""A lane's topics as lists, for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from bus.ledger.entries import Entry


class Memory:
    """A tape over a copy. `copy`: topic -> entries; what it does not name is not open."""

    def __init__(self, lane: int, copy: Mapping[str, Sequence[Entry]]) -> None:
        self.lane, self._left = lane, {topic: deque(entries) for topic, entries in copy.items()}

    def next(self, topic: str, doubt: bool = False) -> Entry | None:
        left = self._left[topic]
        return left.popleft() if left else None

    def back(self, topic: str, entries: Iterable[Entry]) -> None:
        self._left[topic].extendleft(reversed(list(entries)))

    def is_open(self, topic: str) -> bool:
        return topic in self._left

    def left(self, topic: str) -> list[Entry]:
        """What still stands there."""
        return list(self._left[topic])
