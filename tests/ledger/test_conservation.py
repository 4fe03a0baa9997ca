"""The ledger of one lane that begins in time: what was decided before is nobody's, what was decided from then on is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bus.core import topics
from bus.ledger.collect import LOOK_AHEAD
from bus.ledger.conservation import LaneWalk, Scope
from bus.ledger.entries import Captured, Delivered, Entry, Letter, Line, Verified
from bus.ledger.sums import Books
from tests.ledger.memory import Memory

DATASET, AGREEMENT = "civil.birth", "tax.taxpayers"
INPUT = f"change.{DATASET}"
VERIFIED, DEAD, AGENCY = topics.verified(DATASET), topics.dead(DATASET), topics.agency(AGREEMENT)
Copy = dict[str, list[Any]]


def event_id(at: int) -> bytes:
    return at.to_bytes(16, "big")


def line(first: int, end: int, dead: int = 0) -> Line:
    """Inputs [first, end), of which so many died and the others were delivered: `seq` is the input's offset and one."""
    good = end - first - dead
    content: dict[str, Any] = {
        "change": None,
        "inputs": [{"topic": INPUT, "first_offset": first, "next_offset": end, "events": end - first, "dead": dead}],
        "outcomes": [{"agreement": AGREEMENT, "dataset": DATASET, "outcome": "DELIVERED", "count": good}] if good else [],
        "deliveries": [{"agreement": AGREEMENT, "first_seq": first + 1, "last_seq": end}] if good else [],
        "past": [],
        "past_outcomes": [],
    }
    return Line(first, content)


def copied(start: int, end: int) -> Copy:
    """Input from the first line's offset on; outputs from offset 0 on, as they stand where they are opened somewhat earlier."""
    return {
        INPUT: [Captured(at, event_id(at), False) for at in range(start, end)],
        VERIFIED: [Verified(at, event_id(at), ((AGREEMENT, "DELIVERED"),)) for at in range(end)],
        DEAD: [],
        AGENCY: [Delivered(at, event_id(at), at + 1, b"", DATASET) for at in range(end)],
    }


def ledger(copy: Copy, lines: Sequence[Line], since: bool = True) -> Books:
    """As of a time, every output may hold what is older."""
    books = Books()
    begins: Callable[[Line], list[str]] = lambda one: [VERIFIED, DEAD, AGENCY] if one is lines[0] else []  # noqa: E731
    scope = Scope({INPUT: DATASET}, frozenset([AGREEMENT]), lambda *_: None, "population.person")
    if since:
        scope.begins = begins
    walk = LaneWalk(Memory(0, copy), books, scope)
    ends: dict[str, int] = dict.fromkeys(copy, 1 << 62)
    for one in lines:
        walk.take(one)
        walk.leftovers(ends)
    walk.close(ends)
    return books


def named(books: Books) -> list[tuple[str, str]]:
    return [(one.kind, one.topic) for one in books.findings]


@pytest.mark.parametrize("before", [0, 1, LOOK_AHEAD + 1])
def test_what_was_decided_before_the_first_line_is_nobodys_however_much_it_is(before: int) -> None:
    books = ledger(copied(before, before + 20), [line(before, before + 10), line(before + 10, before + 20)])
    assert books.clean, books.told()["differences"][:3]
    assert books.of(DATASET).decided == books.between(DATASET, AGREEMENT).delivered == 20


def test_from_the_beginning_on_nothing_is_older() -> None:
    """The same records, in a ledger of everything: each of those before the first line is one too many."""
    books = ledger(copied(3, 23), [line(3, 13), line(13, 23)], since=False)
    assert sorted(named(books)) == [("repeated", AGENCY)] * 3 + [("unexplained", VERIFIED)] * 3


def without(entries: list[Entry], gone: range) -> list[Entry]:
    return [one for one in entries if one.offset not in gone]


@pytest.mark.parametrize("before", [0, 5, LOOK_AHEAD + 1])
def test_a_first_line_that_lost_everything_is_all_that_is_named(before: int) -> None:
    """More stands behind it than is ever looked at beyond what does not belong."""
    end = before + 4 * LOOK_AHEAD
    copy, gone = copied(before, end), range(before, before + 10)
    copy[VERIFIED], copy[AGENCY] = without(copy[VERIFIED], gone), without(copy[AGENCY], gone)
    books = ledger(copy, [line(before, before + 10), *(line(at, at + 10) for at in range(before + 10, end, 10))])
    assert {kind for kind, _ in named(books)} == {"not_verified", "audit", "missing"}
    assert sum(kind == "not_verified" for kind, _ in named(books)) == 10
    assert sum(kind == "missing" for kind, _ in named(books)) == 10
    assert books.of(DATASET).decided == books.between(DATASET, AGREEMENT).delivered == end - before - 10


def test_a_record_too_many_among_those_of_the_range_is_named_though_older_ones_are_not() -> None:
    copy = copied(5, 25)
    copy[AGENCY].insert(20, copy[AGENCY][2]._replace(offset=100))
    copy[VERIFIED].insert(20, Verified(100, event_id(100), ()))
    assert sorted(named(ledger(copy, [line(5, 15), line(15, 25)]))) == [("repeated", AGENCY), ("unexplained", VERIFIED)]
