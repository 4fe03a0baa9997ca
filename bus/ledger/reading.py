"""Topics, read once to the end they had when reading began: committed records only, no group, no offsets moved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

_BATCH_RECORDS = 5_000
_POLL_SECONDS = 0.2
Place = tuple[str, int]
"""Topic and lane."""


class ReadTimeout(RuntimeError):
    """The end was not reached in time: the broker is slow or a transaction hangs open."""


def read(config: Mapping[str, Any], topic: str, stall_seconds: float = 30.0) -> Iterator[Message]:
    """Every committed record of `topic` up to its present end. Raises ReadTimeout after `stall_seconds` without progress."""
    consumer = Consumer(
        dict(config)
        | {
            "group.id": "ledger-unused",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "queued.max.messages.kbytes": 16_384,
            "log_level": 0,  # errors come as exceptions; a coordinator that nobody needs may fail unheard
        }
    )
    try:
        yield from up_to(consumer, {(topic, p): span for p, span in _ends(consumer, topic).items()}, stall_seconds)
    finally:
        consumer.close()


def up_to(consumer: Consumer, spans: Mapping[Place, tuple[int, int]], stall_seconds: float) -> Iterator[Message]:
    """The committed records of these places, each from its first offset up to its end, which is not of it.

    `consumer`: read_committed, with `enable.partition.eof`; it is assigned these places. Raises ReadTimeout after `stall_seconds`
    without progress, KafkaException.
    """
    waiting = {place: end for place, (begin, end) in spans.items() if begin < end}
    consumer.assign([TopicPartition(*place, spans[place][0]) for place in waiting])
    deadline = time.monotonic() + stall_seconds
    while waiting:
        messages = consumer.consume(_BATCH_RECORDS, _POLL_SECONDS)
        if not messages and time.monotonic() > deadline:
            (topic, lane), end = next(iter(waiting.items()))
            raise ReadTimeout(f"{topic} lane {lane}: no record for {stall_seconds:.0f} s, offset {end} was not reached")
        for message in messages:
            deadline = time.monotonic() + stall_seconds
            yield from _accept(message, waiting)


def _accept(message: Message, waiting: dict[Place, int]) -> Iterator[Message]:
    place, offset, error = (message.topic() or "", message.partition() or 0), message.offset() or 0, message.error()
    if error is None:
        end = waiting.get(place)
        if end is not None and offset < end:
            yield message
        if end is not None and offset + 1 >= end:
            waiting.pop(place, None)
    elif error.code() == KafkaError._PARTITION_EOF:  # markers may stand between the last record and the end
        waiting.pop(place, None)
    else:
        raise KafkaException(error)


def _ends(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    found = consumer.list_topics(topic, timeout=10).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in found.partitions}
