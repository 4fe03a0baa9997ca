"""Whole topics, read once to the end they had when reading began: committed records only, no group, no offsets moved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

_BATCH_RECORDS = 5_000
_POLL_SECONDS = 0.5


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
        spans = {p: span for p, span in _ends(consumer, topic).items() if span[1] > span[0]}
        waiting = {p: end for p, (_, end) in spans.items()}
        consumer.assign([TopicPartition(topic, p, begin) for p, (begin, _) in spans.items()])
        deadline = time.monotonic() + stall_seconds
        while waiting:
            messages = consumer.consume(_BATCH_RECORDS, _POLL_SECONDS)
            if not messages and time.monotonic() > deadline:
                raise ReadTimeout(
                    f"{topic}: no record for {stall_seconds:.0f} s, {len(waiting)} partitions not read to their end"
                )
            for message in messages:
                deadline = time.monotonic() + stall_seconds
                yield from _accept(message, waiting)
    finally:
        consumer.close()


def _accept(message: Message, waiting: dict[int, int]) -> Iterator[Message]:
    partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
    if error is None:
        end = waiting.get(partition)
        if end is not None and offset < end:
            yield message
        if end is not None and offset + 1 >= end:
            del waiting[partition]
    elif error.code() == -191:  # _PARTITION_EOF: markers may stand between the last record and the end
        waiting.pop(partition, None)
    else:
        raise KafkaException(error)


def _ends(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    found = consumer.list_topics(topic, timeout=10).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in found.partitions}
