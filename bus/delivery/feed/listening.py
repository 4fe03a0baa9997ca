"""The feed's HTTP server, until the process is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from functools import partial
from urllib.parse import urlsplit

import uvicorn

from bus import access, telemetry
from bus.avro import dataset
from bus.config import ConfigError, Settings
from bus.core.agreement import Way
from bus.core.identity import SECRET_BYTES
from bus.delivery.deliveries import Deliveries
from bus.delivery.feed.answers import SLOW_SECONDS
from bus.delivery.feed.door import MOST_HEADER_BYTES, Door
from bus.delivery.feed.limits import Limits
from bus.delivery.feed.reading import Reading
from bus.delivery.feed.records import Records
from bus.delivery.feed.server import KEY, PROCESS
from bus.delivery.feed.tails import Tails
from bus.delivery.feed.web import MOST_READS, POLLS, READS, STREAMS, Web
from bus.delivery.following import Following
from bus.engine.client import Stop
from bus.registry import log as registry
from bus.registry.connections import H11
from bus.registry.users import Users
from bus.signatures import keys

MOST_CONNECTIONS = 1_000
_BACKLOG = 256
_KEEP_ALIVE_SECONDS = 30
_CLOSE_SECONDS = 1
_LOOK_SECONDS = 0.1


async def serve(settings: Settings, stop: Stop) -> None:
    """Raises ConfigError."""
    secret = settings.secret(KEY)
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"{settings.secret_file(KEY)} must hold {SECRET_BYTES} bytes: remove it, and `bus up` makes a new one")
    config, datasets = access.confluent(settings, PROCESS), dataset.load(settings.schemas)
    feed, loop = settings.feed, asyncio.get_running_loop()
    records = Records(config, feed.readers)
    tails = Tails(records)

    def changed() -> None:
        loop.call_soon_threadsafe(tails.wake)

    following = Following(config, datasets, partial(keys.public, settings), Way.FEED, changed, telemetry.logger(PROCESS))
    reading = Reading(records, Deliveries(datasets, partial(registry.read, config)), settings.kafka.lanes)
    at_once = {STREAMS: feed.streams, POLLS: feed.polls, READS: MOST_READS}
    limits = Limits(feed.requests_per_second, at_once, time.monotonic)
    door = Door(following, Users(settings, ()), limits, reading, secret, feed.most_events)
    web = Web(door, tails)
    following.start()
    looking = asyncio.ensure_future(tails.run())
    try:
        await _listen(settings, web, stop)
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        following.close()
        records.close()


async def _listen(settings: Settings, web: Web, stop: Stop) -> None:
    feed, port = settings.feed, urlsplit(access.feed_url(settings)).port or 0
    server = uvicorn.Server(
        uvicorn.Config(
            web, loop="none", http=H11, ws="none", lifespan="off", h11_max_incomplete_event_size=MOST_HEADER_BYTES,
            log_config=None, access_log=False, server_header=False, proxy_headers=False, limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=_CLOSE_SECONDS,
            ssl_certfile=feed.tls_certificate or None, ssl_keyfile=feed.tls_key or None,
        )
    )  # fmt: skip
    with _socket(feed.host, port) as listener:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        telemetry.logger(PROCESS).info("process_started")
        try:
            while not stop.asked and not serving.done():
                web.show()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            web.close()
            server.should_exit = True
            await serving


def _socket(host: str, port: int) -> socket.socket:
    """Raises ConfigError. What a peer does not take, the system drops with the connection, however long it would stay."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by each connection
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SLOW_SECONDS * 1000))
    return made
