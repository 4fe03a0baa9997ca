"""A topic for one test, and what stands in it."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its own documented name


@contextlib.contextmanager
def topic(config: dict[str, Any], test: str) -> Iterator[str]:
    """Of one lane, removed afterwards. `config`: of an admin."""
    admin, name = AdminClient(config), f"test.scratch.{zlib.crc32(test.encode())}"
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(10)
    yield name
    admin.delete_topics([name])[name].result(10)


def committed(config: dict[str, Any], topic: str) -> list[bytes]:
    """The values of its committed records, in order."""
    reading = {"group.id": topic, "isolation.level": "read_committed", "enable.partition.eof": True}
    consumer = Consumer(config | reading)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    while True:
        message: Any = consumer.poll(10)
        if message.error() is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF
            consumer.close()
            return found
        found.append(message.value())
