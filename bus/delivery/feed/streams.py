"""Server-sent events: one connection on which deliveries come as they are made, each with its cursor as its id.

Nothing is read ahead: the next page is read when the connection has taken this one. Who does not take it in time is cut off, and
goes on later where he stood.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from bus.delivery.feed.answers import SLOW_SECONDS, in_time

HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # else a proxy may keep what it should pass on
]


def event(data: str, cursor: str) -> bytes:
    """A delivery. `data` has no line breaks: JSON escapes them."""
    return f"id: {cursor}\ndata: {data}\n\n".encode()


def named(name: str, data: str) -> bytes:
    """What is no delivery, and moves nobody's place."""
    return f"event: {name}\ndata: {data}\n\n".encode()


class Stream:
    """An ASGI answer. `chunks` ends, or raises, when there is no more to come."""

    def __init__(
        self, chunks: AsyncIterator[bytes], ended: Callable[[str, BaseException | None], None], slow_seconds: float = SLOW_SECONDS
    ) -> None:
        self._chunks, self._ended, self._slow_seconds = chunks, ended, slow_seconds

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(_left(receive))
        sending = asyncio.ensure_future(self._send_all(send))
        try:
            await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leaving, sending):
                task.cancel()
            await asyncio.gather(leaving, sending, return_exceptions=True)
            outcome = asyncio.CancelledError() if sending.cancelled() else sending.exception()
            reason = _reason(outcome)
            self._ended(reason, outcome if reason == "failed" else None)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:  # type: ignore[type-var]  # an async generator
            await in_time(send, {"type": "http.response.start", "status": 200, "headers": _HEADERS}, self._slow_seconds)
            async for chunk in chunks:
                await in_time(send, {"type": "http.response.body", "body": chunk, "more_body": True}, self._slow_seconds)
            await in_time(send, {"type": "http.response.body", "body": b"", "more_body": False}, self._slow_seconds)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _reason(outcome: BaseException | None) -> str:
    """Of a stream's end, in a word of a closed list."""
    if outcome is None:
        return "ended"
    if isinstance(outcome, TimeoutError):
        return "slow"
    return "left" if isinstance(outcome, asyncio.CancelledError) else "failed"
