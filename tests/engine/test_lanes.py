"""The lane record: whoever takes a lane over finds the newest committed one, however much was aborted after it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its own documented name
from hypothesis import given
from hypothesis import strategies as st

from bus.core import topics
from bus.engine import lanes
from bus.engine.client import HumanNeeded
from bus.engine.lanes import Lane, LaneState
from tests.engine.stage import Stage

NAMES = st.text("abc.-", min_size=1, max_size=5)
COUNTS = st.dictionaries(NAMES, st.integers(1, 2**62), max_size=6)


@given(COUNTS, COUNTS)
def test_a_lane_record_reads_back_as_it_was_written(seqs: dict[str, int], inputs: dict[str, int]) -> None:
    state = LaneState(seqs, inputs, len(seqs), "d" * len(inputs))
    assert lanes.decode(lanes.encode(state)) == state


def test_a_record_of_before_there_were_policies_is_one_of_none() -> None:
    assert lanes.decode(b'{"seq": {"a": 1}, "inputs": {"t": 2}}') == LaneState({"a": 1}, {"t": 2}, 0, "")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"seq": {}, "inputs": []}',
        b'{"seq": {"a": -1}, "inputs": {}}',
        b'{"seq": {"a": "1"}, "inputs": {}}',
        b'{"seq": {"a": true}, "inputs": {}}',
        b'{"seq": {"a": 9223372036854775808}, "inputs": {}}',
        b'{"seq": {}, "inputs": {}, "policy": 1}',
        b'{"seq": {}, "inputs": {}, "policy": {"version": "1", "digest": ""}}',
    ],
)
def test_anything_else_is_no_lane_record(value: bytes) -> None:
    with pytest.raises(ValueError):
        lanes.decode(value)


@given(COUNTS, st.lists(NAMES, unique=True, max_size=4), COUNTS)
def test_an_agreement_out_of_use_keeps_its_count_for_when_it_comes_back(
    seqs: dict[str, int], used: list[str], moved: dict[str, int]
) -> None:
    lane = Lane.of(LaneState(seqs, {"t": 1}), tuple(used))
    after = lane.after([n + 1 for n in lane.seqs], moved, 7, "d", lane.past).state()
    assert (after.version, after.digest) == (7, "d")
    assert after.seqs == {**seqs, **{name: seqs.get(name, 0) + 1 for name in used}}
    assert after.inputs == {"t": 1, **moved}


@pytest.fixture
def board(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(stage, monkeypatch)


class Board:
    """A topic of lane records that the test writes itself."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topic = f"lanes-{uuid.uuid4().hex}"
        monkeypatch.setattr(topics, "LANES", self.topic)
        self.config = stage.config
        admin = AdminClient(self.config)
        admin.create_topics([NewTopic(self.topic, 4, 1)])[self.topic].result(20)
        self.producer = Producer(self.config | {"transactional.id": self.topic, "transaction.timeout.ms": 60_000})
        self.producer.init_transactions(20)

    def write(self, lane: int, value: bytes, commit: bool = True) -> None:
        self.producer.begin_transaction()
        self.producer.produce(self.topic, value, lanes.KEY, lane)
        self.producer.flush(20)
        if commit:
            self.producer.commit_transaction(20)
        else:
            self.producer.abort_transaction(20)

    def commit(self, lane: int, offset: int) -> None:
        """The group's offset of this very topic, which here plays the input, too."""
        consumer = Consumer(self.config | {"group.id": self.topic, "enable.auto.commit": False})
        consumer.commit(offsets=[TopicPartition(self.topic, lane, offset)], asynchronous=False)
        consumer.close()

    def recover(self, **kw: Any) -> dict[int, LaneState]:
        inputs = {n: [self.topic] for n in range(4)}
        return dict(lanes.recover(self.config, self.topic, inputs, **kw).states)

    def record(self, n: int) -> LaneState:
        return LaneState({"a.b": n}, {self.topic: 10 * n})


@pytest.mark.timeout(200)
def test_the_newest_committed_record_of_each_lane_is_found(board: Board) -> None:
    assert board.recover() == {n: LaneState() for n in range(4)}
    for n in range(1, 4):
        board.write(1, lanes.encode(board.record(n)))
    board.write(2, lanes.encode(board.record(7)))
    for n in range(90):  # more than one look back, and none of it happened
        board.write(2, lanes.encode(board.record(100 + n)), commit=False)
    board.write(3, lanes.encode(board.record(9)), commit=False)
    assert board.recover() == {0: LaneState(), 1: board.record(3), 2: board.record(7), 3: LaneState()}


@pytest.mark.timeout(200)
def test_the_record_counts_whatever_the_groups_offsets_are_but_offsets_without_any_record_are_refused(board: Board) -> None:
    board.write(1, lanes.encode(board.record(3)))
    for offset in (30, 31, 2):
        board.commit(1, offset)
        found = lanes.recover(board.config, board.topic, {1: [board.topic]})
        assert found.states[1] == board.record(3)
        assert found.starts == {(board.topic, 1): 30}
    board.commit(2, 1)
    with pytest.raises(HumanNeeded, match=r"lanes \[2\] have no record"):
        board.recover()


@pytest.mark.timeout(200)
def test_a_commit_that_shows_late_is_waited_for(board: Board) -> None:
    """The markers of one transaction reach its partitions one after another."""
    board.write(1, lanes.encode(board.record(3)))
    board.producer.begin_transaction()
    board.producer.produce(board.topic, lanes.encode(board.record(4)), lanes.KEY, 1)
    board.producer.flush(20)
    with pytest.raises(HumanNeeded, match=r"holds lanes \[1\]"):
        board.recover(settle_seconds=0.5)
    looks: list[float] = []

    def clock() -> float:
        looks.append(0.0)
        if len(looks) == 4:
            board.producer.commit_transaction(20)
        return 0.0

    assert board.recover(clock=clock)[1] == board.record(4)
    assert len(looks) >= 4


@pytest.mark.timeout(200)
def test_offsets_of_a_transaction_still_open_are_waited_for(board: Board) -> None:
    """What an earlier owner may yet commit is not taken for undone."""
    board.write(1, lanes.encode(board.record(3)))
    board.commit(1, 30)
    member = Consumer(board.config | {"group.id": board.topic, "enable.auto.commit": False})
    board.producer.begin_transaction()
    board.producer.produce(board.topic, lanes.encode(board.record(4)), lanes.KEY, 1)
    board.producer.send_offsets_to_transaction([TopicPartition(board.topic, 1, 40)], member.consumer_group_metadata(), 20)
    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        board.recover(settle_seconds=2.0)
    board.producer.commit_transaction(20)
    member.close()
    assert board.recover()[1] == board.record(4)


@pytest.mark.timeout(200)
def test_a_record_that_is_none_stops_the_worker(board: Board) -> None:
    board.write(0, b"{}")
    with pytest.raises(HumanNeeded, match="partition 0 offset 0 is not a lane record"):
        board.recover()


@pytest.mark.timeout(200)
def test_of_all_holes_of_a_lane_the_first_that_holds_a_committed_record_is_found(board: Board) -> None:
    """Records stand at 0, 2, 6, 8 and 10; markers behind each; 4 was aborted."""
    for n in range(6):
        board.write(1, lanes.encode(board.record(n)), commit=n != 2)
    board.write(2, lanes.encode(board.record(0)))
    board.write(2, lanes.encode(board.record(1)))
    place, other = (board.topic, 1), (board.topic, 2)

    def holding(holes: lanes.Holes) -> list[tuple[str, int, int, int]]:
        return lanes.holding(board.config, board.topic, holes)

    assert holding({place: [(3, 6), (7, 8)], other: [(1, 2)]}) == []
    assert holding({place: [(3, 6), (7, 10)], other: [(1, 2)]}) == [(*place, 7, 10)]
    assert holding({place: [(1, 6), (7, 10)]}) == [(*place, 1, 6)]
