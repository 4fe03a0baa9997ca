"""The feed over HTTP, as an ASGI application. docs/feed.md says what agencies may rely on.

Each request is proved, counted against its agency's share, and only then looked at. What is refused is never quoted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bus import telemetry
from bus.core import topics
from bus.delivery.deliveries import Unreadable
from bus.delivery.feed import answers, asked, streams
from bus.delivery.feed.answers import Refused, gone, later
from bus.delivery.feed.cursor import Cursor
from bus.delivery.feed.door import MOST_HEADER_BYTES, MOST_PATH_BYTES, MOST_QUERY_BYTES, Door
from bus.delivery.feed.limits import TooMuch
from bus.delivery.feed.openapi import DOCUMENT
from bus.delivery.feed.page import Gone, Page
from bus.delivery.feed.snapshots import MOST_ROWS, TooLarge
from bus.delivery.feed.tails import Tails
from bus.delivery.served import Outlet
from bus.engine import client
from bus.subscription import words

STREAMS, POLLS, READS = "open streams", "waiting polls", "reads"
MOST_READS = 8
"""That one agency may have under way; more are refused."""
_NO_ROUTE = "none"
_STREAM_EVENTS = 100
_LOOK_SECONDS = 1.0
"""How often one who waits is looked at: whether he is still there, and may still read."""


class Web:
    """`clock`: seconds, monotonic."""

    def __init__(self, door: Door, tails: Tails, clock: Callable[[], float] = time.monotonic) -> None:
        self._door, self._tails, self._clock = door, tails, clock
        self._log = telemetry.logger("feed")
        self._requests = telemetry.counter("bus_feed_requests_total")
        self._told = telemetry.counter("bus_feed_events_total")
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One agency reads one page at a time, whatever it has under way: so all have their turns at the readers."""
        self.closing = False
        refusals: Any = {HTTPException: self._http_error, Refused: self._refused, Exception: self._failed}
        self._app = Starlette(routes=self._routes(), exception_handlers=refusals)

    def _routes(self) -> list[Route]:
        listed: list[tuple[str, Callable[[Request, str], Awaitable[ASGIApp]]]] = [
            ("/v1/agreements", self._agreements),
            ("/v1/agreements/{id}/events", self._events),
            ("/v1/agreements/{id}/events/stream", self._stream),
            ("/v1/openapi.json", self._openapi),
        ]
        return [Route(path, self._endpoint(path, handle), methods=["GET"]) for path, handle in listed]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route_name"] = _NO_ROUTE
        app: ASGIApp = self._app
        try:
            if len(scope["query_string"]) > MOST_QUERY_BYTES or len(scope.get("raw_path") or b"") > MOST_PATH_BYTES:
                raise Refused(414, "The address is too long: a cursor and a few short parameters are all that it needs")
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADER_BYTES:
                raise Refused(431, "The headers are too long: a name, a password and a cursor are all that is needed")
            if scope["method"] != "GET":
                raise Refused(405, "There is nothing here but to GET", headers={"allow": "GET"})
            agency = scope["agency"] = self._door.agency(scope)
            self._door.request(agency)
        except Refused as refused:
            app = self._problem(scope, refused)
        with suppress(Exception):  # answered and told of by `_failed`; the server would print it with what it may quote
            await app(scope, receive, send)

    def _endpoint(self, path: str, handle: Callable[[Request, str], Awaitable[ASGIApp]]) -> Callable[[Request], Awaitable[Any]]:
        async def endpoint(request: Request) -> ASGIApp:
            request.scope["route_name"] = path
            try:
                found = await handle(request, request.scope["agency"])
            except Gone as error:
                raise gone(error.lost) from None
            except Unreadable as error:
                self._log.warning("request_failed", reason=str(error))
                raise later("The deliveries cannot be read at present: come again later", 2, 503) from None
            except TooLarge:
                raise Refused(
                    413, f"A lane has more than {MOST_ROWS:,} rows, too many for a snapshot: begin without it"
                ) from None
            except TooMuch as error:
                raise later(f"{error}", error.retry_seconds) from None
            self._count(path, 200)
            return found

        return endpoint

    # -- routes ------------------------------------------------------------------------------------------------------------

    async def _openapi(self, _: Request, __: str) -> Response:
        return answers.json_answer(DOCUMENT)

    async def _agreements(self, request: Request, agency: str) -> Response:
        self._door.asked(request.query_params.multi_items(), ())
        now_ms = self._door.now_ms()
        listed = [
            {
                "id": feed.agreement.id,
                "state": feed.state(now_ms),
                "purpose": feed.agreement.purpose,
                "valid_from": words.instant(feed.agreement.valid_from_ms),
                "valid_until": None if feed.agreement.valid_until_ms is None else words.instant(feed.agreement.valid_until_ms),
                "grant_hash": feed.agreement.grant_hash.hex(),
                "datasets": [grant.dataset for grant in feed.agreement.grants],
                "lanes": self._door.reading.lanes,
                "events": f"/v1/agreements/{feed.agreement.id}/events",
            }
            for feed in self._door.served().of(agency)
        ]
        return answers.json_answer({"agreements": listed})

    async def _events(self, request: Request, agency: str) -> ASGIApp:
        name = request.path_params["id"]
        feed = self._door.feed(agency, name)
        wanted = self._door.asked(request.query_params.multi_items(), asked.PAGE)
        with ExitStack() as held:
            held.enter_context(self._door.limits.holding(agency, READS))
            place = await self._door.begin(feed, wanted)
            feed, page, more = await self._page(agency, name, place, wanted.limit)
            if not page.events and not page.lost and not more and wanted.wait_seconds:
                held.close()
                held.enter_context(self._door.limits.holding(agency, POLLS))
                feed, page, more = await self._poll(request, agency, page, wanted.limit, wanted.wait_seconds)
            self._told.labels(agreement=feed.agreement.id).inc(len(page.events))
            text = self._door.text(feed, page.next)
            events = [event for event, _ in page.events]
            content = answers.page_content(events, text, more=more, snapshot=page.next.snapshot, lost=page.lost)
            return answers.Pieces(content, held.pop_all().close)

    async def _poll(self, request: Request, agency: str, page: Page, limit: int, seconds: float) -> tuple[Outlet, Page, bool]:
        name, more, deadline = request.path_params["id"], False, self._clock() + seconds
        while True:
            feed = self._door.feed(agency, name)
            left = deadline - self._clock()
            if page.events or page.lost or left <= 0 or self.closing or await request.is_disconnected():
                return feed, page, more
            if await self._wait(feed, page.next, min(left, _LOOK_SECONDS)):
                feed, page, more = await self._page(agency, name, page.next, limit)

    async def _stream(self, request: Request, agency: str) -> ASGIApp:
        name = request.path_params["id"]
        feed = self._door.feed(agency, name)
        query = request.query_params.multi_items()
        if resumed := request.headers.get("last-event-id"):
            query = [(key, value) for key, value in query if key not in ("cursor", "from")] + [("cursor", resumed)]
        wanted = self._door.asked(query, asked.STREAM)
        held = ExitStack()
        try:
            held.enter_context(self._door.limits.holding(agency, STREAMS))
            feed, page, _ = await self._page(agency, name, await self._door.begin(feed, wanted), _STREAM_EVENTS)
        except BaseException:
            held.close()
            raise

        def ended(reason: str, fault: BaseException | None) -> None:
            held.close()
            if fault is not None:
                self._log.error("request_failed", reason=client.place(fault))
            self._log.info("stream_ended", agreement=name, reason=reason)

        return streams.Stream(self._chunks(request.scope, agency, feed, page), ended)

    async def _chunks(self, scope: Scope, agency: str, feed: Outlet, page: Page) -> AsyncIterator[bytes]:
        """Until the agreement is not what it was, the asker is not who he was, or the process stops."""
        name, silent_since = feed.agreement.id, self._clock()
        yield streams.HEARTBEAT
        try:
            while not self.closing:
                if page.lost:
                    yield streams.named("lost", json.dumps([one.told() for one in page.lost]))
                for event, place in page.events:
                    self._require(scope, agency, feed)
                    yield streams.event(event, self._door.text(feed, place))
                self._told.labels(agreement=name).inc(len(page.events))
                if page.events or page.lost:
                    silent_since = self._clock()
                elif self._clock() - silent_since >= streams.HEARTBEAT_SECONDS:
                    silent_since = self._clock()
                    yield streams.HEARTBEAT
                news = bool(page.events) or await self._wait(feed, page.next, _LOOK_SECONDS)
                self._require(scope, agency, feed)
                if not news:
                    page.lost.clear()
                    continue
                now, page, _ = await self._page(agency, name, page.next, _STREAM_EVENTS)
                if now is not feed:
                    raise answers.changed()
        except Refused as refused:
            yield streams.named("end", json.dumps({"status": refused.status, "detail": refused.detail}))
        except (Gone, Unreadable, TooLarge) as error:
            detail = gone(error.lost) if isinstance(error, Gone) else later("The deliveries cannot be read", status=503)
            yield streams.named("end", json.dumps({"status": detail.status, "detail": detail.detail, **detail.more}))

    def _require(self, scope: Scope, agency: str, feed: Outlet) -> None:
        """That this stream may go on, under the very text it began with. Raises Refused."""
        if self._door.agency(scope) != agency:
            raise answers.not_found()
        if self._door.feed(agency, feed.agreement.id) is not feed:
            raise answers.changed()

    # -- reading -----------------------------------------------------------------------------------------------------------

    async def _page(self, agency: str, name: str, place: Cursor, limit: int) -> tuple[Outlet, Page, bool]:
        """Made of the agreement as it is now that it is made, not as it was when it was asked for."""
        while True:
            async with self._turns[agency]:
                feed = self._door.feed(agency, name)
                page, more = await self._door.reading.page(feed, place, limit)
            if self._door.feed(agency, name) is feed:
                return feed, page, more

    async def _wait(self, feed: Outlet, place: Cursor, seconds: float) -> bool:
        """Whether something may be new."""
        come = {lane: one.offset for lane, one in place.places.items()}
        return await self._tails.wait(topics.agency(feed.agreement.id), come, seconds)

    # -- errors and counting -------------------------------------------------------------------------------------------------

    def _problem(self, scope: Scope, refused: Refused) -> Response:
        self._count(scope["route_name"], refused.status)
        return answers.problem(refused)

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return self._problem(request.scope, error)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        """What starlette refuses: no such route, no such method."""
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return self._problem(request.scope, answers.not_found())
        return self._problem(request.scope, Refused(error.status_code, str(error.detail), headers=error.headers))

    async def _failed(self, request: Request, error: Exception) -> Response:
        """A fault of ours."""
        if not isinstance(error, ClientDisconnect):
            self._log.error("request_failed", reason=client.place(error))
        return self._problem(request.scope, Refused(500, "An error in the feed itself: see its log"))

    def _count(self, route: str, code: int) -> None:
        self._requests.labels(route=route, code=str(code)).inc()

    def show(self) -> None:
        """The gauges."""
        telemetry.gauge("bus_feed_streams").set(self._door.limits.held(STREAMS))

    def close(self) -> None:
        """Streams and polls come to their end."""
        self.closing = True
        self._tails.wake()
