"""The lane record: what a lane's owner must know to go on, written in the same transaction as the outputs it describes.

`bus.lanes`, partition = lane, key `lane`, JSON {"seq": {agreement: last}, "inputs": {topic: next offset},
"policy": {"version", "digest"}, "past": {agreement: {"next": {topic: next offset}, "live"}}}; the policy is what the lane was
last worked under (bus.engine.policy), the past what agreements were given of it (bus.engine.past). Whoever takes a lane over
reads the newest committed record at the partition's end. That record, not the group's committed offset, says where to
go on: it stands or falls with the deliveries themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus.core import failpoint, topics
from bus.core.failpoint import Point
from bus.engine import client
from bus.engine.client import HumanNeeded

KEY = b"lane"
MAX_OFFSET = (1 << 63) - 1
TAIL_RECORDS = 64
"""First guess at how far back the newest committed record stands; sixteen times as far at each further try."""
SETTLE_SECONDS = 60.0
"""Longest wait for an earlier owner's last transaction to show in the lane record too."""
QUERY_SECONDS = 10.0
READ_SECONDS = 30.0
_POLL_SECONDS = 0.2
_PAUSE_SECONDS = 0.05
_SLICE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Past:
    """What an agreement has been given of its past in a lane. `next`: `verified.*` topic -> next offset (absent: the first);
    `live`: that was all, and what comes is delivered to it as it comes."""

    next: Mapping[str, int] = field(default_factory=dict)
    live: bool = False


NOTHING = Past()


@dataclass(frozen=True, slots=True)
class LaneState:
    """`seqs`: agreement -> last number given out (absent: none); `inputs`: topic -> next offset to read (absent: the first)."""

    seqs: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)
    version: int = 0
    """Of the policy it was last worked under; 0 and '' before the first."""
    digest: str = ""
    past: Mapping[str, Past] = field(default_factory=dict)
    """Of agreements that are given theirs."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane as its owner holds it: `seqs` by place among the agreements in use, `others` of agreements no longer in use
    (kept, so that one that comes back goes on counting), the rest as in LaneState."""

    agreements: tuple[str, ...]
    seqs: tuple[int, ...]
    others: Mapping[str, int]
    inputs: Mapping[str, int]
    version: int
    digest: str
    past: Mapping[str, Past]

    @staticmethod
    def of(state: LaneState, agreements: tuple[str, ...]) -> Lane:
        others = {name: seq for name, seq in state.seqs.items() if name not in agreements}
        seqs = tuple(state.seqs.get(name, 0) for name in agreements)
        return Lane(agreements, seqs, others, state.inputs, state.version, state.digest, state.past)

    def after(self, seqs: list[int], inputs: Mapping[str, int], version: int, digest: str, past: Mapping[str, Past]) -> Lane:
        """`version`, `digest`: of the policy it was worked under."""
        return Lane(self.agreements, tuple(seqs), self.others, {**self.inputs, **inputs}, version, digest, past)

    def state(self) -> LaneState:
        given = {name: seq for name, seq in zip(self.agreements, self.seqs, strict=True) if seq}
        return LaneState({**self.others, **given}, self.inputs, self.version, self.digest, self.past)


def under_another(held: Mapping[int, Lane], digest: str) -> list[int]:
    """The lanes that were last worked under another policy than this one."""
    return [number for number, lane in held.items() if lane.digest != digest]


def encode(state: LaneState) -> bytes:
    policy = {"version": state.version, "digest": state.digest}
    content = {"seq": dict(state.seqs), "inputs": dict(state.inputs), "policy": policy}
    if state.past:
        content["past"] = {name: {"next": dict(p.next), "live": p.live} for name, p in state.past.items()}
    return json.dumps(content, separators=(",", ":")).encode()


def decode(value: bytes) -> LaneState:
    """Raises ValueError for anything but a lane record; one of before there were policies is taken."""
    found = json.loads(value)
    if not isinstance(found, dict):
        raise ValueError("not a lane record")
    seqs, inputs, policy = found.get("seq"), found.get("inputs"), found.get("policy", {"version": 0, "digest": ""})
    if not (isinstance(seqs, dict) and isinstance(inputs, dict) and isinstance(policy, dict)):
        raise ValueError("not a lane record")
    version: Any = policy.get("version")
    digest = policy.get("digest")
    for number in (*seqs.values(), *inputs.values(), version):
        if type(number) is not int or not 0 <= number <= MAX_OFFSET:
            raise ValueError("not a lane record")
    if not isinstance(digest, str):
        raise ValueError("not a lane record")
    return LaneState(seqs, inputs, version, digest, _pasts(found.get("past", {})))


def _pasts(found: Any) -> dict[str, Past]:
    try:
        made = {name: Past(dict(p["next"]), p["live"]) for name, p in found.items()}
        good = all(isinstance(p.live, bool) and all(0 <= at <= MAX_OFFSET for at in p.next.values()) for p in made.values())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError("not a lane record") from error
    if not good:
        raise ValueError("not a lane record")
    return made


Committed = Mapping[int, Mapping[str, int]]
"""Lane -> topic -> the group's committed offset, where there is one."""


Holes = dict[tuple[str, int], list[tuple[int, int]]]
"""(topic, lane) -> [first offset, end) of each, in order."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a new owner finds."""

    states: Mapping[int, LaneState]
    committed: Committed
    starts: Mapping[tuple[str, int], int]
    """(input topic, lane) -> the offset to begin at: the lane record's, or where the topic's records begin."""

    def behind(self, topics: Collection[str]) -> list[TopicPartition]:
        """What the group should be told of these topics: where a lane is further than the offset it has committed."""
        return [
            TopicPartition(topic, number, offset)
            for number, state in self.states.items()
            for topic, offset in state.inputs.items()
            if topic in topics and self.committed.get(number, {}).get(topic, 0) < offset
        ]


def recover(
    config: Mapping[str, Any],
    group: str,
    inputs: Mapping[int, Iterable[str]],
    settle_seconds: float = SETTLE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Recovered:
    """The state of each lane. `inputs`: lane -> its input topics.

    First the group's offsets are asked for: the broker answers when no transaction of an earlier owner holds any of them
    open, so whatever that owner committed or aborted is decided, and all its records are written. Its markers reach the
    partitions one after another, so then it is waited until none of the lanes' own partitions holds anything undecided.

    Raises KafkaException when the group's offsets stay undecided or the broker does not answer in time; HumanNeeded when a
    lane's own partition stays undecided, when a lane with committed offsets has no record (it is lost: `seq` could not go on
    without gap or repeat), or when a record cannot be understood.

    All of this with clients of its own: the group member itself cannot be asked while it has a rebalance to tell us of.
    """
    deadline = clock() + settle_seconds
    admin = AdminClient(dict(config) | {"logger": client.QUIET, "error_cb": client.ignore})
    consumer = Consumer(dict(config) | client.READER | {"group.id": group, "error_cb": client.ignore})
    try:
        committed = _committed(consumer, inputs, deadline, clock)
        failpoint.hit(Point.AFTER_GROUP_OFFSETS)
        consumer.list_topics(topics.LANES, QUERY_SECONDS)  # or it learns only a second after the assignment who leads it
        spans = _decided(admin, consumer, sorted(inputs), deadline, clock)
        found = _tails(consumer, spans)
        lost = [lane for lane in inputs if not found[lane].inputs and any(committed.get(lane, {}).values())]
        if lost:
            raise HumanNeeded(
                f"lanes {lost} have no record in {topics.LANES!r}, but group {group!r} has committed offsets in them: "
                "were records deleted? Restore the topic, or reset the group together with all output topics"
            )
        return Recovered(found, committed, _starts(admin, found, inputs))
    finally:
        consumer.close()


def _decided(
    admin: AdminClient, consumer: Consumer, lanes: list[int], deadline: float, clock: Callable[[], float]
) -> dict[int, tuple[int, int]]:
    """Lane -> (first offset, end) of its own partition, once no transaction is open there. Raises HumanNeeded."""
    places = [(topics.LANES, lane) for lane in lanes]
    while True:
        ends = offsets(admin, places, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]
        stable = offsets(admin, places, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)  # type: ignore[no-untyped-call]
        if ends == stable:
            first = offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            return {place[1]: (first[place], ends[place]) for place in places}
        if clock() >= deadline:
            held = [place[1] for place in places if ends[place] != stable[place]]
            raise HumanNeeded(
                f"a transaction that does not end holds lanes {held} of {topics.LANES!r}: "
                "find and abort it with Kafka's own tool (`kafka-transactions.sh find-hanging`)"
            )
        consumer.poll(_PAUSE_SECONDS)


def offsets(
    admin: AdminClient,
    places: Iterable[tuple[str, int]],
    spec: OffsetSpec,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[tuple[str, int], int]:
    """In one request. Raises KafkaException."""
    asked = {TopicPartition(topic, lane): spec for topic, lane in places}
    answers = admin.list_offsets(asked, isolation_level=isolation, request_timeout=QUERY_SECONDS) if asked else {}
    try:
        return {(tp.topic, tp.partition): answer.result(2 * QUERY_SECONDS).offset for tp, answer in answers.items()}
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the broker does not say where partitions end")) from None


def _starts(
    admin: AdminClient, found: Mapping[int, LaneState], inputs: Mapping[int, Iterable[str]]
) -> dict[tuple[str, int], int]:
    """As explicit offsets: a client that is told "at the beginning" finds out when it likes. Raises KafkaException."""
    wanted = [(topic, lane) for lane, names in inputs.items() for topic in names]
    starts = {(topic, lane): found[lane].inputs[topic] for topic, lane in wanted if topic in found[lane].inputs}
    fresh = [place for place in wanted if place not in starts]
    return starts | offsets(admin, fresh, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def _committed(
    consumer: Consumer, inputs: Mapping[int, Iterable[str]], deadline: float, clock: Callable[[], float]
) -> dict[int, dict[str, int]]:
    """The group's offsets; asked for again, until the deadline, while they are undecided. Raises KafkaException."""
    asked = [TopicPartition(topic, lane) for lane, names in inputs.items() for topic in names]
    while True:
        try:
            answers = consumer.committed(asked, _SLICE_SECONDS)
            break
        except KafkaException as error:
            if error.args[0].code() != KafkaError._TIMED_OUT or clock() >= deadline:
                raise
    found: dict[int, dict[str, int]] = {}
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
        if answer.offset >= 0:
            found.setdefault(answer.partition, {})[answer.topic] = answer.offset
    return found


def holding(config: Mapping[str, Any], group: str, holes: Holes) -> list[tuple[str, int, int, int]]:
    """(topic, lane, first offset, end) of the first hole of each lane in which committed records stand.

    There must be a record right behind each hole; what stands between the holes of a lane is read, too.

    Offsets without records are commit markers and what aborted transactions wrote. Raises KafkaException, HumanNeeded.
    """
    consumer = Consumer(dict(config) | client.READER | {"group.id": group, "error_cb": client.ignore})
    found: list[tuple[str, int, int, int]] = []
    waiting = set(holes)
    try:
        consumer.assign([TopicPartition(topic, lane, first) for (topic, lane), [(first, _), *_] in holes.items()])
        deadline = time.monotonic() + READ_SECONDS
        while waiting:
            if time.monotonic() >= deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{sorted(waiting)} were not read in time"))
            message: Any = consumer.poll(_POLL_SECONDS)
            if message is None:
                continue
            place = (message.topic(), message.partition())
            if message.error() is None and place in waiting:
                at = message.offset()
                held = [(*place, first, end) for first, end in holes[place] if first <= at < end]
                found += held
                if held or at >= holes[place][-1][1]:
                    waiting.discard(place)
            elif message.error() is not None and message.error().code() != KafkaError._PARTITION_EOF:
                client.check(message.error())
        return found
    finally:
        consumer.close()


def _tails(consumer: Consumer, bounds: Mapping[int, tuple[int, int]]) -> dict[int, LaneState]:
    """The newest committed record of each lane, looking further and further back. `bounds`: lane -> (first offset, end)."""
    found: dict[int, LaneState] = {}
    back = TAIL_RECORDS
    while missing := [n for n in bounds if n not in found]:
        starts = {n: max(bounds[n][0], bounds[n][1] - back) for n in missing}
        found |= _read(consumer, {n: (starts[n], bounds[n][1]) for n in missing})
        found |= {n: LaneState() for n in missing if n not in found and starts[n] == bounds[n][0]}
        back *= 16
    return found


def _read(consumer: Consumer, spans: Mapping[int, tuple[int, int]]) -> dict[int, LaneState]:
    """The last record of each span (first offset, end) that holds any. Raises KafkaException when time runs out."""
    waiting = {n for n, (first, end) in spans.items() if end > first}
    found: dict[int, LaneState] = {}
    consumer.assign([TopicPartition(topics.LANES, n, spans[n][0]) for n in waiting])
    deadline = time.monotonic() + READ_SECONDS
    while waiting:
        if time.monotonic() >= deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"the end of {topics.LANES} was not reached in time"))
        message: Any = consumer.poll(_POLL_SECONDS)
        if message is None:
            continue
        lane, error = message.partition(), message.error()
        if error is None:
            found[lane] = _decoded(message)
        elif error.code() != KafkaError._PARTITION_EOF:
            client.check(error)
            continue
        if error is not None or message.offset() + 1 >= spans[lane][1]:
            waiting.discard(lane)
    return found


def _decoded(message: Any) -> LaneState:
    try:
        return decode(message.value())
    except (ValueError, TypeError, RecursionError) as error:
        raise HumanNeeded(
            f"{topics.LANES!r} partition {message.partition()} offset {message.offset()} is not a lane record: who wrote it?"
        ) from error
