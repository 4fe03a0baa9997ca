"""The registry as a process: serves the REST interface over `_schemas` until it is asked to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Iterable

import uvicorn
import uvloop
from confluent_kafka import KafkaException

from bus import access, telemetry
from bus.avro.catalogue import CatalogueError
from bus.config import ConfigError, Settings
from bus.engine import client
from bus.engine.client import HumanNeeded, Stop
from bus.registry.store import Store
from bus.registry.users import Users
from bus.registry.web import Web

PROCESS = "registry"
_LOOK_SECONDS = 0.05
_GAUGES_LOOKS = 20
_KEEP_ALIVE_SECONDS = 75
_MOST_CONNECTIONS = 1_000
_CLOSE_SECONDS = 1


def run(settings: Settings, port: int, captures: Iterable[str]) -> None:
    """Serve until SIGTERM. `captures`: the declared databases.

    Exits with status 1 and a reason on a condition that a human must mend.
    """
    stop = Stop().install()
    telemetry.start(settings.home, PROCESS, settings.log_level)
    log = telemetry.logger(PROCESS)
    try:
        require_guarded(settings)
        users = Users(settings, captures)
        store = Store(access.confluent(settings, PROCESS), users.take_index)
        store.start()
        uvloop.run(_serve(settings, port, store, users, stop))
        store.close()
        log.info("process_stopping")
    except (HumanNeeded, ConfigError, CatalogueError, KafkaException) as error:
        log.error("process_failed", reason=client.text(error))
        sys.exit(1)
    except Exception as error:  # a fault of ours
        log.error("process_failed", reason=client.place(error))
        sys.exit(1)


async def _serve(settings: Settings, port: int, store: Store, users: Users, stop: Stop) -> None:
    web = Web(store, users)
    server = uvicorn.Server(
        uvicorn.Config(
            web, settings.registry.host, port, loop="none", http="httptools", ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False,
            limit_concurrency=_MOST_CONNECTIONS, timeout_keep_alive=_KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=_CLOSE_SECONDS,
            ssl_certfile=settings.registry.tls_certificate or None, ssl_keyfile=settings.registry.tls_key or None,
        )
    )  # fmt: skip
    serving = asyncio.ensure_future(server.serve())
    telemetry.logger(PROCESS).info("process_started")
    looks = 0
    try:
        while not stop.asked and not serving.done():
            store.check()
            if looks % _GAUGES_LOOKS == 0:
                _show(store)
            looks += 1
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        server.should_exit = True
        web.close()
        await serving


def _show(store: Store) -> None:
    with store.read() as found:
        telemetry.gauge("bus_registry_schemas").set(found.count())
        telemetry.gauge("bus_registry_subjects").set(len(found.subjects()))


def require_guarded(settings: Settings) -> None:
    """Passwords leave the machine in no clear text. Raises ConfigError."""
    registry = settings.registry
    if bool(registry.tls_certificate) != bool(registry.tls_key):
        raise ConfigError("registry.tls_certificate and registry.tls_key go together: set both, or neither")
    if not registry.tls_key and not _is_loopback(registry.host):
        raise ConfigError(
            f"registry.host {registry.host!r} is not on loopback and there is no TLS: passwords would be readable on the way; "
            "set registry.tls_certificate and registry.tls_key"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
