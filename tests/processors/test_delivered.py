"""The law of committing: never past a record that is not done, and never held up by offsets nobody was given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.processors.delivered import Delivered


@given(st.lists(st.integers(1, 6), max_size=40), st.data())
def test_committed_up_to_the_first_record_that_is_not_done(steps: list[int], data: st.DataObject) -> None:
    """Offsets with holes of any width, from 0 on; records done in any order, commits at any moment."""
    offsets = [sum(steps[:n]) for n in range(len(steps))]
    delivered, done, committed, given_ = Delivered(), set[int](), 0, list[int]()
    for offset in offsets:
        delivered.add("lane", offset)
        given_.append(offset)
        open_ = [o for o in given_ if o not in done]
        done |= set(data.draw(st.lists(st.sampled_from(open_), unique=True)))
        if settled := delivered.settle("lane", done - set(range(committed))):
            committed = settled[-1] + 1
        first_open = next((o for o in given_ if o not in done), None)
        last_done = max((o for o in given_ if first_open is None or o < first_open), default=-1)
        assert committed == last_done + 1


def test_lanes_do_not_mix_and_a_new_beginning_forgets() -> None:
    delivered = Delivered()
    delivered.add("a", 5)
    delivered.add("b", 9)
    assert delivered.settle("a", {5, 9}) == [5]
    delivered.clear()
    assert delivered.settle("b", {9}) == []
