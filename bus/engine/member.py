"""One member of the engine's consumer group: which lanes it owns, where they stand, and where their inputs are read on.

Kafka decides who owns which lanes. A new owner begins from the lane records (bus.engine.lanes), keeps the lanes' state in
memory, and reads it again whenever there is doubt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bus.core import failpoint
from bus.core.failpoint import Point
from bus.core.outcome import Cause
from bus.engine import client, lanes
from bus.engine.batch import Batch
from bus.engine.client import Abort, Calls, HumanNeeded
from bus.engine.lanes import Lane
from bus.engine.meter import Meter

GROUP = "bus-engine"
REJOIN_SECONDS = 20.0
"""Longest wait for the group's answer: twice the time in which it gives up a member that is silent."""
RIVAL_SECONDS = 120.0
MAX_RENEWALS = 5
"""More new consumers than this in RIVAL_SECONDS: two processes with one index push each other out."""
RETRY_SECONDS = 0.5


class Member:
    """`name` is the member's for good, so that a successor takes its place at once. `inputs`: the topics; `agreements`: those
    in use, whose places `Lane.seqs` has, until `adopt`; `on_leave` is called when lanes go, before they may be anybody else's."""

    def __init__(
        self,
        config: Mapping[str, Any],
        name: str,
        inputs: Sequence[str],
        agreements: tuple[str, ...],
        calls: Calls,
        meter: Meter,
        log: Any,
        on_leave: Callable[[], None],
    ) -> None:
        self._config, self._name, self._inputs, self._agreements = config, name, list(inputs), agreements
        self._calls, self._meter, self._log, self._on_leave = calls, meter, log, on_leave
        self.lanes: dict[int, Lane] = {}
        """Those owned, as of the last commit."""
        self.disturbed = False
        """Whether a rebalance took place since this was last set to False."""
        self.dead = False
        """Whether the consumer has had a fatal error."""
        self._why = ""
        """Which one."""
        self._given: list[TopicPartition] | None = None
        """Partitions that were assigned and whose lanes have not been read yet."""
        self._owned: list[TopicPartition] = []
        self._starts: dict[tuple[str, int], int] = {}
        """(topic, lane) that were assigned -> the offset to begin at."""
        self._unproven: set[tuple[str, int]] = set()
        """(topic, lane) that were assigned and of which nothing has been read yet."""
        self._left = math.inf  # since when the group has not answered the wish to join
        self._renewals: list[float] = []
        self.consumer = self._make_consumer()

    def _make_consumer(self) -> Consumer:
        return Consumer(
            dict(self._config) | client.MEMBER | {"group.id": GROUP, "group.instance.id": self._name, "error_cb": self._on_error}
        )

    def _on_error(self, error: KafkaError) -> None:
        """Connection errors are mended by librdkafka; after a fatal one this consumer will never read again."""
        if client.is_fatal(error):
            self.dead, self._why = True, f"{error.name()}: {error.str()}"

    def join(self) -> None:
        self._left = time.monotonic()
        self.consumer.subscribe(self._inputs, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def ready(self) -> bool:
        """Join anew if need be, and begin on what was assigned. False: not yet, try again. Raises HumanNeeded."""
        if self.dead or time.monotonic() - self._left > REJOIN_SECONDS:
            self._renew()
        if self._given is not None and not self._take_over():
            self.consumer.poll(RETRY_SECONDS)  # for rebalances only; whatever is read is read again
            return False
        self.disturbed = False
        return True

    def go_back(self) -> None:
        """Read where the lanes stand and begin there again."""
        if self._owned:
            self._given = self._owned

    def adopt(self, agreements: tuple[str, ...]) -> None:
        """Between two transactions: other agreements are in use from now on."""
        self._agreements = agreements
        self.lanes = {number: Lane.of(lane.state(), agreements) for number, lane in self.lanes.items()}

    def places(self) -> dict[tuple[str, int], int]:
        """(input topic, lane) -> next offset, of every input of the lanes owned."""
        starts = {place: start for place, start in self._starts.items() if place[1] in self.lanes}
        return {(topic, lane): self.lanes[lane].inputs.get(topic, start) for (topic, lane), start in starts.items()}

    def metadata(self) -> bytes:
        """What a transaction needs to commit offsets as this member."""
        with self._calls:
            found: bytes = self.consumer.consumer_group_metadata()
        return found

    def close(self) -> None:
        with self._calls:
            self.consumer.close()

    def _renew(self) -> None:
        """Join the group anew. Raises HumanNeeded when this goes on: then somebody else uses our name.

        Once is no reason to complain: a coordinator that dies between taking a member in and telling it so makes a member
        look like its own rival.
        """
        now = time.monotonic()
        self._renewals = [at for at in self._renewals if now - at < RIVAL_SECONDS] + [now]
        if len(self._renewals) > MAX_RENEWALS:
            raise HumanNeeded(f"another process runs as {self._name}: give every worker its own index")
        silent = f"the group's coordinator has not answered for {REJOIN_SECONDS:.0f} s"
        self._log.warning("consumer_replaced", reason=self._why if self.dead else silent)
        self._forget()
        self.close()
        self.dead = False
        self.consumer = self._make_consumer()
        self.join()

    def check(self, batch: Batch) -> None:
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

    def readable(self, messages: list[Any]) -> list[Any]:
        """Without the errors that pass by themselves. Raises HumanNeeded for the others."""
        good = [m for m in messages if m.error() is None]
        if len(good) < len(messages):
            for message in messages:
                if (error := message.error()) is not None:
                    self._on_error(error)
                    if not client.is_fatal(error):
                        client.check(error)
        return good

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Nothing is assigned yet: where to begin is found outside of the callback.

        Assigning somewhere now and elsewhere later will not do: the answer to "where does this partition end?" may arrive
        after the second assignment and override it.
        """
        consumer.assign([])
        self._given, self.disturbed, self._left = partitions, True, math.inf
        failpoint.hit(Point.AFTER_ASSIGNED)

    def _on_revoke(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        """Give up at once: abort what is open, forget the lanes."""
        failpoint.hit(Point.BEFORE_REVOKE)
        self.disturbed, self._left = True, time.monotonic()
        if self.lanes:
            self._log.info("lanes_revoked", lanes=sorted(self.lanes))
        self._forget()
        self._on_leave()
        failpoint.hit(Point.AFTER_REVOKE)
        consumer.unassign()

    def _forget(self) -> None:
        self.lanes, self._given, self._owned = {}, None, []
        self._meter.goes_on()
        self._meter.lanes(0)

    def _take_over(self) -> bool:
        """Read where the assigned lanes stand and begin there. False: not now, try again. Raises HumanNeeded."""
        given = self._given
        assert given is not None
        inputs: dict[int, list[str]] = {}
        for place in given:
            inputs.setdefault(place.partition, []).append(place.topic)
        failpoint.hit(Point.BEFORE_RECOVER)
        try:
            found = lanes.recover(self._config, GROUP, inputs)
        except KafkaException as error:
            client.check(error.args[0])
            self._meter.waits(Cause.LANES)
            self._log.warning("lanes_awaited", lanes=sorted(inputs), reason=client.text(error))
            return False
        failpoint.hit(Point.AFTER_RECOVER)
        self.consumer.poll(0)  # a rebalance that waits to be told: librdkafka may never join again if we assign before it is
        if self._given is not given:
            return False
        failpoint.hit(Point.BEFORE_ASSIGN)
        self.lanes = {number: Lane.of(state, self._agreements) for number, state in found.states.items()}
        self.consumer.assign([TopicPartition(p.topic, p.partition, found.starts[p.topic, p.partition]) for p in given])
        self._starts, self._unproven = dict(found.starts), set(found.starts)
        self._given, self._owned = None, given
        failpoint.hit(Point.AFTER_ASSIGN)
        self._mend_group(found)
        self._meter.goes_on(Cause.LANES)
        self._meter.lanes(len(self.lanes))
        self._log.info("lanes_assigned", lanes=sorted(self.lanes))
        return True

    def _mend_group(self, found: lanes.Recovered) -> None:
        """Where the group's offsets were reset or lost, put them to where the lanes are, so that lag shows what is left."""
        if behind := found.behind(self._inputs):
            self.consumer.commit(offsets=behind, asynchronous=True)
