"""Answers of the feed: JSON, and problems as RFC 9457 has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from bus.delivery.feed.page import Lost

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


def later(detail: str, seconds: int = 1, status: int = 429) -> Refused:
    return Refused(status, detail, headers={"retry-after": str(seconds)})


def problem(refused: Refused) -> Response:
    content = {"type": "about:blank", "title": HTTPStatus(refused.status).phrase, "status": refused.status}
    body = json.dumps({**content, "detail": refused.detail, **refused.more}, ensure_ascii=False).encode()
    return Response(body, refused.status, NO_STORE | refused.headers, PROBLEM)


def json_answer(content: Any) -> Response:
    return Response(json.dumps(content, ensure_ascii=False).encode(), 200, NO_STORE, JSON)


def page_answer(events: list[str], next_cursor: str, *, more: bool, snapshot: bool, lost: list[Lost]) -> Response:
    """`events`: JSON already."""
    rest = {"next": next_cursor, "more": more, "snapshot": snapshot, "lost": [one.told() for one in lost]}
    body = f'{{"events":[{",".join(events)}],{json.dumps(rest)[1:]}'
    return Response(body.encode(), 200, NO_STORE, JSON)
