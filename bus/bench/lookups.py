"""How many lookups a second the schema registry answers on one core: `GET /schemas/ids/{id}` over connections that are kept.

The registry has one core, the clients the others; where there is one only, they share it and the row says so. Clients are
separate processes that speak as little HTTP as is needed, so that they do not measure themselves.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from bus import access, config, platform
from bus.config import ConfigError, Settings
from bus.platform import processes, roster

START_SECONDS = 30.0
_SETTINGS = "kafka: {lanes: 1, heap_mb: 384}\n"
_WARM_UP_SECONDS = 1.0
_ANSWER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Order:
    """`connections`: kept open, each with one request at a time."""

    seconds: float = 10.0
    connections: int = 8
    rounds: int = 3


def measure(order: Order, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each round: requests a second, latencies in ms, the registry's CPU and memory. Starts a broker of its own."""
    with tempfile.TemporaryDirectory(prefix="bus-bench-") as directory:
        home = Path(directory) / ".bus"
        home.mkdir()
        (home / config.SETTINGS_FILE).write_text(_SETTINGS, encoding="utf-8")
        settings = config.load(home, env={})
        try:
            say("Starting a broker and the registry")
            platform.start_kafka(settings)
            platform.declare(settings)
            with _serving(settings) as (server, start_seconds):
                return [_round(settings, server, order, number, start_seconds, say) for number in range(order.rounds)]
        finally:
            platform.stop(settings)


@contextmanager
def _serving(settings: Settings) -> Iterator[tuple[psutil.Process, float]]:
    """The registry on the first core, and the seconds from its start to its first answer."""
    (worker,) = [one for one in roster.workers(settings, {}) if one.name == roster.REGISTRY]
    began = time.monotonic()
    server = processes.spawn(settings, worker.name, worker.command, env={"BUS_HOME": str(settings.home)})
    while not _answers(settings):
        if server.poll() is not None or time.monotonic() > began + START_SECONDS:
            raise ConfigError(f"the registry does not start: {processes.last_lines(settings, worker.name)}")
        time.sleep(0.005)
    took = time.monotonic() - began
    cores = sorted(os.sched_getaffinity(0))
    for thread in server.threads():
        os.sched_setaffinity(thread.id, cores[:1])
    yield server, took


def _answers(settings: Settings) -> bool:
    try:
        with _connected(settings) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            return b" 200 " in connection.recv(_ANSWER_BYTES)
    except (OSError, ConfigError):
        return False


def _connected(settings: Settings) -> socket.socket:
    address = urlsplit(access.registry_url(settings))
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=10.0)


def _round(
    settings: Settings, server: psutil.Process, order: Order, number: int, start_seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    say(f"Round {number + 1} of {order.rounds}: {order.seconds:.0f} s of lookups")
    context = multiprocessing.get_context("spawn")
    told: Queue[tuple[int, list[float]]] = context.Queue()
    load = context.Process(target=_load, args=(settings.home, order, told), daemon=True)
    before = sum(server.cpu_times()[:2])
    load.start()
    count, latencies = told.get(timeout=order.seconds + _WARM_UP_SECONDS + START_SECONDS)
    load.join(START_SECONDS)
    cpu = sum(server.cpu_times()[:2]) - before
    latencies.sort()
    return {
        "measured": "registry lookups",
        "round": number + 1,
        "connections": order.connections,
        "requests": count,
        "requests_per_second": round(count / order.seconds),
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 2),
        "cpu_us_per_request": round(cpu / (count * (1 + _WARM_UP_SECONDS / order.seconds)) * 1e6, 1),
        "rss_mb": round(server.memory_info().rss / 1e6),
        "start_seconds": round(start_seconds, 2),
        "cores": len(os.sched_getaffinity(0)),
    }


def _load(home: Path, order: Order, told: Queue[tuple[int, list[float]]]) -> None:
    """Runs in a process of its own, on the other cores: one request on each connection in turn, answers in the same turn."""
    settings = config.load(home, env={})
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[1:] or cores)
    login = base64.b64encode(f"operator:{access.password(settings, 'operator')}".encode()).decode()
    requests = [
        f"GET /schemas/ids/{n} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {login}\r\n\r\n".encode() for n in range(1, 31)
    ]
    connections = [_connected(settings) for _ in range(order.connections)]
    began = time.perf_counter() + _WARM_UP_SECONDS
    count, turn, latencies = 0, 0, []
    while (now := time.perf_counter()) < began + order.seconds:
        turn += 1
        sent = []
        for each, connection in enumerate(connections):
            sent.append(time.perf_counter())
            connection.sendall(requests[(turn + each) % len(requests)])
        for connection, at in zip(connections, sent, strict=True):
            _take_answer(connection)
            if now >= began:
                latencies.append(time.perf_counter() - at)
                count += 1
    told.put((count, latencies))


def _take_answer(connection: socket.socket) -> None:
    answer = connection.recv(_ANSWER_BYTES)
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head[:20]:
        raise RuntimeError(f"the registry answers {head[:40]!r}")
    _, _, rest = head.lower().partition(b"content-length:")
    left = int(rest.split(b"\r\n")[0]) - len(body)
    while left > 0:
        left -= len(connection.recv(min(left, _ANSWER_BYTES)))


def table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    columns = ("requests_per_second", "p50_ms", "p99_ms", "cpu_us_per_request", "rss_mb", "start_seconds")
    lines = ["  ".join(f"{name:>20}" for name in ("round", *columns))]
    lines += ["  ".join(f"{row[name]:>20}" for name in ("round", *columns)) for row in rows]
    return "\n".join(lines)
