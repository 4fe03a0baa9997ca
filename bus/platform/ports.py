"""The embedded servers' ports: chosen free at the first start, kept in run/endpoints.json, all on 127.0.0.1."""

from __future__ import annotations

import json
import random
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from bus.access import ENDPOINTS
from bus.config import ConfigError, Settings

HOST = "127.0.0.1"
_LOWEST, _HIGHEST = 20_000, 32_000
"""Below the range that Linux gives to outgoing connections, so that none of those takes our port while the bus is down."""
_TRIES = 200
_COUNT = 5


@dataclass(frozen=True, slots=True)
class Ports:
    kafka: int
    controller: int
    postgres: int
    registry: int
    """0 in a home from before there was one, until `ensure`."""
    feed: int
    """The same."""


def ensure(settings: Settings, rng: random.Random | None = None) -> Ports:
    """The ports of this home; chosen and written at the first call. Raises ConfigError when the file is damaged."""
    path = settings.home / "run" / ENDPOINTS
    found = read(settings)
    if found is None or not found.registry or not found.feed:
        chosen = [found.kafka, found.controller, found.postgres, found.registry] if found else []
        kept = [port for port in chosen if port]  # of a home from before there was a registry, or a feed
        _write(path, kept + choose(_COUNT - len(kept), rng or random.Random()))
        found = read(settings)
    if found is None:
        raise ConfigError(f"{path} vanished while it was read: is another `bus up` under way?")
    return found


def _write(path: Path, chosen: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "kafka": f"{HOST}:{chosen[0]}",
        "controller": chosen[1],
        "postgres": chosen[2],
        "registry": chosen[3],
        "feed": chosen[4],
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document), encoding="utf-8")
    part.replace(path)


def read(settings: Settings) -> Ports | None:
    """The ports of this home, None before its first start. Raises ConfigError when the file is damaged."""
    path = settings.home / "run" / ENDPOINTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kafka, registry, feed = found["kafka"].rpartition(":")[2], found.get("registry", 0), found.get("feed", 0)
        return Ports(int(kafka), int(found["controller"]), int(found["postgres"]), int(registry), int(feed))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ConfigError(f"{path} is damaged: delete it, and the next `bus up` chooses new ports") from None


def choose(count: int, rng: random.Random) -> list[int]:
    """Free ports. Raises ConfigError when there are too few."""
    chosen: list[int] = []
    for _ in range(_TRIES):
        port = rng.randint(_LOWEST, _HIGHEST)
        if port not in chosen and is_free(port):
            chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise ConfigError(f"found no {count} free ports on {HOST} between {_LOWEST} and {_HIGHEST}: stop what holds them")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def answers(port: int, timeout_seconds: float = 0.5) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(timeout_seconds)
        return probe.connect_ex((HOST, port)) == 0


def require_free(settings: Settings, port: int, what: str) -> None:
    """Raises ConfigError that names the port, who holds it, and what to do."""
    if is_free(port):
        return
    path = settings.home / "run" / ENDPOINTS
    raise ConfigError(
        f"port {port} on {HOST}, which {what} of {settings.home} uses, is taken by {holder(port)}: "
        f"stop that, or delete {path} to let the next `bus up` choose new ports"
    )


def holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return "a process of another user"
