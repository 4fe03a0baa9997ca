"""Connections that do nothing are closed: uvicorn itself keeps one that has never sent a request for as long as its peer likes.

Nobody has to prove who he is to hold a connection, and there is room for only so many.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

IDLE_SECONDS = 15.0
"""So long a connection may be without a whole request, and an answer that was written may wait for its reader."""
LEAST_BYTES = 65_536
"""Of an answer that was written, taken in that time; who takes less is cut off."""
MOST_PER_ADDRESS = 250


class _Watched:
    """Mixed into one of uvicorn's protocols, whose attributes these are."""

    idle_seconds = IDLE_SECONDS
    """Longer for one that has had a request answered: as long as it may be kept."""
    most_per_address = MOST_PER_ADDRESS
    transport: Any
    loop: Any
    client: Any
    connections: Any
    cycle: Any
    timeout_keep_alive: Any

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]  # the protocol's
        self._since, self._unsent, self._timer = self.loop.time(), 0, None
        if self.client and sum(one.client is not None and one.client[0] == self.client[0] for one in self.connections) > (
            self.most_per_address
        ):
            transport.abort()
            return
        self._timer = self.loop.call_later(self.idle_seconds, self._look)

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()  # type: ignore[misc]  # the protocol's

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)  # type: ignore[misc]  # the protocol's

    def _look(self) -> None:
        unsent, before = self.transport.get_write_buffer_size(), self._unsent
        answering = self.cycle is not None and not self.cycle.response_complete
        idle = self.loop.time() - self._since
        pause = self.idle_seconds
        if self.transport.is_closing() or (not answering and before and unsent and before - unsent < LEAST_BYTES):
            self.transport.abort()
            return
        kept = self.idle_seconds if self.cycle is None else max(self.idle_seconds, self.timeout_keep_alive)
        if not answering and not unsent and idle >= kept:
            self.transport.close()
        elif not answering and not unsent:
            pause = kept - idle
        self._unsent = unsent
        self._timer = self.loop.call_later(max(pause, 0.01), self._look)


class H11(_Watched, H11Protocol):
    """For bytes that are read strictly."""


class HttpTools(_Watched, HttpToolsProtocol):
    """For speed."""
