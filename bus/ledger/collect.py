"""Taking from a lane's topics what one audit line speaks of, though records may be missing, stand twice or belong to nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from bus.ledger.entries import Entry

LOOK_AHEAD = 1_000
"""Entries that are looked at beyond one that does not belong, before what is looked for is taken for missing."""
LOOK_BACK = 100_000
"""Of what stands before the beginning, how many are kept until it is clear that they are older, so that memory is bounded."""


class Tape(Protocol):
    """One lane's topics. `next`: None at the end; `doubt`: more ought to stand there, so wait a little."""

    lane: int

    def next(self, topic: str, doubt: bool = False) -> Entry | None: ...

    def back(self, topic: str, entries: Iterable[Entry]) -> None: ...

    def is_open(self, topic: str) -> bool: ...


@dataclass(slots=True)
class Collected:
    """`found`: what was wanted, and others if asked for. `before`, `between`: what stood before the first and among them.
    `begun`: whether the topic's beginning is known, so that nothing before it is left on the tape."""

    found: list[Any] = field(default_factory=list)
    before: list[Entry] = field(default_factory=list)
    between: list[Entry] = field(default_factory=list)
    begun: bool = True


def below(tape: Tape, topic: str, end: int, place: Callable[[Entry], int]) -> list[Any]:
    """The next entries, up to the first whose place is not below `end`."""
    found: list[Entry] = []
    while (entry := tape.next(topic)) is not None:
        if place(entry) >= end:
            tape.back(topic, [entry])
            break
        found.append(entry)
    return found


def coming(tape: Tape, topic: str) -> list[Entry]:
    """The next LOOK_AHEAD entries, or as many as there are; they stay on the tape."""
    found = list(islice(iter(lambda: tape.next(topic), None), LOOK_AHEAD))
    tape.back(topic, found)
    return found


def collect(
    tape: Tape,
    topic: str,
    wanted: Container[Any],
    count: int,
    key: Callable[[Entry], Hashable],
    others: int = 0,
    later: Callable[[Any], bool] | None = None,
) -> Collected:
    """`count` entries whose key is wanted, each key once and in whatever order, and `others` with any other key.

    What stands behind the last of them stays on the tape. `later`: given where the topic's beginning is not known, says whether
    a key is that of a later line. Lines follow each other in a topic as in the audit; so any number of older entries may stand
    before the first that is wanted or later, and are passed over, but what stands behind a later one is nobody's to pass over.
    """
    got, keys = Collected(begun=later is None), set[Hashable]()
    more, skipped = 0, deque[Entry](maxlen=LOOK_BACK)
    while len(keys) < count or more < others:
        entry = tape.next(topic, doubt=True)
        if entry is None:
            break
        name = key(entry)
        if name in wanted and name not in keys:
            if got.begun:
                (got.between if got.found else got.before).extend(skipped)
            skipped.clear()
            keys.add(name)
            got.found.append(entry)
            got.begun = True
        elif more < others:
            more += 1
            got.found.append(entry)
            got.begun = True
        else:
            if not got.begun and later is not None and later(name):
                skipped.clear()
                got.begun = True
            skipped.append(entry)
            if got.begun and len(skipped) >= LOOK_AHEAD:
                break
    if skipped:
        tape.back(topic, skipped)
    return got
