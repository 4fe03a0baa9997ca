"""Waiting for conditions with a bound; above all until nothing is under way in a bus."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from psycopg import sql

from bus import access
from bus.avro.dataset import Dataset
from bus.config import Settings
from tests.oracle.collect import Codec

ENGINE_GROUP = "bus-engine"
PAUSE_SECONDS = 0.05
READ_SECONDS = 20.0
MARK_SECONDS = 2.0
T = TypeVar("T")


class NotAtRest(AssertionError):
    """The bound was reached; the message says what was waited for."""


def until(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise NotAtRest(f"waited {seconds:.0f} s for {what}")
        time.sleep(PAUSE_SECONDS)
    return found


def wait(settings: Settings, datasets: Mapping[str, Dataset], seconds: float) -> None:
    """Until one marker row a database, written now, is in its change topic, and the engine has nothing left to read.

    Capture publishes a database's commits in their order, so with the marker everything before it is there.
    """
    deadline = time.monotonic() + seconds
    until(lambda: _answers(settings), seconds, "Kafka to answer")
    with _Tail(settings, [d.topic for d in datasets.values()]) as tail:
        for domain in sorted({d.domain for d in datasets.values()}):
            _captured(settings, domain, datasets, tail, deadline)
        while left := tail.unprocessed():
            if time.monotonic() > deadline:
                raise NotAtRest(f"after {seconds:.0f} s not processed by the engine: {left}")
            time.sleep(PAUSE_SECONDS)


def _answers(settings: Settings) -> bool:
    """Whether the broker is there; it may be starting after a kill."""
    consumer = Consumer(access.confluent(settings, "admin") | {"group.id": "admin", "log_level": 0})
    try:
        return bool(consumer.list_topics(timeout=5).topics)
    except KafkaException:
        return False
    finally:
        consumer.close()


def _captured(settings: Settings, domain: str, datasets: Mapping[str, Dataset], tail: _Tail, deadline: float) -> None:
    """Marks, and waits for the mark; marks again now and then, for what a snapshot reads never comes as a transaction."""
    marks: set[tuple[str, int]] = set()
    again = 0.0
    while not marks & tail.seen:
        if time.monotonic() > deadline:
            raise NotAtRest(f"not captured in time: {len(marks)} markers of {domain}")
        if time.monotonic() > again:
            marks.add((domain, _mark(settings, domain, datasets, deadline)))
            again = time.monotonic() + MARK_SECONDS
        tail.read()


def _mark(settings: Settings, domain: str, datasets: Mapping[str, Dataset], deadline: float) -> int:
    """Touches one row of the database; the transaction's id as change events have it."""
    while True:
        try:
            with psycopg.connect(access.owner_dsn(settings, domain), connect_timeout=5) as connection:
                for found in (d for d in datasets.values() if d.domain == domain):
                    touch = sql.SQL(
                        "UPDATE public.{0} SET updated_at = now() WHERE ctid = (SELECT ctid FROM public.{0} LIMIT 1 FOR UPDATE)"
                        " RETURNING pg_current_xact_id()::text::bigint"
                    )
                    row = connection.execute(touch.format(sql.Identifier(found.table))).fetchone()
                    if row:
                        return int(row[0]) & 0xFFFFFFFF
            raise NotAtRest(f"{domain} has no row to touch")
        except psycopg.OperationalError:  # the server is starting again
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


class _Tail:
    """Reads change topics from their end on, and compares them with what the engine has committed."""

    def __init__(self, settings: Settings, topics: list[str]) -> None:
        self.codec = Codec(settings, {})
        self.seen: set[tuple[str, int]] = set()
        own = {
            "group.id": ENGINE_GROUP,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
        self.consumer = Consumer(access.confluent(settings, "admin") | own)
        listed = self.consumer.list_topics(timeout=20).topics
        self.lanes = [TopicPartition(t, p) for t in topics for p in listed[t].partitions]
        self.consumer.assign([TopicPartition(p.topic, p.partition, self._end(p)) for p in self.lanes])

    def __enter__(self) -> _Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.close()

    def _end(self, place: TopicPartition) -> int:
        return int(self.consumer.get_watermark_offsets(place, timeout=20)[1])

    def read(self) -> None:
        for message in self.consumer.consume(5_000, 0.2):
            error = message.error()
            if error is None:
                self._note(message)
            elif error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                raise KafkaException(error)

    def _note(self, message: Any) -> None:
        try:
            source = self.codec.decode(message.value() or b"")["source"]
        except (ValueError, KeyError):
            return
        self.seen.add((source["db"], source["xid"]))

    def unprocessed(self) -> str:
        """'' when no lane holds a committed record that the engine's group has not passed. Kafka may be starting again, or not
        tell the group's offsets because a dead worker's transaction holds them."""
        try:
            return self._beyond()
        except KafkaException as error:
            return f"not known: {error.args[0].str()}"

    def _beyond(self) -> str:
        committed = {(p.topic, p.partition): p.offset for p in self.consumer.committed(self.lanes, timeout=20)}
        behind = [TopicPartition(p.topic, p.partition, max(committed[(p.topic, p.partition)], 0)) for p in self.lanes]
        behind = [p for p in behind if p.offset < self._end(p)]
        self.consumer.assign(behind)
        unread = {(p.topic, p.partition) for p in behind}
        deadline = time.monotonic() + READ_SECONDS
        while unread:
            if time.monotonic() > deadline:
                return f"no answer about {sorted(unread)[:3]}"
            for message in self.consumer.consume(1_000, 0.1):
                error = message.error()
                if error is None:
                    return f"{message.topic()}[{message.partition()}] from offset {message.offset()}"
                if error.code() == KafkaError._PARTITION_EOF:
                    unread.discard((message.topic() or "", message.partition() or 0))
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    return f"{message.topic()}[{message.partition()}]: the group's offset does not exist"
        return ""
