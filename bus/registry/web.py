"""The registry's REST interface as Confluent's clients call it. Answers hold no field that theirs does not.

Paths are matched before percent-encoding is undone, for a subject may hold a slash. Who does not prove who they are learns
nothing but whether the registry answers (`GET /`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bus import telemetry
from bus.avro.catalogue import Catalogue
from bus.avro.records import Entry
from bus.registry import asked, rules
from bus.registry.answers import Decision, Refused
from bus.registry.store import Store
from bus.registry.users import Users, Viewer

JSON = "application/vnd.schemaregistry.v1+json"
MOST_WAITING = 32
"""Changes that may wait for their turn; more are told to come back."""
MOST_ASKING = 8
"""Verdicts that one principal may wait for; they are worked on one after the other."""
MOST_JUDGING = 8
"""Principals whose verdicts are worked on at a time, so that nobody waits for what another one asks."""
_NO_ROUTE = "none"
_CHALLENGE = {"www-authenticate": 'Basic realm="schema registry"'}


class Web:
    """The ASGI application over a store."""

    def __init__(self, store: Store, users: Users) -> None:
        self._store, self._users = store, users
        self._worker, self._reader = ThreadPoolExecutor(1, "change"), ThreadPoolExecutor(MOST_JUDGING, "verdict")
        self._waiting = 0
        self._asking: Counter[str] = Counter()
        """How many questions of each principal wait for a verdict."""
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._bodies: dict[int, tuple[Entry, bytes]] = {}
        self._counted: dict[tuple[str, int], Any] = {}
        self._log = telemetry.logger("registry")
        self._count(_NO_ROUTE, 401, 0)
        refusals: Any = {HTTPException: self._http_error, Refused: self._refused, Exception: self._failed}
        self._app = Starlette(routes=self._routes(), exception_handlers=refusals)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route_name"] = _NO_ROUTE
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        scope["path"] = raw.partition(b"?")[0].decode("latin-1")
        app: ASGIApp = self._app
        if scope["path"] != "/":
            header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
            scope["viewer"] = self._users.viewer(header)
            if scope["viewer"] is None:
                app = self._answer_error(
                    scope, 401, 401, "Unauthorized: give the name and password of a user of the bus", _CHALLENGE
                )
        await app(scope, receive, send)

    def _routes(self) -> list[Route]:
        subject, version = "/subjects/{subject}", "/subjects/{subject}/versions/{version}"
        listed: list[tuple[str, str, Callable[[Request, Viewer], Awaitable[Any]]]] = [
            ("GET", "/schemas/ids/{id}", self._schema),
            ("GET", "/schemas/ids/{id}/schema", self._schema_text),
            ("GET", "/schemas/ids/{id}/subjects", self._schema_subjects),
            ("GET", "/schemas/ids/{id}/versions", self._schema_versions),
            ("GET", "/schemas/types", self._constant(["AVRO"])),
            ("GET", "/schemas", self._schemas),
            ("GET", "/subjects", self._subjects),
            ("POST", subject, self._lookup),
            ("DELETE", subject, self._delete_subject),
            ("GET", f"{subject}/versions", self._versions),
            ("POST", f"{subject}/versions", self._register),
            ("GET", version, self._version),
            ("DELETE", version, self._delete_version),
            ("GET", f"{version}/schema", self._version_text),
            ("GET", f"{version}/referencedby", self._referenced_by),
            ("POST", f"/compatibility{subject}/versions", self._compatible),
            ("POST", f"/compatibility{version}", self._compatible),
            ("GET", "/contexts", self._constant(["."])),
            ("GET", "/", self._constant({})),
        ]
        for path in ("/config", "/config/{subject}"):
            listed += [("GET", path, self._level), ("PUT", path, self._set_level), ("DELETE", path, self._clear_level)]
        for path in ("/mode", "/mode/{subject}"):
            listed += [("GET", path, self._mode), ("PUT", path, self._set_mode), ("DELETE", path, self._clear_mode)]
        return [Route(path, self._endpoint(path, handle), methods=[method]) for method, path, handle in listed]

    def _endpoint(
        self, path: str, handle: Callable[[Request, Viewer], Awaitable[Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            request.scope["route_name"] = path
            found = await handle(request, request.scope.get("viewer"))  # type: ignore[arg-type]  # "/" alone has none
            body = found if isinstance(found, bytes) else asked.json_bytes(found)
            self._count(path, 200)
            return Response(body, media_type=JSON)

        return endpoint

    def _constant(self, answer: Any) -> Callable[[Request, Viewer], Awaitable[Any]]:
        async def handle(_: Request, __: Viewer) -> Any:
            return answer

        return handle

    # schemas by id

    async def _schema(self, request: Request, viewer: Viewer) -> bytes:
        with self._store.read() as found:
            entry = asked.holder(found, request, viewer)
            highest = found.next_id - 1
        kept = self._bodies.get(entry.id)
        if kept is None or kept[0] is not entry:
            kept = self._bodies[entry.id] = entry, asked.json_bytes(asked.schema_of(entry))
        return (
            kept[1] if not asked.flag(request, "fetchMaxId") else asked.json_bytes({**asked.schema_of(entry), "maxId": highest})
        )

    async def _schema_text(self, request: Request, viewer: Viewer) -> bytes:
        with self._store.read() as found:
            return asked.holder(found, request, viewer).schema.encode()

    async def _schema_subjects(self, request: Request, viewer: Viewer) -> Any:
        return asked.page(request, sorted({entry.subject for entry in self._held(request, viewer)}))

    async def _schema_versions(self, request: Request, viewer: Viewer) -> Any:
        held = sorted(self._held(request, viewer), key=lambda entry: (entry.subject, entry.version))
        return asked.page(request, [{"subject": entry.subject, "version": entry.version} for entry in held])

    def _held(self, request: Request, viewer: Viewer) -> list[Entry]:
        with self._store.read() as found:
            entry = asked.holder(found, request, viewer)
            return [
                one for one in found.holders(entry.id) if viewer.sees(one.subject) and (not one.deleted or asked.deleted(request))
            ]

    async def _schemas(self, request: Request, viewer: Viewer) -> Any:
        with self._store.read() as found:
            listed = []
            for subject in self._named(found, request, viewer):
                versions = found.every(subject) if asked.deleted(request) else found.versions(subject)
                listed += versions[-1:] if asked.flag(request, "latestOnly") else versions
        return [asked.version_of(entry) for entry in asked.page(request, listed)]

    # subjects and versions

    async def _subjects(self, request: Request, viewer: Viewer) -> Any:
        with self._store.read() as found:
            names = self._named(found, request, viewer)
            if asked.flag(request, "deletedOnly") or asked.flag(request, "deleted_only"):
                names = [name for name in names if not found.versions(name)]
        return asked.page(request, names)

    def _named(self, found: Catalogue, request: Request, viewer: Viewer) -> list[str]:
        prefix = asked.prefix(request)
        names = found.subjects(deleted=asked.deleted(request))
        return [name for name in names if name.startswith(prefix) and viewer.sees(name)]

    async def _versions(self, request: Request, viewer: Viewer) -> Any:
        subject = asked.seen(request, viewer)
        with self._store.read() as found:
            versions = rules.require_versions(found, subject, deleted=asked.deleted(request))
        if asked.flag(request, "deletedOnly") or asked.flag(request, "deleted_only"):
            versions = [entry for entry in versions if entry.deleted]
        return asked.page(request, [entry.version for entry in versions])

    def _one(self, request: Request, viewer: Viewer) -> Entry:
        subject = asked.seen(request, viewer)
        with self._store.read() as found:
            return rules.require_version(found, subject, asked.part(request, "version"), deleted=asked.deleted(request))

    async def _version(self, request: Request, viewer: Viewer) -> Any:
        return asked.version_of(self._one(request, viewer))

    async def _version_text(self, request: Request, viewer: Viewer) -> bytes:
        return self._one(request, viewer).schema.encode()

    async def _referenced_by(self, request: Request, viewer: Viewer) -> Any:
        entry = self._one(request, viewer)
        with self._store.read() as found:
            users = found.references_to(entry.subject, entry.version)
            return asked.page(request, sorted({one.id for one in users if viewer.sees(one.subject)}))

    async def _lookup(self, request: Request, viewer: Viewer) -> Any:
        subject = asked.seen(request, viewer)
        wanted = rules.given(await asked.body(request), normalized=asked.flag(request, "normalize"))
        deleted = asked.deleted(request)

        def entry() -> Entry:
            return rules.lookup(self._store.snapshot(), subject, wanted, deleted=deleted, sees=viewer.sees)

        return asked.version_of(await self._verdict(viewer, entry))

    async def _compatible(self, request: Request, viewer: Viewer) -> Any:
        subject, version = asked.seen(request, viewer), request.path_params.get("version")
        wanted = rules.given(await asked.body(request), normalized=asked.flag(request, "normalize"))

        def reasons() -> list[str]:
            found = self._store.snapshot()
            only = rules.require_version(found, subject, asked.part(request, "version")) if version is not None else None
            return rules.incompatible(found, subject, rules.resolve(found, wanted, viewer.sees), only)

        said = await self._verdict(viewer, reasons)
        return {"is_compatible": not said} | ({"messages": said} if asked.flag(request, "verbose") else {})

    # changes

    async def _register(self, request: Request, viewer: Viewer) -> Any:
        subject, body = asked.written(request, viewer), await asked.body(request)
        wanted = rules.given(body, normalized=asked.flag(request, "normalize"))
        answer, written = await self._change(lambda found: rules.register(found, subject, wanted))
        if written:
            self._log.info("schema_registered", subject=subject, id=answer["id"])
        return answer

    async def _delete_subject(self, request: Request, viewer: Viewer) -> Any:
        subject, permanent = asked.written(request, viewer), asked.flag(request, "permanent")
        return await self._deletion(subject, partial(rules.delete_subject, subject=subject, permanent=permanent), permanent)

    async def _delete_version(self, request: Request, viewer: Viewer) -> Any:
        subject, permanent = asked.written(request, viewer), asked.flag(request, "permanent")
        version = asked.part(request, "version")
        return await self._deletion(
            subject, partial(rules.delete_version, subject=subject, asked=version, permanent=permanent), permanent
        )

    async def _deletion(self, subject: str, decide: Callable[[Catalogue], Decision], permanent: bool) -> Any:
        answer, _ = await self._change(decide)
        self._log.info("schema_deleted", subject=subject, versions=answer, permanent=permanent)
        return answer

    async def _level(self, request: Request, viewer: Viewer) -> Any:
        subject = asked.about(request)
        with self._store.read() as found:
            level = found.level(subject) if subject is None or viewer.sees(subject) else None
            if subject is None or (level is None and asked.flag(request, "defaultToGlobal")):
                level = found.level(None) or rules.DEFAULT_LEVEL
        if level is None:
            raise rules.no_level(subject or "")
        return {"compatibilityLevel": level}

    async def _set_level(self, request: Request, viewer: Viewer) -> Any:
        return await self._setting(request, viewer, partial(rules.set_level, body=await asked.body(request)))

    async def _clear_level(self, request: Request, viewer: Viewer) -> Any:
        return await self._setting(request, viewer, rules.clear_level)

    async def _mode(self, request: Request, viewer: Viewer) -> Any:
        subject = asked.about(request)
        with self._store.read() as found:
            mode = found.mode(subject) if subject is None or viewer.sees(subject) else None
            if subject is None or (mode is None and asked.flag(request, "defaultToGlobal")):
                mode = found.mode(None) or rules.DEFAULT_MODE
        if mode is None:
            raise rules.no_mode(subject or "")
        return {"mode": mode}

    async def _set_mode(self, request: Request, viewer: Viewer) -> Any:
        return await self._setting(request, viewer, partial(rules.set_mode, body=await asked.body(request)))

    async def _clear_mode(self, request: Request, viewer: Viewer) -> Any:
        return await self._setting(request, viewer, rules.clear_mode)

    async def _setting(self, request: Request, viewer: Viewer, decide: Callable[..., Decision]) -> Any:
        asked.require_writer(viewer)
        subject = asked.about(request)
        answer, written = await self._change(lambda found: decide(found, subject=subject))
        if written:
            self._log.info("registry_configured", subject=subject, setting=answer)
        return answer

    async def _change(self, decide: Callable[[Catalogue], Decision]) -> tuple[Any, bool]:
        """The answer, and whether anything was written for it."""
        written = False

        def noting(found: Catalogue) -> Decision:
            nonlocal written
            decision = decide(found)
            written = written or bool(decision.records)
            return decision

        return await self._turn(lambda: self._store.decide(noting)), written

    async def _verdict(self, viewer: Viewer, work: Callable[[], Any]) -> Any:
        """What reads only, apart from changes: whoever has it work long holds up no writer, and nobody can fill its queue."""
        if self._asking[viewer.principal] >= MOST_ASKING:
            raise Refused(429, 42901, f"{MOST_ASKING} questions of yours are not answered yet: try again in a second")
        self._asking[viewer.principal] += 1
        try:
            async with self._turns[viewer.principal]:
                return await asyncio.get_running_loop().run_in_executor(self._reader, work)
        finally:
            self._asking[viewer.principal] -= 1

    async def _turn(self, work: Callable[[], Any]) -> Any:
        """A change: what takes long, apart from the loop that answers and one at a time."""
        if self._waiting >= MOST_WAITING:
            raise Refused(429, 42901, "Too many requests wait for their turn: try again in a second")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._waiting -= 1

    # errors and counting

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return self._answer_error(request.scope, error.status, error.code, error.message)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        return self._answer_error(
            request.scope, error.status_code, error.status_code, f"HTTP {error.status_code} {error.detail}", headers
        )

    async def _failed(self, request: Request, error: Exception) -> Response:
        """A fault of ours, or a store that cannot go on; the server's own look at the store ends it then."""
        if not isinstance(error, ClientDisconnect):
            self._log.error("request_failed", reason=type(error).__name__)
        return self._answer_error(request.scope, 500, 50001, "Error in the registry itself: see its log")

    def _answer_error(
        self, scope: Scope, status: int, code: int, message: str, headers: dict[str, str] | None = None
    ) -> Response:  # fmt: skip
        self._count(scope["route_name"], status)
        return Response(asked.json_bytes({"error_code": code, "message": message}), status, headers, JSON)

    def _count(self, route: str, code: int, number: int = 1) -> None:
        key = route, code
        if key not in self._counted:
            self._counted[key] = telemetry.counter("bus_registry_requests_total").labels(route=route, code=str(code))
        self._counted[key].inc(number)

    def close(self) -> None:
        for pool in (self._worker, self._reader):
            pool.shutdown(wait=False, cancel_futures=True)
