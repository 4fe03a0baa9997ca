"""One batch, without a broker: what it samples, and what it finds in the offsets of what it is given."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bus.avro.frame import Malformed
from bus.engine.batch import Batch
from bus.engine.lanes import Lane, LaneState
from bus.engine.meter import source_ts_ms
from bus.engine.plan import Plan
from bus.engine.policy import Policy

LANES = (0, 1)
TOPICS = ("change.a.b", "change.c.d")
BAD = b"bad"


class Read:
    """A record as the client hands it over."""

    def __init__(self, topic: str, lane: int, offset: int, value: bytes = b"good") -> None:
        self._topic, self._lane, self._offset, self._value = topic, lane, offset, value

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._lane

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return bytes(16)

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def value(self) -> bytes:
        return self._value


def handle(value: bytes | None, *_: Any) -> bytes:
    if value == BAD:
        raise Malformed
    return b"\0"


def older(_: bytes) -> bytes:
    raise Malformed


def batch(inputs: dict[str, int] | None = None) -> Batch:
    """One whose lanes stand at `inputs` and whose outputs go nowhere."""
    plans = {topic: Plan(topic.removeprefix("change."), topic, (), handle, "", older) for topic in TOPICS}
    held = {lane: Lane.of(LaneState({}, inputs or {}), ()) for lane in LANES}
    return Batch(Policy((), plans, 1, "r"), held, lambda *_: None, 0)


def take(made: Batch, *chunks: list[Read]) -> Batch:
    for chunk in chunks:
        made.take(chunk, lambda _: None)
    return made


PLACES = st.tuples(st.sampled_from(TOPICS), st.sampled_from(LANES))


@given(st.lists(st.lists(st.tuples(PLACES, st.sampled_from([BAD, b"1", b"2", b"3"])), max_size=6), max_size=4))
def test_the_last_good_record_of_each_run_is_its_sample_and_never_a_dead_letter(
    chunks: list[list[tuple[tuple[str, int], bytes]]],
) -> None:
    made = take(batch(), *([Read(*place, 0, value) for place, value in chunk] for chunk in chunks))
    last = {place: b"" for chunk in chunks for place, _ in chunk}
    last |= {place: value for chunk in chunks for place, value in chunk if value != BAD}
    assert {place: run.sample for place, run in made.runs.items()} == last


def test_bytes_without_end_are_no_time_and_cost_none() -> None:
    endless = b"\xff" * 4_000_000
    assert source_ts_ms(endless) is None
    before = bytes(21 + 9)  # header, event id, and nine numbers and lengths of 0
    assert source_ts_ms(before + endless) is None
    assert source_ts_ms(before + b"\xff" * 9 + b"\1") == -(2**63)


STEPS = st.sampled_from([-3, -1, 0, 1, 2, 5])


@given(st.integers(3, 9), st.booleans(), st.lists(st.tuples(STEPS, st.integers(1, 3)), min_size=1, max_size=6))
def test_each_chunk_that_does_not_go_on_where_the_last_one_ended_is_a_joint(
    expected: int, recorded: bool, chunks: list[tuple[int, int]]
) -> None:
    """But for one offset, which a commit marker takes; the first record is one always, whatever the lane record knows."""
    place = TOPICS[0], LANES[0]
    made = batch({place[0]: expected} if recorded else {})
    at, joints = expected, []
    for number, (step, count) in enumerate(chunks):
        first = at + step
        if number == 0 or step not in (0, 1):
            joints.append((*place, at, first))
        take(made, [Read(*place, first + n) for n in range(count)])
        at = first + count
    assert list(made.joints({place: expected})) == joints
