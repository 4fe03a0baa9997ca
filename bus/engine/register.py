"""The register process: population.person -> the replica that all workers of this machine verify against.

No consumer group: the replica itself knows how far it has got in each lane. It is ready once capture says that the
population database streams (the snapshot is over) and everything that was in the lanes at that moment has been applied.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import access, telemetry
from bus.avro import catalogue, dataset, derive, frame
from bus.avro.dataset import Dataset
from bus.avro.older import compile_older
from bus.config import ConfigError, Settings
from bus.core import topics
from bus.core.identity import KEY_BYTES
from bus.engine import client
from bus.engine.client import HumanNeeded, Stop
from bus.engine.person import Pack, compile_packer
from bus.engine.policy import PERSON_KEY
from bus.engine.replica import ReplicaError, ReplicaWriter
from bus.registry import log as registry

PROCESS = "register"
BATCH_RECORDS = 2_000
"""More would be faster, but random keys touch a page each and LMDB holds all of a transaction's pages in memory."""
POLL_SECONDS = 0.05
QUEUE_KBYTES = 4_096
FETCH_BYTES = 1_048_576
QUERY_SECONDS = 10.0
START_SECONDS = 60.0
GAUGES_SECONDS = 1.0
Message = Any
"""confluent_kafka.Message, typed so that the loop is free of None checks."""
FORMAT = 1
"""Part of the replica's identity: counted up when the packing of a person changes."""


def run(settings: Settings) -> None:
    """Follow the register until SIGTERM. Exits with status 1 and a reason on a condition a human must mend."""
    stop = Stop().install()
    telemetry.start(settings.home, PROCESS, settings.log_level)
    log = telemetry.logger(PROCESS)
    log.info("process_started")
    try:
        follower = Follower.open(settings)
        try:
            while not stop.asked:
                follower.step()
        finally:
            follower.close()
        log.info("process_stopping")
    except (HumanNeeded, ReplicaError, ConfigError, dataset.SchemaError, catalogue.CatalogueError, KafkaException) as error:
        log.error("process_failed", reason=client.text(error))
        sys.exit(1)
    except Exception as error:  # a fault of ours; its text could quote a record
        log.error("process_failed", reason=client.place(error))
        sys.exit(1)


class Follower:
    """Applies the register's lanes to the replica, a batch a step."""

    def __init__(
        self, consumer: Consumer, watch: PositionWatch, writer: ReplicaWriter, pack: Pack, topic: str, lanes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._consumer, self._watch, self._writer, self._pack = consumer, watch, writer, pack
        self._topic, self._lanes, self._clock = topic, lanes, clock
        self._log = telemetry.logger(PROCESS)
        self._next = writer.offsets()
        self._targets: dict[int, int] | None = None
        self._ready = False
        self._gauges_due = 0.0
        if writer.rebuilt:
            self._log.info("register_read_anew")
        writer.set_ready(False)  # until what happened since the last run is applied too
        telemetry.gauge("bus_register_ready").set(0)
        self._assign()

    @staticmethod
    def open(settings: Settings) -> Follower:
        """Connect, look at the topic, open the replica. Raises HumanNeeded, ReplicaError, CatalogueError, ConfigError."""
        register = dataset.register_of(dataset.load(settings.schemas))
        config = access.confluent(settings, PROCESS)
        known, subject, schema = registry.read(config), catalogue.value_subject(register.topic), derive.change(register)
        schema_id = known.id_for(subject, schema)
        admin = AdminClient(config)
        identity, lanes = identity_of(admin, register, schema_id)
        writer = ReplicaWriter(settings.home, identity)
        reader = client.READER | {
            "group.id": PROCESS,
            "queued.max.messages.kbytes": QUEUE_KBYTES,
            "fetch.max.bytes": FETCH_BYTES,
            "fetch.message.max.bytes": 262_144,
            "fetch.queue.backoff.ms": 10,
            "error_cb": client.ignore,
        }
        older = compile_older(subject, schema, schema_id, known)
        pack = compile_packer(register, schema_id, settings.engine.max_record_bytes, settings.secret(PERSON_KEY), older)
        watch = PositionWatch(Consumer(config | reader | access.READ_WHOLE), admin, register)
        made = Follower(Consumer(config | reader), watch, writer, pack, register.topic, lanes)
        gc.collect()
        gc.freeze()
        return made

    def _assign(self) -> None:
        begin = [TopicPartition(self._topic, n, self._next.get(n, OFFSET_BEGINNING)) for n in range(self._lanes)]
        self._consumer.assign(begin)

    def step(self) -> None:
        """Take in what has arrived, at most one batch; wait at most POLL_SECONDS for the first record."""
        first = self._consumer.poll(POLL_SECONDS)
        if first is not None:
            self._take([first, *self._consumer.consume(BATCH_RECORDS - 1, POLL_SECONDS if not self._ready else 0)])
        self._progress()
        if self._clock() >= self._gauges_due:
            self._gauges_due = self._clock() + GAUGES_SECONDS
            self._show()

    def _take(self, messages: list[Message]) -> None:
        pack, people, offsets = self._pack, dict[bytes, bytes | None](), dict[int, int]()
        for message in messages:
            error = message.error()
            if error is not None:
                if not self._took_error(error, message, offsets):
                    return
                continue
            offset, key, value = message.offset(), message.key(), message.value()
            offsets[message.partition()] = offset + 1
            if key is None or len(key) != KEY_BYTES:
                continue  # nobody's
            if value is None:
                people[key] = None
                continue
            # A malformed one leaves the person as known; the engine reads the same topic and makes the dead letter.
            with contextlib.suppress(frame.Malformed):
                people[key] = pack(value, offset, key)
        if offsets:
            self._writer.apply(people, offsets)
            self._next |= offsets

    def _took_error(self, error: KafkaError, message: Message, offsets: dict[int, int]) -> bool:
        """False when the topic no longer has what comes next and everything is read again."""
        if error.code() == KafkaError._PARTITION_EOF:
            offsets[message.partition()] = message.offset()
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._writer.empty()
            self._next, self._targets, self._ready = {}, None, False
            self._assign()
            return False
        else:
            client.check(error)
        return True

    def _progress(self) -> None:
        """Towards `ready`: the database streams, then the lanes' ends of that moment, then all of that applied."""
        if self._ready:
            return
        if self._targets is None and self._watch.streaming():
            self._targets = self._watch.ends(self._topic, self._lanes)
        if self._targets is not None and all(self._next.get(n, 0) >= end for n, end in self._targets.items()):
            self._writer.finish_load()
            self._writer.set_ready(True)
            self._ready = True
            self._log.info("register_ready", people=self._writer.people())
            self._show()

    def _show(self) -> None:
        telemetry.gauge("bus_register_people").set(self._writer.people())
        telemetry.gauge("bus_register_ready").set(self._ready)
        lag = 0
        for lane in range(self._lanes):
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, lane), cached=True)
            lag += max(0, end - self._next.get(lane, 0))
        telemetry.gauge("bus_register_lag_records").set(lag)

    def close(self) -> None:
        self._consumer.close()
        self._watch.close()
        self._writer.close()


class PositionWatch:
    """Capture's word on the population database, from `bus.positions`, and the lanes' ends at a moment."""

    def __init__(self, consumer: Consumer, admin: AdminClient, register: Dataset) -> None:
        self._consumer, self._admin = consumer, admin
        self._database, self._table = register.domain.encode(), register.table
        self._streaming = False
        consumer.assign([TopicPartition(topics.POSITIONS, 0, access.FIRST_OFFSET)])

    def streaming(self) -> bool:
        """Whether the newest position record read so far says that the register's snapshot is over."""
        for message in self._consumer.consume(1_000, 0):
            if error := message.error():
                if error.code() != KafkaError._PARTITION_EOF:
                    client.check(error)
            elif message.key() == self._database:
                self._streaming = _is_read(message.value(), self._table)
        return self._streaming

    def ends(self, topic: str, lanes: int) -> dict[int, int] | None:
        """Lane -> log end; None when the broker did not answer, to be asked again.

        The log's end, not the last stable offset: the snapshot's last transaction may not show in every lane yet.
        """
        asked = {TopicPartition(topic, n): OffsetSpec.latest() for n in range(lanes)}  # type: ignore[no-untyped-call]
        try:
            self._admin.list_topics(topic, QUERY_SECONDS)  # or a broker that was restarted refuses the epoch known before
            answers = self._admin.list_offsets(asked, request_timeout=QUERY_SECONDS)
            return {lane.partition: answer.result(QUERY_SECONDS).offset for lane, answer in answers.items()}
        except (KafkaException, TimeoutError):
            return None

    def close(self) -> None:
        self._consumer.close()


def _is_read(value: bytes | None, table: str) -> bool:
    """Whether capture's position record says that the table's snapshot reached its end: a last segment without upper key."""
    try:
        found: Any = json.loads(value or b"{}")
        return bool(found["tables"][table][-1]["upto"] is None)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return False


def identity_of(admin: AdminClient, register: Dataset, schema_id: int) -> tuple[bytes, int]:
    """What the replica is made of, and the number of lanes. Raises HumanNeeded when the topic does not exist."""
    try:
        cluster = admin.list_topics(register.topic, QUERY_SECONDS).cluster_id
        described = admin.describe_topics(TopicCollection([register.topic]), request_timeout=QUERY_SECONDS)
        topic = described[register.topic].result(START_SECONDS)
    except KafkaException as error:
        raise HumanNeeded(f"cannot look at the topic {register.topic!r} ({client.text(error)}): run `bus up`") from error
    made_of = f"{FORMAT}/{cluster}/{topic.topic_id}/{len(topic.partitions)}/{schema_id}"
    return made_of.encode(), len(topic.partitions)
