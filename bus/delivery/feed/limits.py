"""What one agency may take, so that none takes another's share: requests by the second, and how much of it at one time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

BURST_SECONDS = 2.0
"""Who was silent may ask for as much at once as is allowed in so long."""


class TooMuch(Exception):
    """Refused for now; `retry_seconds`, a whole number from 1, says when to come again."""

    def __init__(self, message: str, retry_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_seconds = max(1, math.ceil(retry_seconds))


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time. `filled_at`: seconds of the caller's clock."""

    per_second: float
    most: float
    tokens: float
    filled_at: float

    def take(self, now: float) -> float:
        """0 when there was a token; else the seconds until there is one."""
        self.tokens = min(self.most, self.tokens + max(0.0, now - self.filled_at) * self.per_second)
        self.filled_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.per_second


class Limits:
    """Of all agencies. `at_once`: what -> how many one agency may have at a time. Memory: a bucket for each agency that asked."""

    def __init__(self, per_second: float, at_once: Mapping[str, int], clock: Callable[[], float]) -> None:
        self._per_second, self._at_once, self._clock = per_second, at_once, clock
        self._buckets: dict[str, Bucket] = {}
        self._held: Counter[tuple[str, str]] = Counter()

    def request(self, agency: str) -> None:
        """Raises TooMuch."""
        now = self._clock()
        most = max(1.0, self._per_second * BURST_SECONDS)
        bucket = self._buckets.setdefault(agency, Bucket(self._per_second, most, most, now))
        if wait := bucket.take(now):
            raise TooMuch(f"More than {self._per_second:g} requests a second: come again later", wait)

    @contextmanager
    def holding(self, agency: str, what: str) -> Iterator[None]:
        """Raises TooMuch when the agency has all that it may have."""
        if self._held[agency, what] >= self._at_once[what]:
            raise TooMuch(f"More than {self._at_once[what]} {what} at a time: end one, or come again later")
        self._held[agency, what] += 1
        try:
            yield
        finally:
            self._held[agency, what] -= 1
            if not self._held[agency, what]:
                del self._held[agency, what]

    def held(self, what: str) -> int:
        """Over all agencies."""
        return sum(number for (_, one), number in self._held.items() if one == what)
