"""A webhook's receiver that does what a script says: a real HTTP server on loopback, of sockets, so that it can misbehave."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE_SECONDS = 60.0
_MAX_HEAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)
        return found


Answer = str
"""An HTTP status, with `:seconds` of Retry-After or `:location`; or hang, drip, reset, close, head (too long), garbage,
2-huge and 2-slow-body (200, and a body that does not end)."""
Script = Callable[[Request], Answer]


def fine(_: Request) -> Answer:
    return "200"


@dataclass(slots=True)
class Receiver:
    """`requests`: all that came, in order, whatever was answered; `taken`: those that were answered with 200."""

    port: int
    script: Script = fine
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    connections: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    def events(self) -> list[dict[str, Any]]:
        """Of all that was taken, in order."""
        return [event for request in list(self.taken) for event in request.events()]

    def until(self, what: str, done: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, (
                f"waited in vain for {what}: {len(self.requests)} requests, {len(self.taken)} taken"
            )
            time.sleep(0.01)


@contextmanager
def receiving(script: Script = fine, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Receiver]:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen(64)
    made = Receiver(server.getsockname()[1], script)
    threading.Thread(target=_accept, args=(server, made, tls), daemon=True).start()
    try:
        yield made
    finally:
        made.closing.set()
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


def _accept(server: socket.socket, receiver: Receiver, tls: ssl.SSLContext | None) -> None:
    while not receiver.closing.is_set():
        try:
            connection, _ = server.accept()
        except OSError:
            return
        receiver.connections += 1
        threading.Thread(target=_serve, args=(connection, receiver, tls), daemon=True).start()


def _serve(connection: socket.socket, receiver: Receiver, tls: ssl.SSLContext | None) -> None:
    with suppress(OSError):
        connection.settimeout(PATIENCE_SECONDS)
        with tls.wrap_socket(connection, server_side=True) if tls else connection as opened:
            while (request := _read(opened)) is not None:
                receiver.requests.append(request)
                answer = receiver.script(request)
                if answer.startswith("2"):
                    receiver.taken.append(request)
                if not _answer(opened, answer, receiver.closing):
                    return


def _read(opened: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        got = opened.recv(4_096)
        if not got or len(data) > _MAX_HEAD_BYTES:
            return None
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    pairs = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    while len(body) < int(headers["content-length"]):
        body += opened.recv(65_536)
    return Request(time.monotonic(), headers, body)


def _answer(opened: socket.socket, answer: Answer, closing: threading.Event) -> bool:
    """Whether the connection may be used again."""
    status, _, rest = answer.partition(":")
    if status.isdigit():
        more = f"Retry-After: {rest}\r\n" if status in ("429", "503") and rest else f"Location: {rest}\r\n" if rest else ""
        opened.sendall(f"HTTP/1.1 {status} Word\r\n{more}Content-Length: 2\r\n\r\nok".encode())
        return True
    if status == "hang":
        closing.wait(PATIENCE_SECONDS)
    elif status == "drip":
        _drip(opened, b"HTTP/1.1 200 OK\r\nX-Word: " + b"a" * 10_000, closing)
    elif status == "reset":
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif status == "head":
        opened.sendall(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1_000) for n in range(5_000)))
    elif status == "garbage":
        opened.sendall(b"\x00\xff not http at all\r\n\r\n")
    elif status == "2-huge":
        opened.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not closing.is_set():
            opened.sendall(b"10000\r\n" + b"a" * 65_536 + b"\r\n")
    elif status == "2-slow-body":
        _drip(opened, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1_000, closing, quick=38)
    return False


def _drip(opened: socket.socket, data: bytes, closing: threading.Event, quick: int = 0) -> None:
    opened.sendall(data[:quick])
    for at in range(quick, len(data)):
        opened.sendall(data[at : at + 1])
        if closing.wait(0.05):
            return
