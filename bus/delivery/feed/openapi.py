"""The routes as an OpenAPI 3.1 document, for programs that make clients of one."""

from __future__ import annotations

from typing import Any

from bus.delivery import cloudevents
from bus.delivery.feed.answers import JSON, PROBLEM
from bus.delivery.feed.asked import MOST_WAIT_SECONDS, USUAL_EVENTS


def _query(name: str, about: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "An agreement of /v1/agreements",
    "schema": {"type": "string"},
}
_CURSOR = _query("cursor", "`next` of an answer, or an event's id; left out: from the first delivery", type="string")
_FROM = _query("from", "Begin with the present state", type="string", enum=["snapshot"])
_LANE = _query("lane", "Only this lane, so that several workers share the work", type="integer", minimum=0)
_LIMIT = _query("limit", "Most events in the answer", type="integer", minimum=1, default=USUAL_EVENTS)
_WAIT = _query("wait_seconds", "Wait so long for a first event", type="number", minimum=0, maximum=MOST_WAIT_SECONDS, default=0)
_LOST = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["lane", "first_seq", "last_seq"],
        "properties": {
            "lane": {"type": "integer"},
            "first_seq": {"type": "integer"},
            "last_seq": {"type": ["integer", "null"]},
        },
    },
}
_PROBLEMS = {
    "400": "A parameter or the cursor is wrong",
    "401": "No user and password of an agency",
    "404": "No such agreement that is yours, in force, and delivered by the feed",
    "410": "What the cursor asks for next was deleted: `lost` says what; begin anew",
    "429": "More than your agency's share: Retry-After says when to come again",
    "503": "Not now: Retry-After says when to come again",
}


def _answers(about: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"200": {"description": about, "content": {kind: {"schema": schema}}}}
    for code, text in _PROBLEMS.items():
        found[code] = {"description": text, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return found


_EVENT = {
    "type": "object",
    "description": f"A CloudEvent {cloudevents.SPEC_VERSION}; a snapshot's have `snapshot`: true",
    "required": ["specversion", "id", "source", "type", "subject", "time", "partitionkey", "sequence", "lane", "data"],
}
_PAGE = {
    "type": "object",
    "required": ["events", "next", "more", "snapshot", "lost"],
    "properties": {
        "events": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
        "next": {"type": "string", "description": "The cursor to go on with"},
        "more": {"type": "boolean", "description": "Whether there is more to read now"},
        "snapshot": {"type": "boolean", "description": "Whether the snapshot goes on"},
        "lost": _LOST,
    },
}
_LISTED = {
    "type": "object",
    "properties": {"agreements": {"type": "array", "items": {"type": "object", "required": ["id", "state", "events"]}}},
}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Feed", "version": "1", "description": "An agency's deliveries, for those who poll."},
    "security": [{"basic": []}],
    "components": {
        "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        "schemas": {
            "Event": _EVENT,
            "Problem": {
                "type": "object",
                "required": ["title", "status", "detail"],
                "properties": {
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "lost": _LOST,
                },
            },
        },
    },
    "paths": {
        "/v1/agreements": {
            "get": {"operationId": "agreements", "responses": _answers("Your agreements, with their states", JSON, _LISTED)}
        },
        "/v1/agreements/{id}/events": {
            "get": {
                "operationId": "events",
                "parameters": [_ID, _CURSOR, _FROM, _LANE, _LIMIT, _WAIT],
                "responses": _answers("Deliveries in order, and where to go on", JSON, _PAGE),
            }
        },
        "/v1/agreements/{id}/events/stream": {
            "get": {
                "operationId": "stream",
                "parameters": [
                    _ID,
                    _CURSOR,
                    _FROM,
                    _LANE,
                    {"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}},
                ],
                "responses": _answers("Server-sent events, each with its cursor as id", "text/event-stream", {"type": "string"}),
            }
        },
    },
}
