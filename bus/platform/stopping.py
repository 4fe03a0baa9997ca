"""Ending what a home runs, in order and in bounded time. Only processes that this home recorded as its own are touched."""

from __future__ import annotations

import signal
import time

from bus.config import Settings
from bus.platform import processes, roster

WORKER_SECONDS = 1.8
ALL_SECONDS = 4.4
"""What has not listened by then is killed; everything here recovers from that. Servers get what workers leave of it."""
TOTAL_SECONDS = 4.8
"""A stop takes no longer, killing included."""
SERVER_SIGNALS = {roster.KAFKA: signal.SIGTERM, roster.POSTGRES: signal.SIGINT}
"""PostgreSQL's SIGINT is its 'fast' way: sessions are ended, what is committed is on disk."""


def stop_all(settings: Settings) -> None:
    """Workers first, then the servers together, whoever started them. The supervisor itself is not touched."""
    began = time.monotonic()
    end(settings, workers(settings), WORKER_SECONDS)
    end(settings, list(SERVER_SIGNALS), ALL_SECONDS - (time.monotonic() - began))


def workers(settings: Settings) -> list[str]:
    """The recorded processes that are neither a server nor the supervisor."""
    return [record.name for record in processes.records(settings) if record.name not in (*SERVER_SIGNALS, roster.SUPERVISOR)]


def end(settings: Settings, names: list[str], patience_seconds: float) -> None:
    found = [(name, process) for name in names if (process := processes.running(settings, name)) is not None]
    processes.stop([(process, SERVER_SIGNALS.get(name, signal.SIGTERM)) for name, process in found], patience_seconds)
    for name in names:
        processes.forget(settings, name)
