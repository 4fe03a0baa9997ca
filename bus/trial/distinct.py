"""How many different keys there were, in bounded memory: exactly up to a bound, by an estimate beyond.

Kept are the smallest keys. While all of them fit, their number is the answer. Then the greatest of the k that are kept says
how dense keys lie, for the keys of the bus are keyed hashes and so spread evenly: K. Beyer and others, "On synopses for
distinct-value estimation under multiset operations" (2007), with a standard error of about 1/sqrt(k - 2).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from bus.core.identity import KEY_BYTES

KEPT = 20_000
"""Exact up to so many; beyond, the standard error is 0.7 %. About 3 MB when full."""
_SPACE = 1 << (8 * KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Count:
    """A number of different things. `exact`: else an estimate."""

    number: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.number:,}" if self.exact else f"about {self.number:,}"


@dataclass(slots=True)
class Distinct:
    """Takes keys of KEY_BYTES bytes that are keyed hashes."""

    kept: int = KEPT
    _there: set[int] = field(default_factory=set)
    _greatest: list[int] = field(default_factory=list)
    """The negated keys as a heap: its head is the greatest."""
    _full: bool = False

    def add(self, key: bytes) -> None:
        number = int.from_bytes(key, "big")
        if number in self._there or (self._full and number > -self._greatest[0]):
            return
        self._there.add(number)
        if len(self._there) <= self.kept:
            heapq.heappush(self._greatest, -number)
            return
        self._full = True
        self._there.discard(-heapq.heappushpop(self._greatest, -number))

    def count(self) -> Count:
        if not self._full:
            return Count(len(self._there), exact=True)
        return Count(round((self.kept - 1) * _SPACE / -self._greatest[0]), exact=False)
