"""How a processor becomes a Faust app that may read the bus: principal, transport, codec, and the settings that matter."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.serializers import codecs
from faust.types import AgentT

from bus import access, telemetry
from bus.config import ConfigError, Settings
from bus.core import topics
from bus.processors import logs
from bus.processors.codec import AVRO, AvroCodec
from bus.processors.transport import CommittedTransport
from bus.registry import log

PRINCIPAL = "processors"
STOP_SECONDS = 8.0
"""How long a stop may take before the process just ends: Faust's threads may not, and effects are idempotent in any case."""


class _NoWeb(BootStrategy):
    """Faust's web server would show tables and settings to whoever asks; `faust worker` starts it unless this says no."""

    enable_web = False


class BusApp(faust.App):
    """An app whose process ends when an agent fails, to be started again by whoever runs it.

    Left alone, Faust keeps a worker whose agent is gone: it holds its partitions and does nothing.
    """

    failed = False

    async def _on_agent_error(self, agent: AgentT[Any], exc: BaseException) -> None:
        self.failed = True
        telemetry.logger(PRINCIPAL).error("process_failed", reason=f"{type(exc).__name__} in {agent.name} (see the line before)")
        await super()._on_agent_error(agent, exc)
        await self.crash(exc)


class BusWorker(faust.Worker):
    """A worker that stops without Faust's second of waiting for tasks that are cancelled already."""

    async def _sentinel_task(self) -> None:
        await asyncio.sleep(0)


def create_app(settings: Settings, name: str = PRINCIPAL, start_at: Callable[[], float] | None = None) -> faust.App:
    """A Faust app of this bus. `name` is its consumer group and must begin with 'processors', as the principal's rights do.

    `start_at`: Unix seconds from which newly assigned partitions are read, for processors that keep their state in
    memory; None: from the committed offset. Raises ConfigError when the home holds no bus.
    """
    if not name.startswith(PRINCIPAL):
        raise ConfigError(f"a processor's name must begin with {PRINCIPAL!r}, got {name!r}: its rights are given by that prefix")
    connection = access.confluent(settings, PRINCIPAL)
    datadir = settings.home / "faust" / name
    datadir.mkdir(parents=True, exist_ok=True)
    codecs.register(AVRO, AvroCodec(partial(log.read, connection)))
    app = BusApp(
        name,
        broker=["kafka://" + server for server in access.bootstrap(settings).split(",")],
        broker_credentials=_credentials(settings),
        broker_client_id=name,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=2.0,
        broker_max_poll_records=1_000,
        consumer_auto_offset_reset="earliest",
        processing_guarantee="at_least_once",
        producer_acks=-1,
        stream_wait_empty=False,
        store="memory://",
        datadir=datadir,
        topic_allow_declare=False,
        topic_disable_leader=True,
        logging_config=logs.config(),
        Worker=BusWorker,
        web_enabled=False,
        web_tables_enabled=False,
        worker_redirect_stdouts=False,
    )
    app.boot_strategy = _NoWeb(app)
    app.transport = CommittedTransport(app, start_at)
    told = _Telemetry(settings, name)
    app.on_worker_init.connect(told.start, weak=False)
    app.on_before_shutdown.connect(told.stop, weak=False)
    return app


def verified_topics(app: faust.App, datasets: list[str]) -> faust.TopicT:
    """The verified streams of these datasets as one Faust topic of decoded events; keys stay 16 opaque bytes."""
    names = [topics.verified(dataset) for dataset in datasets]
    return app.topic(*names, key_type=bytes, key_serializer="raw", value_serializer=AVRO)


def _credentials(settings: Settings) -> faust.SASLCredentials:
    return faust.SASLCredentials(
        username=PRINCIPAL,
        password=access.password(settings, PRINCIPAL),
        mechanism=settings.kafka.sasl_mechanism,
        ssl_context=access.tls(settings),
    )


class _Telemetry:
    """Faust's worker command announces its beginning twice; we announce ours once."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name, self._started = settings, name, False

    def start(self, *_: Any, **__: Any) -> None:
        if not self._started:
            self._started = True
            telemetry.start(self._settings.home, self._name, self._settings.log_level)
            telemetry.logger(self._name).info("process_started")

    async def stop(self, *sender: Any, **_: Any) -> None:
        telemetry.logger(self._name).info("process_stopping")
        last = threading.Timer(STOP_SECONDS, os._exit, (int(sender[0].failed),))
        last.daemon = True
        last.start()
