"""Taking from a topic what an audit line speaks of."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bus.ledger import collect
from bus.ledger.entries import Delivered, Verified
from tests.ledger.memory import Memory

TOPIC = "agency.tax.taxpayers"


def tape_of(seqs: Iterable[int]) -> Memory:
    return Memory(0, {TOPIC: [Delivered(at, b"", seq, b"", "") for at, seq in enumerate(seqs)]})


def taken(tape: Memory, numbers: range, begun: bool) -> list[int]:
    later = None if begun else lambda seq: bool(seq >= numbers.stop)
    got = collect.collect(tape, TOPIC, numbers, len(numbers), lambda entry: int(entry.seq), later=later)
    return [one.seq for one in got.found]


def left(tape: Memory) -> list[int]:
    return [one.seq for one in tape.left(TOPIC)]


@pytest.mark.parametrize(
    "before", [0, 1, collect.LOOK_AHEAD - 1, collect.LOOK_AHEAD, 3 * collect.LOOK_AHEAD, collect.LOOK_BACK + 7]
)
def test_where_a_ledger_begins_in_time_any_number_of_older_records_may_stand_before(before: int) -> None:
    """Outputs are opened a minute before the first audit line, and a minute may hold many."""
    tape = tape_of(range(1, before + 21))
    assert taken(tape, range(before + 1, before + 11), begun=False) == [*range(before + 1, before + 11)]
    assert left(tape) == [*range(before + 11, before + 21)]


def test_a_record_that_is_missing_is_given_up_after_a_bound_and_nothing_is_lost_of_what_was_looked_at() -> None:
    tape = tape_of([1, *range(3, 3 * collect.LOOK_AHEAD)])
    assert taken(tape, range(1, 3), begun=True) == [1]
    assert left(tape) == [*range(3, 3 * collect.LOOK_AHEAD)]


def test_what_a_ledger_begins_with_and_is_missing_leaves_the_next_ones_where_they_are() -> None:
    tape = tape_of([1, *range(3, 3 * collect.LOOK_AHEAD)])
    assert taken(tape, range(1, 3), begun=False) == [1]
    assert left(tape) == [*range(3, 3 * collect.LOOK_AHEAD)]
    assert taken(tape_of(range(5, 50)), range(1, 3), begun=False) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_first_line_of_which_nothing_is_there_takes_nothing_from_later_ones_however_many_there_are(begun: bool) -> None:
    """Its deliveries were lost, or deleted by retention: only they may be told as missing."""
    tape = tape_of(range(11, collect.LOOK_BACK + 50_011))
    assert taken(tape, range(1, 11), begun) == []
    assert left(tape) == [*range(11, collect.LOOK_BACK + 50_011)]
    assert taken(tape, range(11, 21), begun) == [*range(11, 21)]
    assert left(tape) == [*range(21, collect.LOOK_BACK + 50_011)]


def test_the_search_for_a_beginning_reads_no_further_than_a_bound_beyond_the_first_record_of_a_later_line() -> None:
    """On a topic that is written to, the end may never come."""
    asked = 0

    class Counted(Memory):
        def next(self, topic: str, doubt: bool = False) -> object:
            nonlocal asked
            asked += 1
            return super().next(topic, doubt)

    before = 3 * collect.LOOK_AHEAD
    seqs = [*range(1, before + 1), *range(before + 11, 20 * collect.LOOK_AHEAD)]
    tape = Counted(0, {TOPIC: [Delivered(at, b"", seq, b"", "") for at, seq in enumerate(seqs)]})
    assert taken(tape, range(before + 1, before + 11), begun=False) == []
    assert asked <= before + collect.LOOK_AHEAD
    assert left(tape) == seqs[before:], "what is older is passed over, what is later stays"


def test_where_no_later_record_can_be_told_the_search_ends_with_the_topic_and_what_was_seen_last_stays() -> None:
    """Verified events bear no number: which are later is known of the next few alone."""
    records = [Verified(at, at.to_bytes(16, "big"), ()) for at in range(collect.LOOK_BACK + 50)]
    tape = Memory(0, {"verified.civil.birth": records})
    got = collect.collect(tape, "verified.civil.birth", {b"gone"}, 1, lambda one: bytes(one.event_id), later=lambda _: False)
    assert (got.found, got.before, got.begun) == ([], [], False)
    assert tape.left("verified.civil.birth") == records[50:]
