"""Events that go in all the time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.engine.stage import Stage

_JOIN_SECONDS = 60
_PAUSE_SECONDS = 0.03


@contextmanager
def feeding(stage: Stage) -> Iterator[None]:
    """From a thread, until the end of the block. Paced, for a stage keeps all of it and looks at it again at each check."""
    over = threading.Event()

    def feed() -> None:
        while not over.wait(_PAUSE_SECONDS):
            stage.feed(40)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        over.set()
        feeder.join(_JOIN_SECONDS)
        assert not feeder.is_alive()
