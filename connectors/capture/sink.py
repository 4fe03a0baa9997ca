"""Kafka, as capture uses it: one transaction a batch, with the position record in it; and what must be read at start."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bus import telemetry
from bus.access import Connections
from bus.avro import derive
from bus.avro.catalogue import Catalogue, CatalogueError, value_subject
from bus.avro.dataset import Dataset, Schema
from bus.avro.frame import header
from bus.core import failpoint, topics
from bus.core.failpoint import Point
from bus.core.outcome import DeadCode
from connectors.capture.errors import Interrupted, KafkaRefusal, Refusal

READ_SECONDS: Final = 60.0
"""Longest wait for the end of a topic. Another capture's open transaction can hide it until it times out."""
TRANSACTION_MS: Final = 15_000
"""After this long without a commit the broker aborts the transaction, so that readers of the topics never hang longer."""
STEP_SECONDS: Final = 0.5
"""Longest single call into the client, so that a stop is noticed."""
COMMIT_SECONDS: Final = 12.0
FULL_SECONDS: Final = 10.0
_FIRST_WINDOW: Final = 512

_PRODUCER: Final = {
    "acks": "all",
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
    "linger.ms": 5,
    "batch.size": 524_288,
    "message.max.bytes": 8_200_000,
    "queue.buffering.max.kbytes": 32_768,
    "transaction.timeout.ms": TRANSACTION_MS,
    "message.timeout.ms": TRANSACTION_MS,
    "delivery.report.only.error": True,
    "socket.nagle.disable": True,
    "reconnect.backoff.max.ms": 2_000,
}
_READER: Final = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "fetch.wait.max.ms": 10,
    "reconnect.backoff.max.ms": 2_000,
    "log_level": 2,
}
_HUMAN: Final = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_MISSING: Final = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_TROUBLE: Final = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError.GROUP_AUTHORIZATION_FAILED}
"""What a reader outside any group can wait through."""

Config = Mapping[str, Any]
Stopped = Callable[[], bool]


def failure(error: KafkaException) -> Exception:
    """A client error as what it means for us: Refusal where a human must mend it, else Interrupted."""
    cause: KafkaError = error.args[0]
    if cause.code() in _HUMAN:
        return KafkaRefusal(f"Kafka refuses us: {cause.str()}: check the user's password and rules; `bus up` sets both")
    if cause.code() in _MISSING:
        return KafkaRefusal(f"a topic is missing ({cause.str()}): run `bus up`, which creates them")
    return Interrupted(f"Kafka: {cause.str()}")


class Sink:
    """The transactional producer of one database's capture. Fences any older one of the same id when made.

    Every method raises Interrupted or Refusal; after either the sink is of no use any more and is closed.
    """

    def __init__(self, config: Config, domain: str, stopped: Stopped) -> None:
        self._domain = domain
        self._stopped = stopped
        self._open = False
        self._connections = Connections()
        self._dead: dict[tuple[str, str], tuple[int, str]] = {}
        """(dataset, code) -> (how many in this transaction, the first one's position)."""
        self._log = telemetry.logger("capture", domain)
        own = {"transactional.id": f"capture-{domain}", **self._connections.settings()}
        self._producer = Producer({**config, **_PRODUCER, **own})
        self._patiently(self._producer.init_transactions, COMMIT_SECONDS)
        failpoint.hit(Point.SINK_OPENED)

    def close(self) -> None:
        """Gives up what is not committed. The broker drops it when the next sink is made, at the latest by its time limit."""
        with contextlib.suppress(KafkaException):
            self._producer.purge()
            if self._open:
                self._producer.abort_transaction(STEP_SECONDS)

    def produce(self, topic: str, value: bytes, key: bytes) -> None:
        if not self._open:
            self._begin()
        try:
            self._producer.produce(topic, value, key)
        except BufferError:
            self._when_there_is_room(topic, value, key)
        except KafkaException as error:
            raise failure(error) from None

    def _begin(self) -> None:
        """Never on a producer that has lost a connection: the request that ended an earlier transaction may still be under way
        on it, and would end this one half done (KAFKA-17754). A new producer's epoch keeps it out."""
        try:
            self._producer.poll(0)  # tells of lost connections
            if lost := self._connections.lost:
                raise Interrupted(f"Kafka: a request may still be under way on a lost connection: {lost}")
            self._producer.begin_transaction()
        except KafkaException as error:
            raise failure(error) from None
        self._open = True
        failpoint.hit(Point.TRANSACTION_BEGUN)

    def _when_there_is_room(self, topic: str, value: bytes | None, key: bytes, headers: Any = None) -> None:
        deadline = time.monotonic() + FULL_SECONDS
        while time.monotonic() < deadline and not self._stopped():
            try:
                self._producer.poll(0.02)  # raises a fatal error, whatever that came of
                self._producer.produce(topic, value, key, headers=headers or [])
                return
            except BufferError:
                continue
            except KafkaException as error:
                raise failure(error) from None
        raise Interrupted("Kafka takes no more records")

    def dead_letter(self, dataset: Dataset, code: DeadCode, key: bytes, value: bytes, position: str) -> None:
        """`position` stands where an offset stands in other dead letters: this event never was on a topic."""
        if not self._open:
            self._begin()
        headers = [
            ("x-original-topic", dataset.topic.encode()),
            ("x-original-partition", b"-1"),
            ("x-original-offset", position.encode()),
            ("x-dead-code", code.value.encode()),
        ]
        self._when_there_is_room(topics.dead(dataset.name), value, key, headers)
        count, first = self._dead.get((dataset.name, code.value), (0, position))
        self._dead[dataset.name, code.value] = (count + 1, first)

    def commit(self, position_record: bytes | None) -> None:
        """Commits everything produced since the last commit together with this database's position record (None: removes it)."""
        if not self._open:
            self._begin()
        failpoint.hit(Point.BEFORE_POSITION)
        self._when_there_is_room(topics.POSITIONS, position_record, self._domain.encode())
        failpoint.hit(Point.AFTER_POSITION)
        self._patiently(self._producer.commit_transaction, COMMIT_SECONDS)
        failpoint.hit(Point.CAPTURE_COMMITTED)
        self._open = False
        telemetry.counter("bus_capture_transactions_total").labels(database=self._domain).inc()
        for (dataset, code), (count, first) in self._dead.items():
            telemetry.counter("bus_dead_letters_total").labels(dataset=dataset, code=code).inc(count)
            self._log.warning("dead_letter", dataset=dataset, code=code, count=count, first=first)
        self._dead.clear()

    def _patiently(self, call: Callable[[float], Any], seconds: float) -> None:
        """Calls again while the client says that the same call may be tried again."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                call(STEP_SECONDS)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise failure(error) from None
            if self._stopped():
                raise Interrupted("asked to stop")


def read_position(config: Config, domain: str, stopped: Stopped) -> bytes | None:
    """The last committed position record of a database, or None. Call after Sink() has fenced older producers.

    Reads backwards in growing windows, because the topic may hold hours of records before compaction. The end is taken
    from an uncommitted view: behind another capture's open transaction our own last record could hide, so we wait for it.
    """
    first, end = _ends(config, domain)
    window = _FIRST_WINDOW
    with _reading({**config, "isolation.level": "read_committed"}, domain) as consumer:
        while True:
            start = max(first, end - window)
            found: bytes | None = None
            for message in _records(consumer, topics.POSITIONS, start, end, stopped):
                if message.key() == domain.encode():
                    found = _bytes(message.value())
            if found is not None or start == first:
                return found or None
            window *= 8


@dataclass(frozen=True, slots=True)
class Registered:
    """`frame`: the five bytes before the events of a dataset. `earlier`: the same, and the schema of the row, of each version
    before, the newest first."""

    frame: bytes
    earlier: tuple[tuple[bytes, Schema], ...]


def read_schemas(config: Config, domain: str, datasets: Iterable[Dataset], stopped: Stopped) -> dict[str, Registered]:
    """By dataset name. Raises Refusal where the registered schema is missing or differs."""
    catalogue = Catalogue()
    with _reading({**config, "isolation.level": "read_uncommitted"}, domain) as consumer:
        first, end = _watermarks(consumer, topics.SCHEMAS)
        try:
            for message in _records(consumer, topics.SCHEMAS, first, end, stopped):
                catalogue.apply(_bytes(message.key()), _bytes(message.value()))
            return {d.name: _registered(catalogue, d) for d in datasets}
        except CatalogueError as error:
            raise Refusal(str(error)) from error


def _registered(catalogue: Catalogue, dataset: Dataset) -> Registered:
    subject = value_subject(dataset.topic)
    now = catalogue.id_for(subject, derive.change(dataset))
    others = [entry for entry in catalogue.versions(subject) if entry.id != now]
    rows = [(header(entry.id), _row(json.loads(entry.schema))) for entry in reversed(others)]
    return Registered(header(now), tuple((frame, row) for frame, row in rows if row is not None))


def _row(envelope: Any) -> Schema | None:
    """The row's schema within a change event's."""
    fields = envelope.get("fields", ()) if isinstance(envelope, dict) else ()
    images = next((f["type"] for f in fields if f.get("name") == "before"), ())
    return next((branch for branch in images if isinstance(branch, dict) and branch.get("type") == "record"), None)


def _ends(config: Config, domain: str) -> tuple[int, int]:
    with _reading({**config, "isolation.level": "read_uncommitted"}, domain) as consumer:
        return _watermarks(consumer, topics.POSITIONS)


@contextlib.contextmanager
def _reading(config: Config, domain: str) -> Any:
    consumer = Consumer({**config, **_READER, "group.id": f"capture-{domain}"})  # required, never joined: partitions are assigned
    try:
        yield consumer
    except KafkaException as error:
        raise failure(error) from None
    finally:
        consumer.close()


def _watermarks(consumer: Consumer, topic: str) -> tuple[int, int]:
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10.0, cached=False)
    return low, high


def _records(consumer: Consumer, topic: str, start: int, end: int, stopped: Stopped) -> Iterable[Message]:
    """Records from `start` up to `end`, offsets. Raises Interrupted when the end stays out of reach."""
    if start >= end:
        return
    consumer.assign([TopicPartition(topic, 0, start)])
    deadline = time.monotonic() + READ_SECONDS
    while time.monotonic() < deadline and not stopped():
        message = consumer.poll(STEP_SECONDS)
        if message is None:
            continue
        error = message.error()
        offset = message.offset() or 0
        if error is None:
            yield message
            if offset + 1 >= end:  # on a topic that others keep writing to, the reader may never see an end
                return
        elif error.code() == KafkaError._PARTITION_EOF:
            if offset >= end:  # the last records before `end` may be markers or aborted, which are no messages
                return
        elif error.code() not in _TROUBLE:
            raise KafkaException(error)
    raise Interrupted(f"the end of {topic} was not reached")


def _bytes(data: bytes | str | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
