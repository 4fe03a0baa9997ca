"""An agreement that is switched on gets its past: what stands in `verified.*`, beside the live stream and in its order.

The owner of a lane reads the lane's verified events again, a bounded number for each transaction, and gives the agreement its
deliveries with numbers of the same count; how far it has come stands in the lane record, so it goes on after any death and
under any owner. Meanwhile what comes live is not delivered to that agreement in that lane: it comes by way of `verified.*`
too, so that each person's order holds. Only the owner writes to the lane. So when between two transactions everything up to
the lane's end has been read, the agreement has all of its past, and from the next transaction on gets what comes as it comes.

One agreement at a time, in all lanes of this worker that lack it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import telemetry
from bus.avro.frame import Malformed
from bus.core import topics
from bus.engine import client, lanes
from bus.engine.batch import Batch, PersonOf
from bus.engine.lanes import NOTHING, Lane
from bus.engine.member import GROUP
from bus.engine.policy import Grounds, Policy
from bus.engine.recorded import Recorded

RECORDS = 1_000
"""Most records of the past in one transaction; but twice as many as the last one had live ones, up to MOST_RECORDS, so that
the end is reached while much comes in."""
MOST_RECORDS = 20_000
CLOSE_SECONDS = 0.25
"""Longest wait between two transactions for the last records; in vain, it is tried again after AGAIN_SECONDS."""
AGAIN_SECONDS = 1.0
_POLL_SECONDS = 0.005
_READER = client.READER | {
    "group.id": GROUP,
    "queued.max.messages.kbytes": 4_096,
    "queued.min.messages": 2 * RECORDS,
    "fetch.message.max.bytes": 524_288,
    "error_cb": client.ignore,
}
Place = tuple[str, int]
"""(topic `verified.<dataset>`, lane)."""


@dataclass(slots=True)
class Job:
    """One agreement's past in these lanes."""

    policy: Policy
    agreement: str
    slot: int
    lanes: tuple[int, ...]
    given: dict[Place, int]
    """Next offset, as the lane records will have it once what was given is committed; nothing before the first."""
    treated: Mapping[str, Recorded]
    consumer: Consumer
    come: dict[Place, int]
    """Next offset to be read."""
    at_end: set[Place]
    """Where nothing more was to be read at the last look."""


class Backfill:
    """One worker's. Between two transactions `prepare`, in the next one `give`, before anything live."""

    def __init__(self, config: Mapping[str, Any], grounds: Grounds, log: Any) -> None:
        self._config, self._grounds, self._log = dict(config), grounds, log
        self._admin: AdminClient | None = None
        self._job: Job | None = None
        self._read: deque[Any] = deque()
        self._complete: tuple[int, ...] = ()
        """Lanes of which all is read, up to their end."""
        self._again = 0.0
        self._stopped = set[tuple[str, str]]()
        """(agreement, policy) whose past cannot be given."""

    def prepare(self, policy: Policy, held: Mapping[int, Lane], now_ms: int, live: int) -> bool:
        """Read on. Whether the next transaction has something to give. `live`: live records of the last transaction."""
        self._complete = ()
        chosen = self._choose(policy, held, now_ms)
        job = self._job
        if job is None or chosen is None or not self._goes_on(job, policy, held, chosen):
            self._drop()
            job = self._job = self._begin(policy, held, *chosen) if chosen is not None else None
            telemetry.gauge("bus_engine_past_lanes").set(0 if job is None else len(job.lanes))
        if job is None:
            return False
        most = min(max(RECORDS, 2 * live), MOST_RECORDS)
        try:
            self._fetch(job, most - len(self._read), 0)
            if len(self._read) < most and time.monotonic() >= self._again:
                self._complete = self._close_in(job)
        except KafkaException as error:
            client.check(error.args[0])
        return bool(self._read or self._complete)

    def give(self, batch: Batch, person_of: PersonOf) -> None:
        """What was read, and with it the lanes that are complete go live. Raises KafkaException."""
        job = self._job
        if job is None or not batch.in_force(job.slot):
            self._drop()
            return
        while self._read:
            message = self._read[0]
            try:
                self._treat(job, batch, message, person_of)
            except Malformed as bad:
                self._stop(job, f"{message.topic()!r} lane {message.partition()} offset {message.offset()}: {bad.code.value}")
                return
            self._read.popleft()
        for lane in self._complete:
            ends = {topic: at for (topic, number), at in job.come.items() if number == lane}
            batch.caught_up(lane, job.agreement, ends)
        self._leave(job, self._complete)

    def close(self) -> None:
        self._drop()

    # -- which --------------------------------------------------------------------------------------------------------------

    def _choose(self, policy: Policy, held: Mapping[int, Lane], now_ms: int) -> tuple[int, tuple[int, ...]] | None:
        """(slot, lanes) of the first agreement in force that has not all of its past in lanes that know of it."""
        for slot, one in enumerate(policy.agreements):
            if one.past and one.in_force(now_ms) and (one.id, policy.digest) not in self._stopped:
                lacking = [n for n, lane in held.items() if lane.digest == policy.digest and not _live(lane, one.id)]
                if lacking:
                    return slot, tuple(sorted(lacking))
        return None

    def _goes_on(self, job: Job, policy: Policy, held: Mapping[int, Lane], chosen: tuple[int, tuple[int, ...]]) -> bool:
        """Whether the lane records say what was given: not so after an abort, or when lanes came or went."""
        if (job.policy.digest, job.slot, job.lanes) != (policy.digest, *chosen):
            return False
        return all(
            held[lane].past.get(job.agreement, NOTHING).next.get(topic) == job.given.get((topic, lane))
            for topic, lane in job.come
        )

    def _begin(self, policy: Policy, held: Mapping[int, Lane], slot: int, numbers: tuple[int, ...]) -> Job | None:
        """None: tried again at the next look."""
        one = policy.agreements[slot]
        plans = self._grounds.recorded(one, policy.found)
        found = {
            topics.verified(name): Recorded(self._grounds.datasets[name], self._grounds.register, one.id, plan, policy.found)
            for name, plan in plans.items()
        }
        told = {lane: held[lane].past.get(one.id, NOTHING).next for lane in numbers}
        given = {(topic, lane): at for lane, next_of in told.items() for topic, at in next_of.items() if topic in found}
        try:
            fresh = [(topic, lane) for topic in found for lane in numbers if (topic, lane) not in given]
            come = given | lanes.offsets(self._admins(), fresh, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        except KafkaException as error:
            client.check(error.args[0])
            return None
        consumer = Consumer(self._config | _READER)
        consumer.assign([TopicPartition(topic, lane, at) for (topic, lane), at in come.items()])
        self._log.info("past_begun", agreement=one.id, lanes=list(numbers))
        return Job(policy, one.id, slot, numbers, given, found, consumer, come, set())

    def _drop(self) -> None:
        self._read.clear()
        if self._job is not None:
            self._job.consumer.close()
        self._job = None

    def _stop(self, job: Job, reason: str) -> None:
        """The agreement stays without its past, and so without deliveries, in these lanes, until it is changed."""
        self._stopped.add((job.agreement, job.policy.digest))
        self._log.error("past_stopped", agreement=job.agreement, reason=reason)
        self._drop()

    def _leave(self, job: Job, complete: tuple[int, ...]) -> None:
        """Go on without these lanes. If the transaction is not committed, they lack their past still, and a new job begins."""
        job.lanes = tuple(n for n in job.lanes if n not in complete)
        for place in [place for place in job.come if place[1] in complete]:
            del job.come[place]
            job.given.pop(place, None)
            job.at_end.discard(place)

    def _admins(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._config | {"logger": client.QUIET, "error_cb": client.ignore})
        return self._admin

    # -- reading --------------------------------------------------------------------------------------------------------------

    def _fetch(self, job: Job, most: int, seconds: float) -> None:
        """Raises KafkaException, HumanNeeded."""
        found: list[Any] = job.consumer.consume(max(1, most), seconds) if most > 0 else []
        for message in found:
            place, error = (message.topic(), message.partition()), message.error()
            if error is None and place not in job.come:
                continue
            if error is None:
                self._read.append(message)
                job.come[place] = message.offset() + 1
                job.at_end.discard(place)
            elif error.code() == KafkaError._PARTITION_EOF:
                if place not in job.come:
                    continue
                job.come[place] = max(job.come[place], message.offset())
                job.at_end.add(place)
            else:
                client.check(error)

    def _close_in(self, job: Job) -> tuple[int, ...]:
        """The lanes that are read up to their ends as of now: nobody writes to them before the next transaction."""
        near = [n for n in job.lanes if all(place in job.at_end for place in job.come if place[1] == n)]
        if not near:
            return ()
        places = [place for place in job.come if place[1] in near]
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        ends = lanes.offsets(self._admins(), places, latest, IsolationLevel.READ_UNCOMMITTED)
        deadline = time.monotonic() + CLOSE_SECONDS
        while missing := {place[1] for place, end in ends.items() if job.come[place] < end}:
            if time.monotonic() >= deadline:
                self._again = time.monotonic() + AGAIN_SECONDS
                break
            self._fetch(job, RECORDS, _POLL_SECONDS)
        return tuple(n for n in near if n not in missing)

    # -- giving ---------------------------------------------------------------------------------------------------------------

    def _treat(self, job: Job, batch: Batch, message: Any, person_of: PersonOf) -> None:
        topic, lane, offset = message.topic(), message.partition(), message.offset()
        treated = job.treated[topic]
        seqs = batch.count_on(lane)
        outcome, record = treated.treat(message.value(), message.key(), person_of, seqs, job.slot)
        if record is not None:
            batch.produce(*record, lane)
        batch.past(lane, job.agreement, treated.dataset, (job.given.get((topic, lane), 0), offset + 1), outcome)
        job.given[topic, lane] = offset + 1


def _live(lane: Lane, agreement: str) -> bool:
    return lane.past.get(agreement, NOTHING).live
