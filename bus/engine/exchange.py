"""What a transactional producer says to brokers, each request sent once: the asynchronous part of `bus.engine.transaction`.

librdkafka sends a request for each partition, and a broker takes one of a connection at a time; here all partitions of one
leader go in one request, which with a few records in each of 22 takes a third of the time (docs/performance.md).

Nothing is sent again unless a broker has answered, and said something to which the same once more does no harm. Whatever else
goes wrong ends the transaction, for the worker knows how to do it once more; so there is no request that could yet arrive.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import errors as told
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.structs import TopicPartition
from confluent_kafka import KafkaError

from bus.core import failpoint
from bus.core.failpoint import Point
from bus.engine.answers import ELSEWHERE, OTHER_LEADER, PUT_OFF, judge, of_places, unanswered, unreached, worst
from bus.engine.client import Abort, Indefinite
from bus.engine.membership import Membership, TxnOffsetCommit
from bus.engine.outbox import Place, Sealed

TRANSACTION_TIMEOUT_MS = 15_000
"""How long the broker keeps a transaction open; after that it aborts it, and refuses the producer's epoch."""
REQUEST_BYTES = 1_048_576
"""No batch is added to a request that has as much."""
REQUEST_SECONDS = 20.0
"""Longest wait for one answer."""
REPLICAS_SECONDS = 10.0
"""How long a broker waits for its replicas, shorter than anybody waits for its answer: it says which partition lacks them."""
AGAIN_SECONDS = 25.0
"""Longest time for which a request is repeated that brokers put off."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.002, 0.1
CLOSE_SECONDS = 0.5
Codes = Mapping[int, str]
"""Of an answer: code -> what it is about."""
_ALL_REPLICAS = -1
_TURNS = 3
"""Of the event loop, from the end of a connection to the moment that aiokafka knows of it."""


class _Request:
    """The batches of one, as it fills."""

    def __init__(self) -> None:
        self.batches: list[Sealed] = []
        self._places: set[Place] = set()
        self._size_bytes = 0

    def takes(self, batch: Sealed) -> bool:
        return self._size_bytes < REQUEST_BYTES and (batch.topic, batch.lane) not in self._places

    def add(self, batch: Sealed) -> None:
        self.batches.append(batch)
        self._places.add((batch.topic, batch.lane))
        self._size_bytes += len(batch.content)


class Exchange:
    """One connection group to the brokers. All methods but `failed` and `pending_bytes` are for its event loop.

    `producer`: (id, epoch), once there is one.
    """

    def __init__(self, config: Mapping[str, Any], transactional_id: str) -> None:
        self._id = transactional_id
        self._client = AIOKafkaClient(**config, request_timeout_ms=int(REQUEST_SECONDS * 1000))
        self.producer = (-1, -1)
        self.failed: Exception | None = None
        """Why the open transaction cannot be committed."""
        self.pending_bytes = 0
        """Of batches whose arrival no broker has confirmed."""
        self._queue: deque[Sealed] = deque()
        self._added: set[Place] = set()
        """Places that are part of the open transaction."""
        self._group = ""
        """The group whose offsets are part of it."""
        self._driver: asyncio.Task[None] | None = None
        self._joining: asyncio.Task[None] | None = None
        self._sent: set[asyncio.Task[None]] = set()
        self._coordinators: dict[tuple[int, str], int] = {}

    async def open(self) -> None:
        """Reach a broker and become the producer of this id: earlier ones are fenced, what they left open is aborted."""
        unreached.forget()
        try:
            await self._client.bootstrap()
        except told.KafkaConnectionError as error:
            raise unreached.reason("no broker is reached") from error
        except Exception as error:
            raise unanswered(error) from error
        await self.renew()

    async def renew(self) -> None:
        """A new epoch. What is open under the old one is aborted, and whatever of it arrives later is refused."""
        self.drop()
        answer = await self._coordinated(InitProducerIdRequest(self._id, TRANSACTION_TIMEOUT_MS), _code)
        self.producer = (answer.producer_id, answer.producer_epoch)

    def drop(self) -> None:
        """Forget what is under way."""
        for task in (*self._sent, self._driver, self._joining):
            if task is not None:
                task.cancel()
        self._sent.clear()
        self._queue.clear()
        self._driver = self._joining = self.failed = None
        self.pending_bytes = 0
        self._added.clear()
        self._group = ""

    async def begin(self) -> None:
        """A transaction. Connections that brokers have closed meanwhile are seen, so that no request goes there."""
        self._added.clear()
        self._group = ""
        unreached.forget()
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def put(self, batch: Sealed) -> None:
        """Send it, behind what was put before. Its fate is told by `failed` or `flush`."""
        self._queue.append(batch)
        self.pending_bytes += len(batch.content)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.get_running_loop().create_task(self._guarded(self._drive))

    async def flush(self, group: str) -> None:
        """Until all batches are confirmed, and this group is part of the transaction."""
        joined = self._joining = asyncio.get_running_loop().create_task(self._join(group))
        while self._driver is not None and not self._driver.done():
            await self._driver
        while self._sent:
            await asyncio.wait(self._sent)
        await asyncio.wait({joined})
        refused = joined.exception()
        if self.failed is not None or refused is not None:
            raise self.failed or refused  # type: ignore[misc]  # one of them is there
        if self.pending_bytes or self._queue:
            raise Indefinite("not every batch was confirmed")

    async def has_room(self, most_bytes: int) -> None:
        """Until fewer bytes are under way, or there is no hope of that."""
        while self.failed is None and self.pending_bytes > most_bytes:
            under_way = {*self._sent, *([self._driver] if self._driver and not self._driver.done() else [])}
            if not under_way:
                raise Indefinite("not every batch was confirmed")
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    async def commit_offsets(self, offsets: Mapping[Place, int], member: Membership) -> None:
        def codes(answer: Any) -> Codes:
            return of_places(offsets, ((topic, lane, code) for topic, listed, _ in answer.errors for lane, code, _ in listed))

        await self._coordinated(TxnOffsetCommit(self._id, self.producer, member, offsets), codes, member.group)

    async def end(self, commit: bool) -> None:
        await self._coordinated(EndTxnRequest(self._id, *self.producer, commit), _code)

    async def close(self) -> None:
        self.drop()
        await asyncio.wait_for(self._client.close(), CLOSE_SECONDS)

    # -- batches ------------------------------------------------------------------------------------------------------------

    async def _guarded(self, work: Callable[..., Awaitable[None]], *about: Any) -> None:
        try:
            await work(*about)
        except Exception as error:  # whatever it is, nobody knows what arrived
            self.failed = self.failed or unanswered(error)
            self._queue.clear()

    async def _drive(self) -> None:
        while self._queue:
            taken = list(self._queue)
            self._queue.clear()
            await self._add({(batch.topic, batch.lane) for batch in taken})
            for node, group in self._by_leader(taken):
                if not await self._client.ready(node):  # here, so that the tasks below write in their order
                    raise unreached.reason("a partition's leader is not reached")
                task = asyncio.get_running_loop().create_task(self._guarded(self._send, node, group))
                self._sent.add(task)
                task.add_done_callback(self._sent.discard)

    def _by_leader(self, batches: Iterable[Sealed]) -> list[tuple[int, list[Sealed]]]:
        """(broker, batches of one request), in order: a request has one batch of a place at most."""
        found: list[tuple[int, list[Sealed]]] = []
        filling: dict[int, _Request] = {}
        for batch in batches:
            leader = self._client.cluster.leader_for_partition(TopicPartition(batch.topic, batch.lane))
            if leader is None or leader < 0:
                self._client.force_metadata_update()
                raise Abort(f"{batch.topic!r} lane {batch.lane} has no leader")
            if leader not in filling or not filling[leader].takes(batch):
                filling[leader] = _Request()
                found.append((leader, filling[leader].batches))
            filling[leader].add(batch)
        return found

    async def _send(self, node: int, batches: list[Sealed]) -> None:
        grouped: dict[str, list[tuple[int, bytes]]] = {}
        for batch in batches:
            grouped.setdefault(batch.topic, []).append((batch.lane, bytes(batch.content)))
        size = sum(len(batch.content) for batch in batches)
        request = ProduceRequest(self._id, _ALL_REPLICAS, int(REPLICAS_SECONDS * 1000), list(grouped.items()))
        answer: Any = await self._client.send(node, request)
        self.pending_bytes -= size
        answered = ((topic, lane, code) for topic, listed in answer.topics for lane, code, *_ in listed)
        codes = of_places([(batch.topic, batch.lane) for batch in batches], answered)
        if OTHER_LEADER & codes.keys():
            self._client.force_metadata_update()
        code = worst(codes)
        judge(code, codes[code])

    async def _add(self, places: set[Place]) -> None:
        fresh = places - self._added
        if not fresh:
            return
        grouped: dict[str, list[int]] = {}
        for topic, lane in sorted(fresh):
            grouped.setdefault(topic, []).append(lane)
        await self._know(grouped)

        def codes(answer: Any) -> Codes:
            return of_places(fresh, ((topic, lane, code) for topic, listed in answer.errors for lane, code in listed))

        await self._coordinated(AddPartitionsToTxnRequest(self._id, *self.producer, list(grouped.items())), codes)
        self._added |= fresh
        failpoint.hit(Point.PARTITIONS_ADDED)

    async def _know(self, names: Iterable[str]) -> None:
        """Learn who leads these topics. Raises Abort.

        The client is told no topics, so it looks at all that this user may see: named ones, its request would have created.
        """
        deadline, pause = time.monotonic() + AGAIN_SECONDS, FIRST_PAUSE_SECONDS
        while missing := [name for name in names if not self._client.cluster.partitions_for_topic(name)]:
            if (node := self._client.get_random_node()) is None:
                raise Indefinite("no broker is known")
            answer: Any = await self._client.send(node, MetadataRequest(missing, allow_auto_topic_creation=False))
            codes = {code: f"{topic!r}" for code, topic, *_ in answer.topics}
            code = worst(codes)
            if time.monotonic() > deadline:
                judge(code or KafkaError.UNKNOWN_TOPIC_OR_PART, codes.get(code, ""))
            elif code not in PUT_OFF | OTHER_LEADER:
                judge(code, codes.get(code, ""))
                await self._client.force_metadata_update()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    # -- coordinators ---------------------------------------------------------------------------------------------------------

    async def _join(self, group: str) -> None:
        if self._group != group:
            if self._driver is not None:
                await asyncio.wait({self._driver})  # or the coordinator puts one of the two off
            if self.failed is not None:
                return
            await self._coordinated(AddOffsetsToTxnRequest(self._id, *self.producer, group), _code)
            self._group = group

    async def _coordinated(self, request: Any, codes: Callable[[Any], Codes], group: str = "") -> Any:
        """The answer of the transaction's coordinator, or of the group's; asked again when that does no harm.

        Raises Abort, Indefinite, HumanNeeded.
        """
        deadline, pause = time.monotonic() + AGAIN_SECONDS, FIRST_PAUSE_SECONDS
        key = (CoordinationType.GROUP, group) if group else (CoordinationType.TRANSACTION, self._id)
        while True:
            try:
                found, answer = await self._asked(key, request, codes)
            except Exception as error:
                raise unanswered(error) from error
            code = worst(found)
            if code in ELSEWHERE:
                self._coordinators.pop(key, None)
            elif code not in PUT_OFF:
                judge(code, found.get(code, ""))
                return answer
            if time.monotonic() > deadline:
                judge(code, found.get(code, ""))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _asked(self, key: tuple[int, str], request: Any, codes: Callable[[Any], Codes]) -> tuple[Codes, Any]:
        if key not in self._coordinators:
            try:
                self._coordinators[key] = await self._client.coordinator_lookup(*key)
            except told.BrokerResponseError as error:
                return {error.errno: ""}, None
        answer: Any = await self._client.send(self._coordinators[key], request, group=ConnectionGroup.COORDINATION)
        return codes(answer), answer


def _code(answer: Any) -> Codes:
    return {answer.error_code: ""}
