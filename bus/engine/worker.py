"""The engine worker: change events in, verified events and deliveries out, everything of a step in one transaction.

After an abort it goes back to the last commit; after an error that leaves the outcome open it throws the producer and its
positions away and reads both again.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaException

from bus import access, telemetry
from bus.avro import catalogue, dataset
from bus.config import ConfigError, Settings
from bus.core import failpoint
from bus.core.failpoint import Point
from bus.core.outcome import Cause
from bus.engine import client, lanes
from bus.engine.audit import AuditEncoder
from bus.engine.batch import Batch
from bus.engine.client import Abort, Calls, HumanNeeded, Indefinite, Stop, Stopped
from bus.engine.following import Following
from bus.engine.member import Member
from bus.engine.meter import Meter
from bus.engine.past import Backfill
from bus.engine.plan import PlanError
from bus.engine.policy import Grounds, Policy
from bus.engine.readiness import Readiness
from bus.engine.replica import ReplicaError, ReplicaReader
from bus.engine.transaction import Transactions
from bus.signatures import keys

CHUNK_RECORDS = 2_000
"""Records taken from the client's queue at once."""
BATCH_SECONDS = 1.0
"""Longest time a transaction keeps taking records in."""
IDLE_SECONDS = 0.1
RETRY_SECONDS = 0.5
GAUGES_SECONDS = 1.0
WATCH_SECONDS = 1.0
STUCK_STATUS = os.EX_TEMPFAIL
COLLECT_SECONDS = 10.0
_EXPECTED = (
    HumanNeeded,
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
        self._connection = access.aiokafka(settings, "engine") | {"client_id": self._name}
        self._meter = Meter(clock_ms)
        grounds = Grounds.load(settings)
        self._following = Following(self._config, grounds, self._log, partial(keys.public, settings))
        self._backfill = Backfill(self._config, grounds, self._log)
        self._policy: Policy = self._following.first(stop, self._meter)
        self._meter.agreements(a.id for a in self._policy.agreements)
        self._audit = AuditEncoder(self._name, self._policy.audit_schema_id)
        self._replica = ReplicaReader(settings.home)
        register = self._policy.register_topic
        self._readiness = Readiness(settings, self._config, register, self._replica, stop, self._meter, self._log)
        self._calls = Calls()
        self._transactions: Transactions | None = None
        self._member = Member(
            self._config,
            self._name,
            list(self._policy.plans),
            tuple(a.id for a in self._policy.agreements),
            self._calls,
            self._meter,
            self._log,
            self._on_leave,
        )
        self._ended = 0.0
        """When the last transaction was committed."""
        self._live = 0
        """Records that came in with it."""
        self._chores_due = self._collect_due = 0.0

    def work(self) -> None:
        """Until asked to stop. Raises HumanNeeded and the other errors that `run` reports; Stopped in the middle of a step."""
        self._transactions = self._new_producer()  # before the register is waited for: it ends what an earlier one left open
        self._readiness.await_recent()
        failpoint.hit(Point.BEFORE_JOIN)
        self._member.join()
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

    def _new_producer(self) -> Transactions:
        """Tried until it works: without a broker there is nothing else to do. Raises HumanNeeded, Stopped."""
        while True:
            try:
                made = Transactions(self._connection, self._name, self._stop, self._calls, wall_clock_ms)
                self._meter.goes_on(Cause.PRODUCER)
                return made
            except Indefinite as error:
                self._meter.waits(Cause.PRODUCER)
                self._log.warning("producer_awaited", reason=str(error))
                if self._stop.asked:
                    raise Stopped from None
                time.sleep(RETRY_SECONDS)

    # -- one step --------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        transactions = self._transactions
        assert transactions is not None
        try:
            if not self._member.ready():
                return
            self._follow()
            if self._outdated():
                return
            changes = lanes.under_another(self._member.lanes, self._policy.digest)
            past = self._backfill.prepare(self._policy, self._member.lanes, self._clock_ms(), self._live)
            failpoint.hit(Point.BEFORE_READ)
            message = self._member.consumer.poll(0 if changes or past else IDLE_SECONDS)
            if self._member.disturbed or self._member.dead:
                return  # what a rebalance took away is read by whoever has the lane next
            failpoint.hit(Point.AFTER_READ)
            records = self._member.readable([message] if message is not None else [])
            if records or changes or past:
                self._transact(transactions, records)
        except Abort as error:
            self._back_to_last_commit(transactions, str(error))
        except Indefinite as error:
            self._start_over(transactions, str(error))

    def _follow(self) -> None:
        """Take over what the agreements' topic says now: between two transactions, whole."""
        newer = self._following.newer()
        if newer is None:
            return
        other, self._policy = newer.digest != self._policy.digest, newer
        if other:
            self._member.adopt(tuple(a.id for a in newer.agreements))
            self._meter.agreements(a.id for a in newer.agreements)
            self._log.info("agreements_in_force", version=newer.version, policy=newer.digest)

    def _outdated(self) -> bool:
        """Whether a lane was worked under newer agreements than ours: then nothing is done before we have them, too."""
        mine = self._policy
        if not any(lane.version > mine.version and lane.digest != mine.digest for lane in self._member.lanes.values()):
            self._meter.goes_on(Cause.AGREEMENTS)
            return False
        self._meter.waits(Cause.AGREEMENTS)
        self._member.consumer.poll(RETRY_SECONDS)  # for rebalances only; whatever is read is read again
        self._member.go_back()
        return True

    def _transact(self, transactions: Transactions, first: list[Any]) -> None:
        """One batch, from its first record to its commit. Raises Abort or Indefinite."""
        self._readiness.await_complete()
        began = time.monotonic()
        pause = max(0.0, self._ended + self._settings.engine.poll_ms / 1000 - began)
        transactions.begin()
        failpoint.hit(Point.AFTER_BEGIN)
        batch = Batch(self._policy, self._member.lanes, transactions.produce, self._clock_ms())
        if not self._fill(batch, first, began, pause):
            return
        try:
            self._member.check(batch)
            after = batch.close(self._audit)
        except KafkaException as error:
            raise Abort(client.text(error)) from error
        transactions.commit(batch.offsets(), self._member.metadata())
        self._member.lanes |= after
        self._ended = time.monotonic()
        self._live = batch.records
        self._meter.committed(batch, began)
        failpoint.hit(Point.AFTER_COUNTED)
        for lane, agreement in batch.gone_live():
            self._log.info("past_caught_up", agreement=agreement, lane=lane)

    def _fill(self, batch: Batch, first: list[Any], began: float, pause: float) -> bool:
        """Take records in until there are no more, the batch is full, or other agreements wait. False: a rebalance ended it.

        Input is gathered for the pause first: a transaction costs brokers and readers the same whatever is in it, and while the
        coordinator still ends the one before it puts the producer off (CONCURRENT_TRANSACTIONS).
        """
        most = self._settings.engine.batch_events
        try:
            batch.change(self._member.places())
            chunk = self._more(most - len(first), pause)
            if chunk is None:
                return False
            with self._replica.view() as person_of:
                self._backfill.give(batch, person_of)
            self._take(batch, first)  # apart from what was read after it, for a batch looks at the offsets where chunks meet
            self._take(batch, chunk)
            while chunk and time.monotonic() - began <= BATCH_SECONDS and not self._following.waits():
                chunk = self._more(most - batch.records, 0.0)
                if chunk is None:
                    return False
                self._take(batch, chunk)
        except KafkaException as error:
            raise Abort(client.text(error)) from error
        return True

    def _more(self, room: int, pause: float) -> list[Any] | None:
        """What can be read now, or within `pause` seconds. None: a rebalance takes it away. Raises Abort."""
        member = self._member
        found = member.consumer.consume(min(CHUNK_RECORDS, room), pause) if room > 0 else []
        if member.disturbed:
            return None
        chunk = member.readable(found)
        if member.dead:
            raise Abort("the consumer has ended")
        return chunk

    def _take(self, batch: Batch, chunk: list[Any]) -> None:
        if chunk:
            with self._replica.view() as person_of:
                batch.take(chunk, person_of)
            failpoint.hit(Point.AFTER_TAKE)

    def _on_leave(self) -> None:
        """The lanes go, so whatever was done for them is undone."""
        if self._transactions is not None and self._transactions.open:
            self._meter.aborted()
            try:
                self._transactions.abort()
            except (Indefinite, Stopped):
                self._transactions.discard()  # `begin` of the next batch fails and a new producer is made

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
        self._member.go_back()

    def _start_over(self, transactions: Transactions, reason: str) -> None:
        """Nobody knows what was committed: a new producer ends what is open, then offsets and lane records are read again."""
        self._meter.waits(Cause.TRANSACTION)
        self._log.warning("producer_replaced", reason=reason)
        if transactions.open:
            self._meter.aborted()
        failpoint.hit(Point.BEFORE_DISCARD)
        transactions.discard()
        failpoint.hit(Point.AFTER_DISCARD)
        self._transactions = None
        time.sleep(RETRY_SECONDS)
        self._transactions = self._new_producer()
        self._member.go_back()

    # -- chores ---------------------------------------------------------------------------------------------------------------

    def _chores(self) -> None:
        now = time.monotonic()
        if now >= self._chores_due:
            self._chores_due = now + GAUGES_SECONDS
            self._meter.lag(
                self._member.consumer, self._member.lanes, [(p.topic, p.dataset) for p in self._policy.plans.values()]
            )
        if now >= self._collect_due:
            self._collect_due = now + COLLECT_SECONDS
            gc.collect()

    def close(self) -> None:
        """Leave; an open transaction is ended by the next worker of this index, or by the broker in time."""
        if self._transactions is not None:
            self._transactions.discard()
        self._following.close()
        self._backfill.close()
        self._member.close()
        self._replica.close()
