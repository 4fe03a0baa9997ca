"""How far capture is behind its database: told when it is asked, so that it grows also while nothing gets on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CAUGHT_UP_MS: Final = 2_000
"""The stream says so every half second while nothing comes: heard this lately, it still holds."""


class Lag:
    """Kept by one thread and read by another; every value is one int, set at once. `now_ms`: Unix milliseconds."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._captured_ms = 0
        self._contact_ms = now_ms()

    def captured(self, commit_ms: int) -> None:
        """Kafka has everything up to the commit of this time."""
        self._captured_ms = commit_ms
        self._contact_ms = 0

    def contact(self) -> None:
        """The database answers and has nothing more, or hands out its snapshot."""
        self._contact_ms = self._now_ms()

    def seconds(self) -> float:
        """0 when caught up; otherwise the age of the commit captured last, or the time since the last contact."""
        now = self._now_ms()
        contact = self._contact_ms
        if contact:
            return 0.0 if now - contact <= CAUGHT_UP_MS else (now - contact) / 1000
        return max(0, now - self._captured_ms) / 1000
