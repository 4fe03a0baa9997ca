"""The transactional producer of one worker, and what its errors mean.

After an error three things can be the case, and they are kept apart by exception: the transaction must be aborted and can
be (`Abort`), nobody can tell what became of it or the producer is unusable (`Indefinite`: throw it away, make a new one,
read again where things stand), or a human is needed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from bus.access import Connections
from bus.core import failpoint
from bus.core.failpoint import Point
from bus.engine import client
from bus.engine.client import Calls, HumanNeeded, Stop

TRANSACTION_TIMEOUT_MS = 15_000
"""How long the broker keeps a silent worker's transaction open."""
CALL_SECONDS = 30.0
"""Longest time for one step of the protocol, broker restarts included."""
_SLICE_SECONDS = 0.5
"""A step is asked for in slices, so that a stop is noticed in between."""
_PAUSE_SECONDS = 0.02
MAX_MESSAGE_BYTES = 33_554_432
"""Far above what a topic takes: whatever could be read must be able to leave again as a dead letter."""
QUEUE_KBYTES = 36_864
"""What may wait to be sent; one record of the greatest size must find room."""

PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
    "linger.ms": 100,
    "batch.size": 262_144,
    "batch.num.messages": 20_000,
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": QUEUE_KBYTES,
    "delivery.report.only.error": True,
    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
    "reconnect.backoff.max.ms": 1_000,
    "retry.backoff.ms": 20,
    "retry.backoff.max.ms": 500,
}


class Abort(Exception):
    """The open transaction cannot be committed; aborting it is certain to undo it."""


class Indefinite(Exception):
    """What became of the transaction, or of the producer, is not known."""


class Stopped(Exception):
    """The process was asked to stop during a step; the open transaction is left for the next start to end."""


class Transactions:
    """One producer and its transactions. `open` says whether one is begun.

    A request that was under way on a connection that is lost may reach the broker at any later time, and librdkafka sends
    another one meanwhile and says that all is well. If it ends a transaction, it would end the next one as well, half done
    (KAFKA-17754), for up to EndTxn's version 4 nothing tells them apart but the producer's epoch. So no transaction begins
    on a producer that has lost a connection: a new one has a new epoch.
    """

    def __init__(self, config: Mapping[str, Any], transactional_id: str, stop: Stop, calls: Calls) -> None:
        """Raises HumanNeeded, Indefinite (try again) or Stopped. Fences earlier producers and ends what they left open."""
        self._stop, self._calls = stop, calls
        self.open = False
        self._connections = Connections()
        own = {"transactional.id": transactional_id, "error_cb": client.ignore}
        self.producer = Producer(dict(config) | PRODUCER | own | self._connections.settings())
        failpoint.hit(Point.BEFORE_PRODUCER)
        try:
            self._step(self.producer.init_transactions)
        except Abort as error:
            raise Indefinite(str(error)) from error
        failpoint.hit(Point.AFTER_PRODUCER)

    def begin(self) -> None:
        """Raises Indefinite also when an earlier transaction's end may still be under way."""
        try:
            self.producer.poll(0)  # tells of lost connections
            if lost := self._connections.lost:
                raise Indefinite(f"a request may still be under way on a lost connection: {lost}")
            self._connections.refused = ""
            self.producer.begin_transaction()
        except KafkaException as error:
            raise Indefinite(client.text(error)) from error
        self.open = True

    def commit(self, offsets: list[TopicPartition], group_metadata: object) -> None:
        """All or nothing, with the input offsets. After Abort nothing was committed; after Indefinite nobody knows."""
        failpoint.hit(Point.BEFORE_OFFSETS)
        self._step(lambda seconds: self.producer.send_offsets_to_transaction(offsets, group_metadata, seconds))
        failpoint.hit(Point.AFTER_OFFSETS)
        try:
            self._step(self.producer.commit_transaction)
        except Abort as error:
            # The client knows that it must abort, but a commit request may have been on its way.
            raise Indefinite(str(error)) from error
        failpoint.hit(Point.AFTER_COMMIT)
        self.open = False

    def abort(self) -> None:
        """Raises Indefinite when even that fails."""
        if not self.open:
            return
        failpoint.hit(Point.BEFORE_ABORT)
        try:
            self._step(self.producer.abort_transaction)
        except Abort as error:
            raise Indefinite(str(error)) from error
        failpoint.hit(Point.AFTER_ABORT)
        self.open = False

    def discard(self) -> None:
        """Drop the producer with all that it still holds; the broker aborts its transaction when the next one begins."""
        self.producer.purge()
        self.open = False

    def _step(self, call: Callable[[float], object]) -> None:
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                with self._calls:
                    call(_SLICE_SECONDS)
                return
            except KafkaException as error:
                self._judge(error, deadline)
                self._pause()

    def _pause(self) -> None:
        """confluent-kafka raises a fatal error (another producer has taken our place, say) from whichever poll it comes in."""
        try:
            self.producer.poll(_PAUSE_SECONDS)
        except KafkaException as error:
            raise Indefinite(client.text(error)) from error

    def _judge(self, error: KafkaException, deadline: float) -> None:
        """Return to try again; else raise what the error means."""
        about = error.args[0]
        if self._stop.asked:
            raise Stopped from error
        if about.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            raise HumanNeeded(f"not allowed to write transactions: {about.str()}: run `bus up`, which sets the access rights")
        if about.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
            raise Indefinite(client.text(error)) from error
        if about.retriable() and not about.fatal() and time.monotonic() < deadline:
            return
        raise (Abort if about.txn_requires_abort() else Indefinite)(self._reason(error)) from error

    def _reason(self, error: KafkaException) -> str:
        """With the name of a topic that may not be written: the error itself has none."""
        with contextlib.suppress(KafkaException):
            self.producer.poll(0)
        return f"{client.text(error)}: {refused}" if (refused := self._connections.refused) else client.text(error)
