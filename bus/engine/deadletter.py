"""Dead letters: the record as it came, and in its headers where it came from and a code. Never a word of what is in it."""

from __future__ import annotations

import struct

from bus.core import topics
from bus.core.outcome import DeadCode

TOPIC_HEADER = "x-original-topic"
PARTITION_HEADER = "x-original-partition"
OFFSET_HEADER = "x-original-offset"
CODE_HEADER = "x-dead-code"
SPRING_PREFIX = "kafka_dlt-original-"
"""Spring Kafka's names (KafkaHeaders.DLT_ORIGINAL_*), which tools for dead letters know, in its encodings: topic as text,
partition as a big-endian int, offset and timestamp as big-endian longs."""
MAX_BYTES = 8_000_000
"""Most of key and value together that a dead letter carries: the topics take 8 MiB. A compressed record can be longer."""


def topic(dataset: str) -> str:
    return topics.dead(dataset)


def carried(key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None]:
    """Key and value untouched; neither, where they are too long to be written again: they stay where the headers say."""
    return (key, value) if len(key or b"") + len(value or b"") <= MAX_BYTES else (None, None)


def headers(input_topic: str, partition: int, offset: int, code: DeadCode, timestamp_ms: int) -> list[tuple[str, bytes]]:
    """What goes with key and value. `timestamp_ms`: of the original record."""
    return [
        (TOPIC_HEADER, input_topic.encode()),
        (PARTITION_HEADER, b"%d" % partition),
        (OFFSET_HEADER, b"%d" % offset),
        (CODE_HEADER, code.value.encode()),
        (f"{SPRING_PREFIX}topic", input_topic.encode()),
        (f"{SPRING_PREFIX}partition", struct.pack(">i", partition)),
        (f"{SPRING_PREFIX}offset", struct.pack(">q", offset)),
        (f"{SPRING_PREFIX}timestamp", struct.pack(">q", timestamp_ms)),
    ]
