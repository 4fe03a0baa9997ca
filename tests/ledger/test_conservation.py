"""The ledger of one lane that begins in time: what was decided before is nobody's, what was decided from then on is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bus.core import topics
from bus.ledger import collect
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


def scope_of(early: Sequence[str] = ()) -> Scope:
    """`early`: outputs that the first line opens, and that may hold what is older."""
    opened = iter([early])
    return Scope({INPUT: DATASET}, frozenset([AGREEMENT]), lambda *_: None, "population.person", lambda _: next(opened, ()))


def ledger(copy: Copy, lines: Sequence[Line], early: Sequence[str] = (VERIFIED, DEAD, AGENCY)) -> Books:
    books, ends = Books(), dict.fromkeys(copy, 1 << 62)
    walk = LaneWalk(Memory(0, copy), books, scope_of(early))
    for one in lines:
        walk.take(one)
        walk.leftovers(ends)
    walk.close(ends)
    return books


def named(books: Books) -> list[tuple[str, str]]:
    return [(one.kind, one.topic) for one in books.findings]


@pytest.mark.parametrize("before", [0, 1, LOOK_AHEAD + 1])
def test_what_was_decided_before_the_first_line_is_nobodys_however_much_it_is(before: int) -> None:
    copy = copied(before, before + 20)
    copy[DEAD] = [Letter(at, at, "MALFORMED") for at in range(before)]
    books = ledger(copy, [line(before, before + 10), line(before + 10, before + 20)])
    assert books.clean, books.told()["differences"][:3]
    assert books.of(DATASET).decided == books.between(DATASET, AGREEMENT).delivered == 20


def test_from_the_beginning_on_nothing_is_older() -> None:
    """The same records, in a ledger of everything: each of those before the first line is one too many."""
    books = ledger(copied(3, 23), [line(3, 13), line(13, 23)], early=())
    assert sorted(named(books)) == [("repeated", AGENCY)] * 3 + [("unexplained", VERIFIED)] * 3


def without(entries: list[Entry], gone: range) -> list[Entry]:
    return [one for one in entries if one.offset not in gone]


@pytest.mark.parametrize("before", [0, 5, LOOK_AHEAD + 1])
def test_a_first_line_that_lost_everything_is_all_that_is_named(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More stands behind it than is ever looked at beyond what does not belong, and than is kept where nothing tells what is
    older."""
    monkeypatch.setattr(collect, "LOOK_BACK", LOOK_AHEAD + 10)
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


def test_older_events_are_nobodys_where_the_lines_of_the_range_speak_of_none_that_was_verified() -> None:
    """Five good events before the range, one dead letter in it: nothing tells where verified events of the range would begin,
    and none is due."""
    copy = copied(5, 5)
    copy[INPUT], copy[DEAD] = [Captured(5, event_id(5), False)], [Letter(0, 5, "MALFORMED")]
    copy[AGENCY] = []
    books = ledger(copy, [line(5, 6, dead=1)])
    assert books.clean, books.told()["differences"][:3]
    assert (books.of(DATASET).dead.total(), books.of(DATASET).decided) == (1, 0)


def test_outputs_that_no_line_speaks_of_and_that_are_not_opened_for_older_ones_must_be_empty() -> None:
    """A dataset without a line in the range is looked at from the time on at which the range begins."""
    copy = copied(0, 0) | {VERIFIED: [Verified(0, event_id(0), ())]}
    assert named(ledger(copy, [])) == [("unexplained", VERIFIED)]


def test_the_end_of_the_audit_is_not_waited_beyond_for_what_is_older() -> None:
    """`leftovers` asks for further lines as long as an output holds what no line explained; older records never get one."""
    copy = copied(5, 5) | {INPUT: [Captured(5, event_id(5), False)], DEAD: [Letter(0, 5, "MALFORMED")], AGENCY: []}
    walk = LaneWalk(Memory(0, copy), Books(), scope_of([VERIFIED, DEAD]))
    walk.take(line(5, 6, dead=1))
    assert not walk.leftovers(dict.fromkeys([VERIFIED, DEAD, AGENCY], 1 << 62))
