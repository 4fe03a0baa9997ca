"""Taking from a topic what an audit line speaks of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest

from bus.ledger import collect
from bus.ledger.entries import Delivered, Entry


class ListTape:
    """One topic from a list."""

    lane = 0

    def __init__(self, seqs: Iterable[int]) -> None:
        self.left = deque(Delivered(at, b"", seq, b"", "") for at, seq in enumerate(seqs))

    def next(self, topic: str, doubt: bool = False) -> Entry | None:
        return self.left.popleft() if self.left else None

    def back(self, topic: str, entries: Iterable[Entry]) -> None:
        self.left.extendleft(reversed(list(entries)))

    def is_open(self, topic: str) -> bool:
        return True


def taken(tape: ListTape, numbers: range, begun: bool) -> list[int]:
    got = collect.collect(tape, "agency.tax.taxpayers", numbers, len(numbers), lambda entry: int(entry.seq), begun=begun)
    return [one.seq for one in got.found]


@pytest.mark.parametrize(
    "before", [0, 1, collect.LOOK_AHEAD - 1, collect.LOOK_AHEAD, 3 * collect.LOOK_AHEAD, collect.LOOK_BACK + 7]
)
def test_where_a_ledger_begins_in_time_any_number_of_older_records_may_stand_before(before: int) -> None:
    """Outputs are opened a minute before the first audit line, and a minute may hold many."""
    tape = ListTape(range(1, before + 21))
    assert taken(tape, range(before + 1, before + 11), begun=False) == [*range(before + 1, before + 11)]
    assert [one.seq for one in tape.left] == [*range(before + 11, before + 21)]


def test_a_record_that_is_missing_is_given_up_after_a_bound_and_nothing_is_lost_of_what_was_looked_at() -> None:
    tape = ListTape([1, *range(3, 3 * collect.LOOK_AHEAD)])
    assert taken(tape, range(1, 3), begun=True) == [1]
    assert [one.seq for one in tape.left] == [*range(3, 3 * collect.LOOK_AHEAD)]


def test_what_a_ledger_begins_with_and_is_missing_leaves_the_next_ones_where_they_are() -> None:
    tape = ListTape([1, *range(3, 3 * collect.LOOK_AHEAD)])
    assert taken(tape, range(1, 3), begun=False) == [1]
    assert [one.seq for one in tape.left] == [*range(3, 3 * collect.LOOK_AHEAD)]
    assert taken(ListTape(range(5, 50)), range(1, 3), begun=False) == []
