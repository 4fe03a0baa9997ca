"""A process of a killed PostgreSQL that outlives it, for as long as the test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from bus import platform
from bus.config import Settings
from bus.platform.database import connect

REFUSED = b"pre-existing shared memory block"
SECONDS = 60.0


@contextmanager
def orphan(settings: Settings) -> Iterator[psutil.Process]:
    """PostgreSQL is killed, and a backend of it sleeps on; it wakes, and so ends, when this is left at the latest."""
    running = platform.start_postgres(settings)
    with connect(settings) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()
        try:
            running.kill()
            running.wait(SECONDS)
            yield backend
        finally:
            _wake(backend)


@contextmanager
def woken_when_it_has_refused_one(settings: Settings, backend: psutil.Process) -> Iterator[None]:
    """The backend sleeps until the log tells that a server was refused for it: whoever starts one meets that refusal."""
    log = settings.home / "log" / "postgres.log"
    before = log.stat().st_size
    over, refused = threading.Event(), threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + SECONDS
        while not refused.is_set() and not over.wait(0.02) and time.monotonic() < deadline:
            if REFUSED in log.read_bytes()[before:]:
                refused.set()
        _wake(backend)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
        assert refused.is_set(), "no server was refused"
    finally:
        over.set()
        watching.join()


def _wake(backend: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):  # it was woken before, and has ended
        backend.resume()
