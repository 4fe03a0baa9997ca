"""The engine worker: change events in, verified events and deliveries out, everything of a step in one transaction.

Kafka's consumer group decides who owns which lanes. An owner starts from the lane records (bus.engine.lanes), keeps the
lanes' state in memory, and gives it up at the slightest doubt: after an abort it goes back to the last commit, after an
error that leaves the outcome open it throws the producer and its positions away and reads both again.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bus import access, telemetry
from bus.avro import catalogue, dataset
from bus.config import ConfigError, Settings
from bus.core.outcome import Cause
from bus.engine import client, lanes, policy
from bus.engine.agreements import AgreementError
from bus.engine.audit import AuditEncoder
from bus.engine.batch import Batch
from bus.engine.client import Calls, HumanNeeded, Stop
from bus.engine.lanes import Lane
from bus.engine.meter import Meter
from bus.engine.plan import PlanError
from bus.engine.policy import Policy
from bus.engine.readiness import Readiness
from bus.engine.replica import ReplicaError, ReplicaReader
from bus.engine.transaction import Abort, Indefinite, Stopped, Transactions
from bus.registry import log as registry

GROUP = "bus-engine"
CHUNK_RECORDS = 2_000
"""Records taken from the client's queue at once."""
BATCH_SECONDS = 1.0
"""Longest time a transaction keeps taking records in."""
IDLE_SECONDS = 0.1
RETRY_SECONDS = 0.5
REJOIN_SECONDS = 20.0
"""Longest wait for the group's answer: twice the time in which it gives up a member that is silent."""
RIVAL_SECONDS = 60.0
MAX_RENEWALS = 5
"""More new consumers than this in RIVAL_SECONDS: two processes with one index push each other out."""
GAUGES_SECONDS = 1.0
WATCH_SECONDS = 1.0
STUCK_STATUS = os.EX_TEMPFAIL
COLLECT_SECONDS = 10.0
_EXPECTED = (
    HumanNeeded,
    AgreementError,
    PlanError,
    ReplicaError,
    ConfigError,
    dataset.SchemaError,
    catalogue.CatalogueError,
    KafkaException,
)


def run(settings: Settings, index: int) -> None:
    """Work until SIGTERM. Exits with status 1 and a reason on a condition a human must mend."""
    stop = Stop().install()
    telemetry.start(settings.home, f"engine-{index}", settings.log_level)
    log = telemetry.logger("engine", str(index))
    log.info("process_started")
    try:
        worker = Worker(settings, index, stop)
        threading.Thread(target=worker.watch, name="watch", daemon=True).start()
        try:
            worker.work()
        finally:
            worker.close()
        log.info("process_stopping")
    except Stopped:
        log.info("process_stopping")
    except _EXPECTED as error:
        log.error("process_failed", reason=client.text(error))
        sys.exit(1)
    except Exception as error:  # its text could quote a record, so only its kind and place are told
        log.error("process_failed", reason=f"a fault in the engine: {client.place(error)}; please report it")
        sys.exit(2)


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Worker:
    """One member of the group `bus-engine`; `index` names it, so that its successor takes its place at once."""

    def __init__(self, settings: Settings, index: int, stop: Stop, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._settings, self._stop, self._clock_ms = settings, stop, clock_ms
        self._name = f"engine-{index}"
        self._log = telemetry.logger("engine", str(index))
        self._config = access.confluent(settings, "engine") | {"client.id": self._name}
        self._policy: Policy = policy.load(settings, registry.read(self._config))
        self._names = tuple(a.id for a in self._policy.agreements)
        self._audit = AuditEncoder(self._name, self._policy.audit_schema_id)
        self._meter = Meter(clock_ms)
        self._replica = ReplicaReader(settings.home)
        register = self._policy.register_topic
        self._readiness = Readiness(settings, self._config, register, self._replica, stop, self._meter, self._log)
        self._calls = Calls()
        self._transactions: Transactions | None = None
        self._lanes: dict[int, Lane] = {}
        self._given: list[TopicPartition] | None = None
        """Partitions that were assigned and whose lanes have not been read yet."""
        self._owned: list[TopicPartition] = []
        self._starts: dict[tuple[str, int], int] = {}
        """(topic, lane) that were assigned -> the offset to begin at."""
        self._unproven: set[tuple[str, int]] = set()
        """(topic, lane) that were assigned and of which nothing has been read yet."""
        self._disturbed = False
        """Whether a rebalance took place in the last call of the client."""
        self._dead = False
        """Whether the consumer has had a fatal error."""
        self._left = math.inf  # since when the group has not answered its wish to join
        self._renewals: list[float] = []
        self._ended = 0.0
        """When the last transaction was committed."""
        self._chores_due = self._collect_due = 0.0
        self._consumer = self._make_consumer()

    def _make_consumer(self) -> Consumer:
        return Consumer(
            self._config | client.MEMBER | {"group.id": GROUP, "group.instance.id": self._name, "error_cb": self._on_error}
        )

    def _on_error(self, error: KafkaError) -> None:
        """Connection errors are mended by librdkafka; after a fatal one this consumer will never read again."""
        self._dead = self._dead or client.is_fatal(error)

    def _renew_consumer(self) -> None:
        """Join the group anew. Raises HumanNeeded when this goes on: then somebody else uses our name.

        Once is no reason to complain: a coordinator that dies between taking a member in and telling it so makes a member
        look like its own rival.
        """
        now = time.monotonic()
        self._renewals = [at for at in self._renewals if now - at < RIVAL_SECONDS] + [now]
        if len(self._renewals) > MAX_RENEWALS:
            raise HumanNeeded(f"another process runs as {self._name}: give every worker its own index")
        self._log.warning("consumer_replaced")
        self._forget()
        with self._calls:
            self._consumer.close()
        self._dead = False
        self._consumer = self._make_consumer()
        self._subscribe()

    def work(self) -> None:
        """Until asked to stop. Raises HumanNeeded and the other errors that `run` reports; Stopped in the middle of a step."""
        self._transactions = self._new_producer()  # first of all: it ends what an earlier one left open
        self._readiness.await_recent()
        self._subscribe()
        gc.collect()
        gc.freeze()
        gc.disable()  # the loop makes no cycles; what little there is goes with the chores
        while not self._stop.asked:
            self._step()
            self._chores()

    def watch(self) -> None:
        """Ends the process when a call of the client does not return; its successor ends the open transaction. Never returns."""
        while True:
            time.sleep(WATCH_SECONDS)
            if self._calls.stuck():
                self._log.error("process_failed", reason="a call of the Kafka client does not return: starting again")
                os._exit(STUCK_STATUS)

    def _subscribe(self) -> None:
        topics, self._left = list(self._policy.plans), time.monotonic()
        self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def _new_producer(self) -> Transactions:
        """Tried until it works: without a broker there is nothing else to do. Raises HumanNeeded, Stopped."""
        while True:
            try:
                made = Transactions(self._config, self._name, self._stop, self._calls)
                self._meter.goes_on(Cause.PRODUCER)
                return made
            except Indefinite:
                self._meter.waits(Cause.PRODUCER)
                if self._stop.asked:
                    raise Stopped from None
                time.sleep(RETRY_SECONDS)

    # -- one step --------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        transactions = self._transactions
        assert transactions is not None
        try:
            if self._dead or time.monotonic() - self._left > REJOIN_SECONDS:
                self._renew_consumer()
            if self._given is not None and not self._take_over():
                self._consumer.poll(RETRY_SECONDS)  # for rebalances only; whatever is read is read again
                return
            self._disturbed = False
            message = self._consumer.poll(IDLE_SECONDS)
            if self._disturbed or self._dead or message is None:
                return  # what a rebalance took away is read by whoever has the lane next
            if records := self._readable([message]):
                self._transact(transactions, records)
        except Abort as error:
            self._back_to_last_commit(transactions, str(error))
        except Indefinite as error:
            self._start_over(transactions, str(error))

    def _transact(self, transactions: Transactions, first: list[Any]) -> None:
        """One batch, from its first record to its commit. Raises Abort or Indefinite."""
        self._readiness.await_complete()
        began = time.monotonic()
        pause = max(0.0, self._ended + self._settings.engine.poll_ms / 1000 - began)
        transactions.begin()
        batch = Batch(self._policy, self._lanes, transactions.producer, self._clock_ms())
        if not self._fill(batch, first, began, pause):
            return
        try:
            self._check_joints(batch)
            after = batch.close(self._audit)
        except KafkaException as error:
            raise Abort(client.text(error)) from error
        with self._calls:
            member = self._consumer.consumer_group_metadata()
        transactions.commit(batch.offsets(), member)
        self._lanes |= after
        self._ended = time.monotonic()
        self._meter.committed(batch, began)

    def _fill(self, batch: Batch, first: list[Any], began: float, pause: float) -> bool:
        """Take records in until the input is drained or the batch is full. False: a rebalance ended the transaction."""
        most, consume = self._settings.engine.batch_events, self._consumer.consume
        chunk = first
        try:
            while True:
                if chunk:
                    with self._replica.view() as person_of:
                        batch.take(chunk, person_of)
                if batch.records >= most or time.monotonic() - began > BATCH_SECONDS:
                    return True
                found = consume(min(CHUNK_RECORDS, most - batch.records), pause)
                pause = 0.0
                if self._disturbed:
                    return False
                if self._dead:
                    raise Abort("the consumer has ended")
                if not found:
                    return True
                chunk = self._readable(found)
        except KafkaException as error:
            raise Abort(client.text(error)) from error

    def _check_joints(self, batch: Batch) -> None:
        """Raises Abort when records do not go on where the last ones of their lane ended.

        Commit markers and aborted transactions leave holes. One offset is the marker of what was read last, and is taken for
        that unless the client has only just begun there.
        """
        holes: lanes.Holes = {}
        for topic, lane, expected, first in batch.joints(self._starts):
            if first > expected + ((topic, lane) not in self._unproven):
                holes.setdefault((topic, lane), []).append((expected, first))
            elif first < expected:
                raise Abort(f"{topic!r} lane {lane} went back to offset {first} from {expected}")
        for topic, lane, expected, first in lanes.holding(self._config, GROUP, holes) if holes else ():
            raise Abort(f"{topic!r} lane {lane} went on at offset {first} instead of {expected}")
        self._unproven.difference_update(batch.runs)

    def _readable(self, messages: list[Any]) -> list[Any]:
        """Without the errors that pass by themselves. Raises HumanNeeded for the others."""
        good = [m for m in messages if m.error() is None]
        if len(good) < len(messages):
            for message in messages:
                if (error := message.error()) is not None:
                    if client.is_fatal(error):
                        self._dead = True
                    else:
                        client.check(error)
        return good

    # -- lanes come and go -------------------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Nothing is assigned yet: where to begin is found outside of the callback.

        Assigning somewhere now and elsewhere later will not do: the answer to "where does this partition end?" may arrive
        after the second assignment and override it.
        """
        consumer.assign([])
        self._given, self._disturbed, self._left = partitions, True, math.inf

    def _on_revoke(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        """Give up at once: abort what is open, forget the lanes."""
        self._disturbed, self._left = True, time.monotonic()
        if self._lanes:
            self._log.info("lanes_revoked", lanes=sorted(self._lanes))
        self._forget()
        if self._transactions is not None and self._transactions.open:
            self._meter.aborted()
            try:
                self._transactions.abort()
            except (Indefinite, Stopped):
                self._transactions.discard()  # `begin` of the next batch fails and a new producer is made
        consumer.unassign()

    def _forget(self) -> None:
        self._lanes, self._given, self._owned = {}, None, []
        self._meter.goes_on()
        self._meter.lanes(0)

    def _take_over(self) -> bool:
        """Read where the assigned lanes stand and begin there. False: not now, try again. Raises HumanNeeded."""
        given = self._given
        assert given is not None
        inputs: dict[int, list[str]] = {}
        for place in given:
            inputs.setdefault(place.partition, []).append(place.topic)
        try:
            found = lanes.recover(self._config, GROUP, inputs)
        except KafkaException as error:
            client.check(error.args[0])
            self._meter.waits(Cause.LANES)
            self._log.warning("lanes_awaited", lanes=sorted(inputs), reason=client.text(error))
            return False
        self._consumer.poll(0)  # a rebalance that waits to be told: librdkafka may never join again if we assign before it is
        if self._given is not given:
            return False
        self._lanes = {number: Lane.of(state, self._names) for number, state in found.states.items()}
        self._consumer.assign([TopicPartition(p.topic, p.partition, found.starts[p.topic, p.partition]) for p in given])
        self._starts, self._unproven = dict(found.starts), set(found.starts)
        self._given, self._owned = None, given
        self._mend_group(found)
        self._meter.goes_on(Cause.LANES)
        self._meter.lanes(len(self._lanes))
        self._log.info("lanes_assigned", lanes=sorted(self._lanes))
        return True

    def _mend_group(self, found: lanes.Recovered) -> None:
        """Where the group's offsets were reset or lost, put them to where the lanes are, so that lag shows what is left."""
        if behind := found.behind(self._policy.plans):
            self._consumer.commit(offsets=behind, asynchronous=True)

    # -- when something goes wrong ------------------------------------------------------------------------------------------

    def _back_to_last_commit(self, transactions: Transactions, reason: str) -> None:
        """Undo the open transaction; what it read is read again, after a pause, for the reason may last."""
        self._meter.waits(Cause.TRANSACTION)
        self._log.warning("transaction_aborted", reason=reason)
        self._meter.aborted()
        try:
            transactions.abort()
        except Indefinite as error:
            self._start_over(transactions, str(error))
            return
        time.sleep(RETRY_SECONDS)
        if self._owned:
            self._given = self._owned

    def _start_over(self, transactions: Transactions, reason: str) -> None:
        """Nobody knows what was committed: a new producer ends what is open, then offsets and lane records are read again."""
        self._meter.waits(Cause.TRANSACTION)
        self._log.warning("producer_replaced", reason=reason)
        if transactions.open:
            self._meter.aborted()
        transactions.discard()
        self._transactions = None
        time.sleep(RETRY_SECONDS)
        self._transactions = self._new_producer()
        if self._owned:
            self._given = self._owned

    # -- chores ---------------------------------------------------------------------------------------------------------------

    def _chores(self) -> None:
        now = time.monotonic()
        if now >= self._chores_due:
            self._chores_due = now + GAUGES_SECONDS
            self._meter.lag(self._consumer, self._lanes, [(p.topic, p.dataset) for p in self._policy.plans.values()])
        if now >= self._collect_due:
            self._collect_due = now + COLLECT_SECONDS
            gc.collect()

    def close(self) -> None:
        """Leave; an open transaction is ended by the next worker of this index, or by the broker in time."""
        self._transactions = None
        with self._calls:
            self._consumer.close()
        self._replica.close()
