"""Dead letters: the record as it came, and in its headers where it came from and a code. Never a word of what is in it."""

from __future__ import annotations

from bus.core import topics
from bus.core.outcome import DeadCode

TOPIC_HEADER = "x-original-topic"
PARTITION_HEADER = "x-original-partition"
OFFSET_HEADER = "x-original-offset"
CODE_HEADER = "x-dead-code"


def topic(dataset: str) -> str:
    return topics.dead(dataset)


def headers(input_topic: str, partition: int, offset: int, code: DeadCode) -> list[tuple[str, bytes]]:
    """What goes with the untouched key and value."""
    return [
        (TOPIC_HEADER, input_topic.encode()),
        (PARTITION_HEADER, b"%d" % partition),
        (OFFSET_HEADER, b"%d" % offset),
        (CODE_HEADER, code.value.encode()),
    ]
