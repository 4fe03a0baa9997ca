"""Answers of the feed: JSON, and problems as RFC 9457 has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bus.delivery.feed.page import Lost

SLOW_SECONDS = 10.0
"""So long a reader may leave what was sent to him untaken."""
_PIECE_BYTES = 65_536
PROBLEM = "application/problem+json"
JSON = "application/json"
NO_STORE = {"cache-control": "no-store"}
CHALLENGE = {"www-authenticate": 'Basic realm="feed"'}
ANEW = "begin anew: without a cursor, or with from=snapshot; both say what is missing"


class Refused(Exception):
    """The answer is a problem: status, what is wrong and what to do; `more` are members of its own."""

    def __init__(
        self, status: int, detail: str, more: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more, self.headers = status, detail, dict(more or {}), dict(headers or {})


def gone(lost: list[Lost]) -> Refused:
    detail = f"Deliveries that this cursor asks for next were deleted; {ANEW}"
    return Refused(410, detail, {"lost": [one.told() for one in lost]})


def not_found() -> Refused:
    """The same for what is not there and for what is not the asker's."""
    return Refused(404, "No such agreement that is yours, in force, and delivered by the feed: see /v1/agreements")


def changed() -> Refused:
    """Of a stream that began under another text."""
    return Refused(409, "The agreement has changed: ask again, with the id of the last event")


def later(detail: str, seconds: int = 1, status: int = 429) -> Refused:
    return Refused(status, detail, headers={"retry-after": str(seconds)})


def problem(refused: Refused) -> Response:
    content = {"type": "about:blank", "title": HTTPStatus(refused.status).phrase, "status": refused.status}
    body = json.dumps({**content, "detail": refused.detail, **refused.more}, ensure_ascii=False).encode()
    return Response(body, refused.status, NO_STORE | refused.headers, PROBLEM)


def json_answer(content: Any) -> Response:
    return Response(json.dumps(content, ensure_ascii=False).encode(), 200, NO_STORE, JSON)


async def in_time(send: Send, message: dict[str, Any], slow_seconds: float) -> None:
    """Raises TimeoutError when what was sent before is not taken in time."""
    async with asyncio.timeout(slow_seconds):  # not wait_for, which in Python 3.11 can swallow a cancellation
        await send(message)


class Pieces:
    """An ASGI answer in JSON, sent piece by piece. Who does not take one in time is cut off; `ended` is called in any case."""

    def __init__(self, content: bytes, ended: Callable[[], None], slow_seconds: float = SLOW_SECONDS) -> None:
        self.content, self._ended, self._slow_seconds = content, ended, slow_seconds

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        length = str(len(self.content)).encode()
        headers = [(b"content-type", JSON.encode()), (b"content-length", length), (b"cache-control", b"no-store")]
        pieces = [self.content[at : at + _PIECE_BYTES] for at in range(0, len(self.content), _PIECE_BYTES)]
        messages: list[dict[str, Any]] = [{"type": "http.response.start", "status": 200, "headers": headers}]
        messages += [{"type": "http.response.body", "body": piece, "more_body": True} for piece in pieces]
        try:
            for message in [*messages, {"type": "http.response.body", "body": b"", "more_body": False}]:
                await in_time(send, message, self._slow_seconds)
        except TimeoutError:
            pass  # the server closes what was not sent to its end
        finally:
            self._ended()


def page_content(events: list[str], next_cursor: str, *, more: bool, snapshot: bool, lost: list[Lost]) -> bytes:
    """`events`: JSON already."""
    rest = {"next": next_cursor, "more": more, "snapshot": snapshot, "lost": [one.told() for one in lost]}
    body = f'{{"events":[{",".join(events)}],{json.dumps(rest)[1:]}'
    return body.encode()
