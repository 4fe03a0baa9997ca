"""A bounded memory of computed values, used as a dict so that a hit costs one look-up."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
MEMO_ENTRIES = 65_536
KEY_BYTES = 256
"""Longest key that is remembered: what is looked up often is short, and records of long texts must not fill the memory."""


class Memo(dict[K, V]):
    """`memo[key]` is `make(key)`. When full it is emptied: what is in use comes back at once, and nothing has to be ordered.

    Keys are bytes, numbers, or tuples of either.
    """

    def __init__(self, make: Callable[[K], V], entries: int = MEMO_ENTRIES, key_bytes: int = KEY_BYTES) -> None:
        super().__init__()
        self._make, self._entries, self._key_bytes = make, entries, key_bytes

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        if _size(key) > self._key_bytes:
            return value
        if len(self) >= self._entries:
            self.clear()
        self[key] = value
        return value


def _size(key: Hashable) -> int:
    """Bytes of text in a key."""
    if isinstance(key, tuple):
        return sum(map(_size, key))
    return len(key) if isinstance(key, bytes) else 0
