"""A TCP proxy between Kafka's clients and a broker. It knows Kafka's framing, so it can mistreat single requests.

A client that is told the proxy's address stays with it: the broker's own address is replaced in the answers that tell it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bus import config
from bus.config import Settings

HOST = "127.0.0.1"
START_SECONDS = 10.0


def behind(settings: Settings, port: int, home: Path) -> Settings:
    """A home that shares everything with another one, but reaches the broker through this port."""
    home.mkdir(exist_ok=True)
    for name in ("secrets", "run", "replica", "log"):
        (settings.home / name).mkdir(exist_ok=True)
        (home / name).symlink_to(settings.home / name)
    text = f"kafka: {{bootstrap: '{HOST}:{port}'}}\nparties: '{settings.home / 'parties'}'\n"
    (home / config.SETTINGS_FILE).write_text(text, encoding="utf-8")
    return config.load(home, env={})


class Api(enum.IntEnum):
    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CLUSTER = 60


_TOO_FEW_REPLICAS_AFTER_APPEND = 20
_TELL_ADDRESSES = frozenset({Api.METADATA, Api.FIND_COORDINATOR, Api.DESCRIBE_CLUSTER})


class Kind(enum.Enum):
    DELAY = "delay"
    """The broker sees the request, and all behind it on its connection, `seconds` later."""
    CUT_BEFORE = "cut before"
    """The connection ends and the broker has not seen the request."""
    CUT_AFTER = "cut after"
    """The connection ends after the broker has answered; the client does not see the answer."""
    REPEAT = "repeat"
    """The broker sees the request twice; the client sees the first answer."""
    BELATE = "belate"
    """The connection ends; the broker sees the request on it after `behind` requests `behind_api` of the same client."""
    HOLD = "hold"
    """The request, and all behind it on its connection, waits until `release`."""
    HOLD_ANSWER = "hold the answer"
    """The broker sees the request; its answer, and all behind it on its connection, waits until `release`."""
    TOO_FEW_REPLICAS = "too few replicas"
    """PRODUCE only: the broker writes, and the client is told that `topic` has too few replicas in sync. A broker that is alone
    does not say so itself: it asks for no more replicas than there are."""


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests `api` of clients whose id begins with `client`, once `skip` have passed."""

    kind: Kind
    api: Api
    client: str = ""
    skip: int = 0
    times: int = 1
    seconds: float = 0.7
    behind_api: Api = Api.PRODUCE
    behind: int = 2
    topic: str = ""
    call: Callable[[], object] | None = None
    """Called in a thread of its own and waited for, before anything is done with the request."""
    hits: int = 0
    waits: bool = False
    """Whether something is held."""
    over: bool = False
    """Whether all was done that it does."""
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def takes(self, api: int, client: str) -> bool:
        if self.hits >= self.times or api != self.api or not client.startswith(self.client):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True


@dataclass(slots=True)
class _Sent:
    """A request whose answer is awaited; answers come in the order of requests."""

    api: int
    swallow: bool = False
    fault: Fault | None = None
    """What happens when the answer is here."""


class Proxy:
    """Listens on `port` and hands everything on to the broker at `broker_port`. Use as a context manager."""

    def __init__(self, broker_port: int) -> None:
        self.broker_port, self.port = broker_port, 0
        self.injected: Counter[tuple[Kind, Api]] = Counter()
        self.faults: list[Fault] = []
        self._links: set[_Link] = set()
        self._late: list[tuple[_Link, bytes, Fault, str]] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._server: asyncio.Server
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(START_SECONDS), "the proxy does not listen"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)

    def add(self, fault: Fault) -> Fault:
        self._loop.call_soon_threadsafe(self.faults.append, fault)
        return fault

    def release(self, fault: Fault) -> None:
        """Lets what is held go on, and takes no more."""
        fault.times = 0
        self._loop.call_soon_threadsafe(fault.released.set)

    def cut(self) -> None:
        """Ends every connection there is."""
        for link in list(self._links):
            self._loop.call_soon_threadsafe(link.close)

    def clear(self) -> None:
        """No more faults; what was held goes on, what was to come late does not come."""

        def clear() -> None:
            for fault in self.faults:
                fault.times = 0
                fault.released.set()
            self.faults.clear()
            for link, *_ in self._late:
                link.close()
            self._late.clear()

        self._loop.call_soon_threadsafe(clear)

    # -- in the thread of the loop -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _close(self) -> None:
        """Until nothing is under way any more: a connection that was just accepted becomes a task of its own."""
        self._server.close()
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            for link in list(self._links):
                link.close()
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # asyncio tells it as a fault
            try:
                broker = await asyncio.open_connection(HOST, self.broker_port)
            except OSError:
                writer.close()
                return
            link = _Link(self, reader, writer, *broker)
            self._links.add(link)
            try:
                await link.run()
            finally:
                self._links.discard(link)
                link.close()

    def take(self, api: int, client: str) -> Fault | None:
        found = next((fault for fault in self.faults if fault.takes(api, client)), None)
        if found is not None:
            self.injected[found.kind, found.api] += 1
        return found

    def belate(self, link: _Link, frame: bytes, fault: Fault, client: str) -> None:
        self._late.append((link, frame, fault, client))

    async def passed(self, api: int, client: str) -> None:
        """After a request went on: what was to come behind it follows."""
        for entry in list(self._late):
            link, frame, fault, whose = entry
            if api == fault.behind_api and client == whose:
                fault.behind -= 1
                if fault.behind <= 0:
                    self._late.remove(entry)
                    await link.send(frame, _Sent(fault.api, swallow=True, fault=fault))


class _Link:
    """One client's connection and the one to the broker behind it."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        broker_reader: asyncio.StreamReader, broker_writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._broker_reader, self._broker_writer = broker_reader, broker_writer
        self._sent: deque[_Sent] = deque()
        self._late = False

    async def run(self) -> None:
        up, down = asyncio.ensure_future(self._up()), asyncio.ensure_future(self._down())
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            if self._late:
                await down
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    def close(self) -> None:
        for writer in (self._writer, self._broker_writer):
            with contextlib.suppress(RuntimeError):
                writer.close()

    async def send(self, frame: bytes, sent: _Sent) -> None:
        self._sent.append(sent)
        with contextlib.suppress(OSError):
            await _write(self._broker_writer, frame)

    async def _up(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _read(self._reader)
                api, client = _head(frame)
                fault = self._proxy.take(api, client)
                if fault is None:
                    await self.send(frame, _Sent(api))
                elif not await self._mistreat(frame, api, client, fault):
                    return
                await self._proxy.passed(api, client)

    async def _mistreat(self, frame: bytes, api: int, client: str, fault: Fault) -> bool:
        """False: the connection ends."""
        if fault.call is not None:
            await asyncio.to_thread(fault.call)
        if fault.kind is Kind.CUT_BEFORE:
            fault.over = True
            return False
        if fault.kind is Kind.BELATE:
            self._late = True
            self._proxy.belate(self, frame, fault, client)
            self._writer.close()
            return False
        if fault.kind is Kind.DELAY:
            await asyncio.sleep(fault.seconds)
        elif fault.kind is Kind.HOLD:
            fault.waits = True
            await fault.released.wait()
        at_the_answer = fault.kind in (Kind.CUT_AFTER, Kind.HOLD_ANSWER, Kind.TOO_FEW_REPLICAS)
        await self.send(frame, _Sent(api, fault=fault if at_the_answer else None))
        if fault.kind is Kind.REPEAT:
            await self.send(frame, _Sent(api, swallow=True))
        fault.over = not at_the_answer
        return True

    async def _down(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _read(self._broker_reader)
                sent = self._sent.popleft()
                if sent.fault is not None:
                    sent.fault.waits = sent.fault.kind is Kind.HOLD_ANSWER
                    if sent.fault.waits:
                        await sent.fault.released.wait()
                    sent.fault.over = True
                    if sent.fault.kind is Kind.TOO_FEW_REPLICAS:
                        frame = _refused(frame, sent.fault.topic)
                    elif sent.fault.kind is not Kind.HOLD_ANSWER:
                        return
                if not sent.swallow and not self._late:
                    await _write(self._writer, self._readdressed(frame) if sent.api in _TELL_ADDRESSES else frame)

    def _readdressed(self, frame: bytes) -> bytes:
        """Host and port stand side by side, and the new port is as long as the old one."""
        own, broker = (HOST.encode() + struct.pack(">i", port) for port in (self._proxy.port, self._proxy.broker_port))
        return frame.replace(broker, own)


async def _read(reader: asyncio.StreamReader) -> bytes:
    length = struct.unpack(">i", await reader.readexactly(4))[0]
    return await reader.readexactly(length)


async def _write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()


def _refused(frame: bytes, topic: str) -> bytes:
    """An answer to PRODUCE, versions 5 to 7: topics by name, then partitions of 30 bytes each."""
    name = struct.pack(">h", len(topic)) + topic.encode()
    at = frame.find(name)
    if at < 0:
        return frame
    told, at = bytearray(frame), at + len(name)
    (count,) = struct.unpack_from(">i", frame, at)
    for first in range(at + 4, at + 4 + 30 * count, 30):
        struct.pack_into(">h", told, first + 4, _TOO_FEW_REPLICAS_AFTER_APPEND)
    return bytes(told)


def _head(frame: bytes) -> tuple[int, str]:
    """A request's kind and its client's id."""
    api, _, _, length = struct.unpack_from(">hhih", frame)
    return api, frame[10 : 10 + max(length, 0)].decode("utf-8", "replace")
