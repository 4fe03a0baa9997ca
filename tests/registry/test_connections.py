"""Laws of connections: who does nothing with one does not keep it, who works keeps it, and nobody has all of them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from bus.registry.connections import H11, HttpTools

IDLE_SECONDS, MOST, PATIENCE_SECONDS = 0.4, 6, 20.0
LARGE_BYTES = 30_000_000


async def application(scope: Any, _: Any, send: Any) -> None:
    """`/slow` answers after several times what a connection may be idle, `/large` with more than any buffer takes."""
    if scope["path"] == "/slow":
        await asyncio.sleep(4 * IDLE_SECONDS)
    body = b"x" * (LARGE_BYTES if scope["path"] == "/large" else 2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(params=[H11, HttpTools], scope="module")
def served(request: pytest.FixtureRequest) -> Iterator[tuple[uvicorn.Server, int]]:
    watched = type("Watched", (request.param,), {"idle_seconds": IDLE_SECONDS, "most_per_address": MOST})
    config = uvicorn.Config(application, port=0, http=watched, ws="none", lifespan="off", log_config=None, timeout_keep_alive=0)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield server, int(listener.getsockname()[1])
    server.should_exit = True
    thread.join(PATIENCE_SECONDS)
    listener.close()


@pytest.fixture
def port(served: tuple[uvicorn.Server, int]) -> int:
    return served[1]


def closed_after(connection: socket.socket) -> float:
    """Seconds until the server has closed it."""
    began = time.monotonic()
    connection.settimeout(PATIENCE_SECONDS)
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: "], ids=["nothing", "half"])
def test_who_sends_no_whole_request_is_closed(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert closed_after(connection) < 10 * IDLE_SECONDS


def test_who_sends_his_second_request_for_ever_is_closed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nX-Long: ")
        assert closed_after(connection) < 20 * IDLE_SECONDS


def test_who_waits_for_an_answer_that_takes_long_gets_it(port: int) -> None:
    assert httpx.get(f"http://127.0.0.1:{port}/slow", timeout=PATIENCE_SECONDS).status_code == 200


def test_who_does_not_take_his_answer_is_cut_off(served: tuple[uvicorn.Server, int]) -> None:
    server, port = served
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        got = 0
        try:
            while data := connection.recv(1 << 20):
                got += len(data)
        except ConnectionError:
            pass
        assert got < LARGE_BYTES - 1


def test_one_address_holds_no_more_than_its_share(port: int) -> None:
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST)]
    try:
        with socket.create_connection(("127.0.0.1", port)) as another:
            assert closed_after(another) < IDLE_SECONDS / 2
    finally:
        for one in held:
            one.close()
