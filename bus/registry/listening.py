"""The registry's HTTP server, until the process is asked to stop or the store cannot go on."""

from __future__ import annotations

import asyncio

import uvicorn

from bus import telemetry
from bus.config import Settings
from bus.engine.client import Stop
from bus.registry.connections import HttpTools
from bus.registry.store import Store
from bus.registry.users import Users
from bus.registry.web import Web

_LOOK_SECONDS = 0.05
_GAUGES_LOOKS = 20
_KEEP_ALIVE_SECONDS = 75
_MOST_CONNECTIONS = 1_000
_CLOSE_SECONDS = 1


async def serve(settings: Settings, port: int, store: Store, users: Users, stop: Stop) -> None:
    """Raises what ended the store's follower."""
    web = Web(store, users)
    server = uvicorn.Server(
        uvicorn.Config(
            web, settings.registry.host, port, loop="none", http=HttpTools, ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False,
            limit_concurrency=_MOST_CONNECTIONS, timeout_keep_alive=_KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=_CLOSE_SECONDS,
            ssl_certfile=settings.registry.tls_certificate or None, ssl_keyfile=settings.registry.tls_key or None,
        )
    )  # fmt: skip
    serving = asyncio.ensure_future(server.serve())
    telemetry.logger("registry").info("process_started")
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
