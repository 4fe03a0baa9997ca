"""Laws of pacing: lanes keep their order, time order where lanes allow it, distances divided by the speed."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.replay.pace import Merge, Pacer

LANES = st.dictionaries(st.integers(0, 5), st.lists(st.integers(0, 50), max_size=30), min_size=1, max_size=4)


def _merged(lanes: dict[int, list[int]], bound: int, chunk: int) -> tuple[list[tuple[int, int]], int]:
    """(lane, place in lane) in the order of leaving, and the most records held of one lane."""
    merge: Merge[tuple[int, int]] = Merge(lanes, bound)
    place, out, most, paused = dict.fromkeys(lanes, 0), [], 0, set[int]()
    while not merge.done:
        while merge.peek_ms() is not None:
            out.append(merge.take())
        for lane, times in lanes.items():
            for _ in range(chunk if lane not in paused else 0):
                if place[lane] < len(times):
                    merge.put(lane, times[place[lane]], (lane, place[lane]))
                    place[lane] += 1
            if place[lane] == len(times):
                merge.close(lane)
        most = max([most, *(place[lane] - sum(o[0] == lane for o in out) for lane in lanes)])
        paused = (paused | merge.full()) - merge.starved()
    return out, most


@given(LANES, st.integers(1, 8), st.integers(1, 5))
def test_every_record_leaves_once_and_lanes_keep_their_order(lanes: dict[int, list[int]], bound: int, chunk: int) -> None:
    out, most = _merged(lanes, bound, chunk)
    for lane, times in lanes.items():
        assert [place for at, place in out if at == lane] == list(range(len(times)))
    assert most <= bound + chunk, "a lane that waits for the others is held back"


@given(LANES, st.integers(1, 8), st.integers(1, 5))
def test_lanes_in_time_order_leave_in_time_order(lanes: dict[int, list[int]], bound: int, chunk: int) -> None:
    ordered = {lane: sorted(times) for lane, times in lanes.items()}
    out, _ = _merged(ordered, bound, chunk)
    assert [ordered[lane][place] for lane, place in out] == list(heapq.merge(*ordered.values()))


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=20), st.sampled_from([0.5, 1.0, 10.0]))
def test_waiting_as_told_puts_every_record_at_its_distance_from_the_first(times: list[int], speed: float) -> None:
    now = 100.0
    pacer = Pacer(speed, lambda: now)
    for at in (times := sorted(times)):
        now += pacer.wait_seconds(at)
        assert now == pytest.approx(100.0 + (at - times[0]) / 1000 / speed)


def test_a_record_that_is_late_or_goes_back_in_time_never_waits() -> None:
    now = 0.0
    pacer = Pacer(1.0, lambda: now)
    assert pacer.wait_seconds(5_000) == 0
    now = 10.0
    assert pacer.wait_seconds(6_000) == 0
    assert pacer.wait_seconds(1_000) == 0
    assert pacer.wait_seconds(16_000) == pytest.approx(1.0)
