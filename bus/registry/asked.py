"""What a request asks for, and how schemas and versions are shown: no field that Confluent's registry does not show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request

from bus.avro import records
from bus.avro.catalogue import Catalogue
from bus.avro.records import Entry
from bus.registry.answers import Refused
from bus.registry.users import Viewer

MOST_BODY_BYTES = 1_048_576
_BODY_SECONDS = 10.0
_ALL = ":*:"
_DEFAULT_CONTEXT = ":.:"


def prefix(request: Request) -> str:
    """With what the subjects asked for begin; '' for all."""
    return request.query_params.get("subjectPrefix", "").removeprefix(_ALL).removeprefix(_DEFAULT_CONTEXT)


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def schema_of(entry: Entry) -> dict[str, Any]:
    kind = {} if entry.schema_type == records.AVRO else {"schemaType": entry.schema_type}
    references = {"references": records.references_json(entry.references)} if entry.references else {}
    return {**kind, "schema": entry.schema, **references}


def version_of(entry: Entry) -> dict[str, Any]:
    return {"subject": entry.subject, "version": entry.version, "id": entry.id, **schema_of(entry)}


def holder(found: Catalogue, request: Request, viewer: Viewer) -> Entry:
    """A version with the id asked for that the viewer may see. Raises Refused."""
    asked = request.path_params["id"]
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 11 else 0
    if entry := found.holder(number):
        if viewer.sees(entry.subject):
            return entry
        for other in found.holders(number):
            if viewer.sees(other.subject):
                return other
    raise Refused(404, 40403, f"Schema {asked[:20]} not found")


def part(request: Request, name: str) -> str:
    return unquote(request.path_params[name])


def about(request: Request) -> str | None:
    """The subject in the path, without the name of the only context that there is; None where there is none."""
    return part(request, "subject").removeprefix(_DEFAULT_CONTEXT) if "subject" in request.path_params else None


def seen(request: Request, viewer: Viewer) -> str:
    """The subject in the path. Raises Refused, as if it did not exist, when the viewer may not see it."""
    subject = about(request) or ""
    if not viewer.sees(subject):
        raise Refused(404, 40401, f"Subject '{subject}' not found.")
    return subject


def written(request: Request, viewer: Viewer) -> str:
    require_writer(viewer)
    return about(request) or ""


def require_writer(viewer: Viewer) -> None:
    if not viewer.writes:
        raise Refused(403, 40301, f"User {viewer.principal!r} may not change schemas: the administrator may")


def flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def deleted(request: Request) -> bool:
    return any(flag(request, name) for name in ("deleted", "deletedOnly", "deleted_only"))


def page(request: Request, listed: Sequence[Any]) -> Sequence[Any]:
    """What `offset` and `limit` leave; what is no number, or negative, is as if it were not there."""
    offset, limit = (_number(request, name) for name in ("offset", "limit"))
    rest = listed[offset or 0 :]
    return rest if limit is None else rest[:limit]


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None


async def body(request: Request) -> Any:
    """The body as JSON, whatever content type the client gives it. Raises Refused."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MOST_BODY_BYTES:
                    raise Refused(413, 41301, f"The body is longer than {MOST_BODY_BYTES} bytes")
                parts.append(part)
    except TimeoutError:
        raise Refused(408, 40801, f"The body did not come within {_BODY_SECONDS:g} seconds") from None
    whole = b"".join(parts) or b"{}"
    try:
        found = json.loads(whole)
        if b"\\u" in whole:
            json_bytes(found)
    except UnicodeEncodeError:
        raise Refused(400, 40001, "The body holds half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError):
        raise Refused(400, 40001, "The body is not JSON") from None
    return found
