"""A recorded topic on the real broker: transactions, some aborted, with keys, headers, tombstones and old timestamps."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported without saying so

from bus import access, config

LANES = 4
READ_SECONDS = 60.0
RECORDS = 400
STEP_MS = 100
LARGE, LARGE_BYTES = 25, 3_000_000
"""One record is longer than what a Kafka client writes when nobody says how much it may."""


@dataclass(frozen=True, slots=True)
class Recorded:
    settings: config.Settings
    topic: str
    admin: AdminClient
    base_ms: int
    """Record i has the timestamp base_ms + i * STEP_MS: recent when it is written, as with any producer, while ends of
    transactions bear the broker's time."""

    def at_ms(self, number: float) -> int:
        return int(self.base_ms + number * STEP_MS)

    def read(self, topic: str) -> list[Message]:
        """Every committed record of a topic, lane by lane."""
        connection = access.confluent(self.settings, "admin")
        extra = {"group.id": "probe", "enable.partition.eof": True, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        consumer = Consumer(connection | extra)
        consumer.assign([TopicPartition(topic, lane, 0) for lane in range(LANES)])
        found, ended, errors, deadline = list[Message](), set[int | None](), list[str](), time.monotonic() + READ_SECONDS
        while len(ended) < LANES:
            assert time.monotonic() < deadline, (topic, ended, errors)
            for message in consumer.consume(500, 0.5):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    errors.append(str(error))
        consumer.close()
        return sorted(found, key=lambda m: (m.partition() or 0, m.offset() or 0))

    @contextmanager
    def writer(self) -> Iterator[Producer]:
        producer = Producer(
            access.confluent(self.settings, "admin") | {"transactional.id": "recorded", "message.max.bytes": 8_000_000}
        )
        producer.init_transactions(20)
        yield producer


def write(recorded: Recorded, producer: Producer, numbers: range, commit: bool) -> None:
    """One transaction with records of these numbers."""
    rng = random.Random(numbers.start)
    producer.begin_transaction()
    for number in numbers:
        key = None if number % 13 == 0 else rng.randbytes(16)
        value = None if number % 11 == 0 else rng.randbytes(LARGE_BYTES if number == LARGE else rng.randrange(200))
        headers: list[tuple[str, str | bytes | None]] = (
            [("x-a", b"\x00\xff"), ("x-a", b"2"), ("empty", None)] if number % 3 else []
        )
        producer.produce(recorded.topic, value, key, rng.randrange(LANES), timestamp=recorded.at_ms(number), headers=headers)
    producer.flush(20)
    (producer.commit_transaction if commit else producer.abort_transaction)(20)


@pytest.fixture(scope="session")
def recorded(bus_home: config.Settings) -> Recorded:
    made = Recorded(
        bus_home,
        "verified.trial.recorded",
        AdminClient(access.confluent(bus_home, "admin")),
        int(time.time() * 1000) - RECORDS * STEP_MS,
    )
    topic = NewTopic(made.topic, LANES, config={"retention.ms": "-1"})
    made.admin.create_topics([topic], operation_timeout=20)[made.topic].result(20)
    with made.writer() as producer:
        for begin in range(0, RECORDS, 20):
            if begin % 60 == 0:
                write(made, producer, range(begin, begin + 20), commit=False)
            write(made, producer, range(begin, begin + 20), commit=True)
    return made
