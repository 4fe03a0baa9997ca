"""Waiting until nothing is under way: every commit captured, every captured event processed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from bus.core.position import format_lsn, parse_lsn

ENGINE_GROUP = "bus-engine"
_PAUSE_SECONDS = 0.1
_CONFIRMATIONS = 3
_CONFIRM_SECONDS = 1.0
_SCAN_RECORDS = 500
_SCAN_SECONDS = 10.0
_ANSWER_SECONDS = 10.0


class NotAtRest(RuntimeError):
    """Something was still under way when the time was over; the message names it."""


def wait(
    dsns: Mapping[str, str],
    kafka: Mapping[str, Any],
    inputs: Sequence[str],
    timeout_seconds: float,
    tick: Callable[[str], None] = lambda _: None,
) -> None:
    """Block until all that was committed before the call went through the engine. Nothing may write meanwhile.

    `dsns`: domain -> DSN; `inputs`: the engine's input topics. Raises NotAtRest after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    for domain, dsn in dsns.items():
        _until(lambda domain=domain, dsn=dsn: _uncaptured(domain, dsn), deadline, tick)  # type: ignore[misc]  # bound per turn
    reading = {
        "group.id": ENGINE_GROUP,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",  # from the end on, nothing would be left to read
    }
    consumer = Consumer(dict(kafka) | reading)
    try:
        for _ in range(_CONFIRMATIONS):
            _until(lambda: _unprocessed(consumer, inputs), deadline, tick)
            time.sleep(_CONFIRM_SECONDS)
    finally:
        consumer.close()


def _until(missing: Callable[[], str], deadline: float, tick: Callable[[str], None]) -> None:
    while what := missing():
        tick(what)
        if time.monotonic() > deadline:
            raise NotAtRest(what)
        time.sleep(_PAUSE_SECONDS)


def _uncaptured(domain: str, dsn: str) -> str:
    """'' once the slot is acknowledged past everything committed before this wait's message was written."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        mark = connection.execute("SELECT pg_logical_emit_message(false, 'bus.rest', '')::text").fetchone()
        assert mark is not None
        goal, name = parse_lsn(mark[0]), f"bus_{domain}"
        for _ in range(100):
            row = connection.execute(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", (name,)
            ).fetchone()
            if row and row[0] and parse_lsn(row[0]) >= goal:
                return ""
            time.sleep(_PAUSE_SECONDS)
    return f"capture of {domain} has not acknowledged {format_lsn(goal)}"


def _unprocessed(consumer: Consumer, inputs: Sequence[str]) -> str:
    """'' once no record stands beyond the group's committed offsets. Offsets cannot tell: a commit marker has one of its own.

    A commit is answered before its markers are in every lane, so committed records may not show yet: hence the repetition.
    Nor does the group tell its offsets while a transaction that moves them is open, be it that of a worker that has died.
    """
    try:
        return _beyond(consumer, _committed(consumer, inputs))
    except KafkaException as error:
        return f"the engine's offsets are not known: {error.args[0].str()}"


def _committed(consumer: Consumer, inputs: Sequence[str]) -> list[TopicPartition]:
    """Where the engine's group stands in each partition of its inputs. Raises KafkaException."""
    listed = consumer.list_topics(timeout=_ANSWER_SECONDS).topics
    asked = [TopicPartition(t, p) for t in inputs for p in listed[t].partitions]
    places: list[TopicPartition] = consumer.committed(asked, timeout=_ANSWER_SECONDS)
    for error in [*(listed[t].error for t in inputs), *(place.error for place in places)]:
        if error is not None:
            raise KafkaException(error)
    for place in places:
        if place.offset < 0:
            place.offset = OFFSET_BEGINNING
    return places


def _beyond(consumer: Consumer, places: list[TopicPartition]) -> str:
    """'' when no committed record stands at these offsets or after them, else what does or what went wrong."""
    consumer.assign(places)
    left, deadline = {(p.topic, p.partition) for p in places}, time.monotonic() + _SCAN_SECONDS
    while left and time.monotonic() < deadline:
        for message in consumer.consume(_SCAN_RECORDS, _PAUSE_SECONDS):
            topic, partition = message.topic(), message.partition()
            if (error := message.error()) is None:
                return f"the engine has not reached {topic} partition {partition}"
            if error.code() == KafkaError._PARTITION_EOF:
                left.discard((topic or "", partition or 0))
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                return f"the engine's offset in {topic} partition {partition} does not exist: {error.str()}"
    return f"{len(left)} partitions did not answer" if left else ""
