"""Events that go in all the time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine.stage import Stage

_JOIN_SECONDS = 60


@contextmanager
def feeding(stage: Stage) -> Iterator[None]:
    """From a thread, until the end of the block."""
    goes_on = threading.Event()
    goes_on.set()

    def feed() -> None:
        while goes_on.is_set():
            stage.feed(40)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        goes_on.clear()
        feeder.join(_JOIN_SECONDS)
