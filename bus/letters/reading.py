"""Reading dead letters, what was redriven, and input topics around an original. No group's place is moved."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus.core import topics
from bus.engine import lanes
from bus.ledger import reading
from bus.ledger.lane_tape import consumer_config
from bus.letters.letter import Letter, LetterError, Place

DISORDER_MS = 60_000
"""How far the timestamps of different lanes may be apart from the order of commits."""
_ANSWER_SECONDS = 15.0
_READ_SECONDS = 60.0
_POLL_SECONDS = 0.2
_BATCH_RECORDS = 2_000
Connection = Mapping[str, Any]


def dead_topics(connection: Connection, dataset: str = "") -> list[str]:
    """Raises LetterError when there are none of the dataset."""
    consumer = Consumer(consumer_config(connection, str(connection["sasl.username"])))
    try:
        there = consumer.list_topics(timeout=_ANSWER_SECONDS).topics
    except KafkaException as error:
        raise LetterError(f"the broker does not answer: {error.args[0].str()}; is it up? (`bus status`)") from None
    finally:
        consumer.close()
    found = sorted(name for name in there if name.startswith(topics.dead("")))
    if not dataset:
        return found
    if topics.dead(dataset) not in found:
        near = difflib.get_close_matches(topics.dead(dataset), found, 3, 0.5)
        hint = f": did you mean {' or '.join(n.removeprefix(topics.dead('')) for n in near)}?" if near else ""
        raise LetterError(f"no dataset {dataset!r}{hint}")
    return [topics.dead(dataset)]


def letters(connection: Connection, names: Sequence[str]) -> Iterator[Letter]:
    """All committed letters of these topics, each lane's in order. Raises LetterError."""
    for message in _whole(connection, names):
        yield Letter.of(message)


def _whole(connection: Connection, names: Sequence[str]) -> Iterator[Any]:
    """Every committed record of these topics up to their present ends. Raises LetterError."""
    consumer = Consumer(consumer_config(connection, str(connection["sasl.username"])))
    admin = AdminClient(dict(connection) | {"log_level": 0})
    try:
        there = admin.list_topics(timeout=_ANSWER_SECONDS).topics
        if missing := [name for name in names if name not in there]:
            raise LetterError(f"there is no topic {missing[0]!r}: run `bus up` once, which makes it")
        places = [(name, lane) for name in names for lane in there[name].partitions]
        latest, earliest = OffsetSpec.latest(), OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        ends = lanes.offsets(admin, places, latest, IsolationLevel.READ_COMMITTED)
        begins = lanes.offsets(admin, places, earliest)
        spans = {place: (begins[place], end) for place, end in ends.items()}
        yield from reading.up_to(consumer, spans, _READ_SECONDS)
    except reading.ReadTimeout as error:
        raise LetterError(f"{error}: is the broker up? (`bus status`)") from None
    except KafkaException as error:
        raise LetterError(f"cannot read {', '.join(names)}: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    finally:
        consumer.close()


def one(connection: Connection, place: Place) -> Letter:
    """Raises LetterError where no letter lies."""
    consumer = Consumer(consumer_config(connection, str(connection["sasl.username"])))
    try:
        there = consumer.list_topics(timeout=_ANSWER_SECONDS).topics
        if place.topic not in there or place.lane not in there[place.topic].partitions:
            raise LetterError(f"there is no {place.topic!r} lane {place.lane}: `bus dead list` lists the letters")
        consumer.assign([TopicPartition(place.topic, place.lane, place.offset)])
        deadline = time.monotonic() + _READ_SECONDS
        while time.monotonic() < deadline:
            message = consumer.poll(_POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is None and message.offset() == place.offset:
                return Letter.of(message)
            if error is None or error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
                break
        raise LetterError(f"no dead letter lies at {place}: `bus dead list` lists them")
    except KafkaException as error:
        raise LetterError(f"cannot read {place}: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    finally:
        consumer.close()


def redriven(connection: Connection) -> dict[str, dict[str, Any]]:
    """A letter's place -> what is on record of its redriving. Raises LetterError."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for message in _whole(connection, [topics.REDRIVEN]):
            found[message.key().decode()] = json.loads(message.value())
    except (ValueError, AttributeError, TypeError) as error:
        raise LetterError(f"{topics.REDRIVEN!r} holds what is no record of a redriving: who wrote it?") from error
    return found


def starts(connection: Connection, topic: str, origins: Sequence[tuple[int, int]], at_ms: int) -> dict[int, int]:
    """Lane -> where to begin: at the first of these (lane, offset), elsewhere a little before this time. Raises LetterError."""
    consumer = Consumer(consumer_config(connection, str(connection["sasl.username"])))
    try:
        there = consumer.list_topics(topic, timeout=_ANSWER_SECONDS).topics[topic]
        if there.error is not None:
            raise LetterError(f"cannot read {topic!r}: {there.error.str()}")
        moment = max(0, at_ms - DISORDER_MS)
        found = consumer.offsets_for_times([TopicPartition(topic, lane, moment) for lane in there.partitions], _ANSWER_SECONDS)
        made: dict[int, int] = {}
        for place in found:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, place.partition), _ANSWER_SECONDS)
            at = place.offset if place.offset >= 0 else high
            made[place.partition] = max(low, min([at, *(offset for lane, offset in origins if lane == place.partition)]))
        return made
    except KafkaException as error:
        raise LetterError(f"cannot read {topic!r}: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    finally:
        consumer.close()


class InputReader:
    """Some lanes of one input topic, read on; `isolation`: read_uncommitted shows also what is not decided yet."""

    def __init__(self, connection: Connection, topic: str, starts: Mapping[int, int], isolation: str = "read_committed") -> None:
        own = {"isolation.level": isolation, "auto.offset.reset": "earliest"}
        self._consumer = Consumer(consumer_config(connection, str(connection["sasl.username"])) | own)
        self._topic = topic
        self._consumer.assign([TopicPartition(topic, lane, at) for lane, at in starts.items()])
        self.come = dict(starts)
        """Lane -> next offset."""

    def to_end(self) -> Iterator[Any]:
        """Every record up to each lane's present end. Raises LetterError."""
        waiting, deadline = set(self.come), time.monotonic() + _READ_SECONDS
        while waiting:
            if time.monotonic() > deadline:
                raise LetterError(f"{self._topic!r}: nothing came for {_READ_SECONDS:.0f} s: is the broker up?")
            for message in self._consumer.consume(_BATCH_RECORDS, _POLL_SECONDS):
                deadline = time.monotonic() + _READ_SECONDS
                if self._is_record(message):
                    yield message
                else:
                    waiting.discard(message.partition() or 0)

    def to(self, lane: int, end: int) -> Iterator[Any]:
        """The lane's records below this offset, where a record stands. Raises LetterError."""
        deadline = time.monotonic() + _READ_SECONDS
        while self.come[lane] <= end:
            if time.monotonic() > deadline:
                raise LetterError(f"{self._topic!r} lane {lane}: offset {end} was not read in {_READ_SECONDS:.0f} s")
            for message in self._consumer.consume(1, _POLL_SECONDS):
                if self._is_record(message) and (message.offset() or 0) < end:
                    yield message

    def _is_record(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            self.come[message.partition()] = message.offset() + 1
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            return False
        raise LetterError(f"cannot read {self._topic!r}: {error.str()}")

    def close(self) -> None:
        self._consumer.close()
