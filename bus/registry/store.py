"""The registry's hold on `_schemas`: a follower that has read all of it, and the one writer.

One writing discipline for every process: the transactional id `log.WRITER`. Whoever makes a producer with it fences all others,
and nobody who is fenced can commit. So a decision taken on what was read to the end after the producer was made stands when it
commits; when it cannot, all is thrown away, read and decided again. A write is answered once its own records are read back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from bus import access, telemetry
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.avro.records import Record
from bus.core.topics import AGREEMENTS, AGREEMENTS_INDEX, SCHEMAS
from bus.engine import client
from bus.registry.answers import Decision, Refused
from bus.registry.log import WRITER

START_SECONDS = 60.0
WRITE_SECONDS = 20.0
"""All attempts at one write together, reading back included."""
ATTEMPTS = 5
TRANSACTION_MS = 10_000
"""How long a writer that died may hold its readers up."""
_POLL_SECONDS = 0.05
_BATCH = 500
_ANSWER_SECONDS = 5.0
_READER = client.READER | access.READ_WHOLE | {"group.id": "registry", "error_cb": client.ignore}

Index = Callable[[bytes | None], None]
"""Takes the index of `bus.agreements`, the names of all agreements, whenever it is written."""


class Store:
    """The catalogue and the way to change it. `decide` and `read` may be called from any thread."""

    def __init__(self, config: Mapping[str, Any], on_index: Index, clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._on_index, self._clock = dict(config), on_index, clock
        self._catalogue = Catalogue()
        self._changed = threading.Condition()
        self._ends: dict[str, int] = {}
        """Topic -> offset up to which it is read; absent before its end was reached for the first time."""
        self._recent: list[Record] | None = None
        """What was read since a write began."""
        self._end: int | None = None
        self._end_asked = False
        self._failure: BaseException | None = None
        self._closing = False
        self._writing = threading.Lock()
        self._producer: Producer | None = None
        self._connections = access.Connections()
        self._log = telemetry.logger("registry")
        self._seconds = telemetry.histogram("bus_registry_write_seconds")
        self._consumer = Consumer(self._config | _READER)
        self._consumer.assign([TopicPartition(topic, 0, access.FIRST_OFFSET) for topic in (SCHEMAS, AGREEMENTS)])
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def await_ready(self, seconds: float = START_SECONDS) -> None:
        """Returns once both topics are read. Raises what the follower met: CatalogueError, client.HumanNeeded, KafkaException."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or len(self._ends) == 2, seconds)
        self.check()
        if len(self._ends) < 2:
            raise client.HumanNeeded(
                f"{SCHEMAS} or {AGREEMENTS} was not read in {seconds:.0f} s: is the broker up (`bus doctor`)?"
            )

    def check(self) -> None:
        """Raises what ended the follower, if it has ended."""
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def read(self) -> Iterator[Catalogue]:
        """The catalogue, unchanging while it is held: briefly."""
        with self._changed:
            yield self._catalogue

    def snapshot(self) -> Catalogue:
        """The catalogue as it stands now, to be looked at for as long as it takes."""
        with self._changed:
            return self._catalogue.copy()

    def _follow(self) -> None:
        try:
            while not self._closing:
                if self._end_asked:
                    self._tell_end()
                first = self._consumer.poll(_POLL_SECONDS)
                for message in [first, *self._consumer.consume(_BATCH, 0)] if first is not None else ():
                    self._take(message)
        except BaseException as error:  # told to whoever asks; nobody would see it in this thread
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self, message: Any) -> None:
        if error := message.error():
            if error.code() != KafkaError._PARTITION_EOF:
                client.check(error)
                return
            self._reached(message.topic(), message.offset())
        elif message.topic() == AGREEMENTS:
            if message.key() == AGREEMENTS_INDEX:
                self._on_index(message.value())
        else:
            self._apply(message)

    def _reached(self, topic: str, offset: int) -> None:
        with self._changed:
            self._ends[topic] = offset
            self._changed.notify_all()

    def _apply(self, message: Any) -> None:
        key, value = message.key(), message.value()
        with self._changed:
            try:
                self._catalogue.apply(key, value)
            except CatalogueError as error:
                raise CatalogueError(f"{SCHEMAS} offset {message.offset()}: {error}") from error
            if self._recent is not None:
                self._recent.append(Record(key, value))
            if SCHEMAS in self._ends:
                self._ends[SCHEMAS] = message.offset() + 1
            self._changed.notify_all()

    def decide(self, decision: Callable[[Catalogue], Decision]) -> Any:
        """Decide on the catalogue, write what was decided, and answer once it is read back; one at a time.

        Raises Refused: the decision's own, or 500 when the topic cannot be written in time.
        """
        deadline = self._clock() + WRITE_SECONDS
        if not self._writing.acquire(timeout=WRITE_SECONDS):
            raise Refused(500, 50002, "Timed out: other changes are under way; try again")
        began = self._clock()
        try:
            first = decision(self.snapshot())
            if not first.records:
                return first.answer
            answer = self._write(decision, deadline)
            self._seconds.observe(self._clock() - began)
            return answer
        finally:
            self._recent = None
            self._writing.release()

    def _write(self, decision: Callable[[Catalogue], Decision], deadline: float) -> Any:
        tried: Decision | None = None
        self._recent = []
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                producer = self._ready_producer(deadline)
                if tried and self._came(tried.records):  # it was committed after all
                    return tried.answer
                tried = decision(self.snapshot())
                if not tried.records:
                    return tried.answer
                self._commit(producer, tried.records, deadline)
                return tried.answer
            except KafkaException as error:
                self._producer, reason = None, client.text(error)
                self._log.warning("producer_replaced", reason=reason)
            if self._clock() >= deadline:
                break
        raise Refused(
            500, 50002, f"{SCHEMAS} could not be written in {WRITE_SECONDS:.0f} s or {ATTEMPTS} attempts; try again ({reason})"
        )

    def _came(self, records: tuple[Record, ...]) -> bool:
        """Whether these records, in this order, are among what was read since the write began."""
        recent = iter(self._recent or ())
        return all(any(one == record for one in recent) for record in records)

    def _ready_producer(self, deadline: float) -> Producer:
        """The producer that holds the transactional id, with everything read that was written before it was made.

        One that has lost a connection is replaced: a request that is still on its way could end the next transaction
        (KAFKA-17754).
        """
        if self._producer is not None:
            self._producer.poll(0)
            if not self._connections.lost:
                return self._producer
            self._producer = None
        self._connections = access.Connections()
        own = {"transactional.id": WRITER, "transaction.timeout.ms": TRANSACTION_MS, "acks": "all", "linger.ms": 0}
        own |= {"partitioner": "murmur2_random", "error_cb": client.ignore}
        producer = Producer(self._config | self._connections.settings() | own)
        producer.init_transactions(max(0.1, deadline - self._clock()))
        self._await(self._ask_end(deadline), deadline)
        self._producer = producer
        return producer

    def _ask_end(self, deadline: float) -> int:
        """The topic's end as it is now. The follower asks: with confluent-kafka 2.16 the question does not return while another
        thread takes records from the same consumer.
        """
        with self._changed:
            self._end = None
            self._end_asked = True
            self._changed.wait_for(lambda: self._failure or self._end is not None, max(0.0, deadline - self._clock()))
        end = self._found_end()
        self.check()
        if end is None:
            raise Refused(500, 50002, f"Timed out: the broker does not say how far {SCHEMAS} goes; try again")
        return end

    def _found_end(self) -> int | None:
        return self._end

    def _tell_end(self) -> None:
        self._end_asked = False
        try:
            _, end = self._consumer.get_watermark_offsets(TopicPartition(SCHEMAS, 0), _ANSWER_SECONDS, False)
        except KafkaException:  # the writer waits in vain, and says so
            return
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _commit(self, producer: Producer, records: tuple[Record, ...], deadline: float) -> None:
        """Raises KafkaException when it was not committed, or perhaps was; the producer is then of no use any more."""
        offsets: list[int] = []
        errors: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Any) -> None:
            (errors if error else offsets).append(error or message.offset())  # type: ignore[arg-type]  # each to its own

        producer.begin_transaction()
        for record in records:
            producer.produce(SCHEMAS, record.value, record.key, partition=0, on_delivery=delivered)
        producer.commit_transaction(max(0.1, deadline - self._clock()))
        if errors or len(offsets) != len(records):
            raise KafkaException(errors[0] if errors else KafkaError(KafkaError._FAIL))
        self._await(max(offsets) + 1, deadline)

    def _await(self, offset: int, deadline: float) -> None:
        """Until everything before an offset is read. Raises Refused when it takes too long, what ended the follower."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._failure or self._ends.get(SCHEMAS, 0) >= offset, max(0.0, deadline - self._clock())
            )
        self.check()
        if not done:
            raise Refused(500, 50002, f"Timed out: what was written to {SCHEMAS} was not read back in time; try again")

    def close(self) -> None:
        self._closing = True
        if self._thread.is_alive():
            self._thread.join(1.0)
        if not self._thread.is_alive():
            self._consumer.close()
