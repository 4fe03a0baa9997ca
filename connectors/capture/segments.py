"""Which point of the log a row was read at, when a snapshot was taken in several runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.capture.columns import Binding, blank_padded
from connectors.capture.progress import Segment


class KeyOrder:
    """Compares keys of one table as the snapshot's ORDER BY does: numbers as such, the rest by its bytes."""

    def __init__(self, binding: Binding, types: Mapping[str, int]) -> None:
        """`types`: column -> base type oid."""
        self.names = tuple(binding.fields[place].name for place in binding.key)
        self._numbers = tuple(binding.kinds[place] == "integer" for place in binding.key)
        self._padded = tuple(blank_padded(types[name]) for name in self.names)

    def sortable(self, key: tuple[str, ...]) -> tuple[Any, ...]:
        """A value that sorts as `key` does."""
        return tuple(
            int(text) if number else (text.rstrip(" ") if padded else text).encode()
            for text, number, padded in zip(key, self._numbers, self._padded, strict=True)
        )


class Segments:
    """The segments of one table. At least one, the last without an upper bound: the snapshot is done."""

    def __init__(self, binding: Binding, types: Mapping[str, int], segments: tuple[Segment, ...]) -> None:
        self._order = KeyOrder(binding, types)
        self._bounds = [(s.upper and self._order.sortable(s.upper), s.lsn) for s in segments]

    def point(self, row: Mapping[str, bytes | None]) -> int:
        """The consistent point of the row's segment; `row`: column -> raw value, with the primary key's at least."""
        key = self._order.sortable(tuple((row[name] or b"").decode() for name in self._order.names))
        return next(lsn for upper, lsn in self._bounds if upper is None or key <= upper)

    def first(self) -> int:
        """The oldest point: before it the table had not been read at all."""
        return min(lsn for _, lsn in self._bounds)
