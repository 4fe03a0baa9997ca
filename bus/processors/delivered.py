"""How far a lane may be committed: up to the first record that was delivered to the agents and is not done."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Hashable


class Delivered:
    """Offsets of records in delivery order, per lane. Offsets that were never delivered (ends of transactions, aborted or
    compacted records) hold nothing up. Bounded by what Faust buffers."""

    def __init__(self) -> None:
        self._waiting: defaultdict[Hashable, deque[int]] = defaultdict(deque)

    def add(self, lane: Hashable, offset: int) -> None:
        self._waiting[lane].append(offset)

    def clear(self) -> None:
        """Reading begins again elsewhere; what was delivered before will come again."""
        self._waiting.clear()

    def settle(self, lane: Hashable, done: Collection[int]) -> list[int]:
        """Forget the lane's delivered offsets up to the first one that is not in `done`; those forgotten, in order."""
        waiting, settled = self._waiting[lane], list[int]()
        while waiting and waiting[0] in done:
            settled.append(waiting.popleft())
        return settled
