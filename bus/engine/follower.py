"""A thread that follows what is published of agreements, and begins again whatever went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException

from bus.avro.catalogue import CatalogueError
from bus.config import ConfigError
from bus.engine import client
from bus.engine.client import HumanNeeded

RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
_KNOWN = KafkaException | HumanNeeded | ConfigError | CatalogueError


class Follower:
    """From `start` to `close`. `follow` reads from the topics' beginning on until `closing` is set, and raises what makes it
    necessary to begin again. `failed`: why it did, '' once `follow` has said that all is well; told once in the log."""

    def __init__(self, follow: Callable[[], None], log: Any) -> None:
        self._follow, self._log = follow, log
        self.closing = threading.Event()
        self.failed = ""
        self._thread = threading.Thread(target=self._run, name="agreements", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self.closing.is_set():
            try:
                self._follow()
            except Exception as error:  # whatever it was: what is known stays as it is, and the topics are read again
                known = isinstance(error, _KNOWN)
                self._fail(client.text(error) if known else f"a fault of ours: {client.place(error)}; please report it")
                self.closing.wait(RETRY_SECONDS)

    def _fail(self, reason: str) -> None:
        if reason != self.failed:
            self.failed = reason
            self._log.warning("agreements_unreadable", reason=reason)
