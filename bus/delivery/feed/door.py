"""Who asks, for which agreement, and whether now: everything that is decided before a record is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope

from bus.core import topics
from bus.delivery.feed import asked, cursor
from bus.delivery.feed.answers import CHALLENGE, Refused, later, not_found
from bus.delivery.feed.asked import Asked
from bus.delivery.feed.cursor import Cursor
from bus.delivery.feed.limits import Limits, TooMuch
from bus.delivery.feed.reading import Reading
from bus.delivery.following import Following, Unknown
from bus.delivery.served import Outlet, Served
from bus.registry.users import Users

MOST_QUERY_BYTES = 9_000
"""A cursor and what stands beside it."""
MOST_PATH_BYTES = 512
MOST_HEADER_BYTES = 16_384


def _now_ms() -> int:
    return int(time.time() * 1000)


@dataclass(slots=True)
class Door:
    following: Following
    users: Users
    limits: Limits
    reading: Reading
    secret: bytes
    most_events: int
    now_ms: Callable[[], int] = field(default=_now_ms)
    _index: bytes = b""

    def agency(self, scope: Scope) -> str:
        """Whom the request proves. Raises Refused (401, 403, 503)."""
        served = self.served()
        if served.index is not self._index:
            self.users.take_index(served.index)
            self._index = served.index
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        viewer = self.users.viewer(header)
        if viewer is None:
            raise Refused(401, "Give the name and password of your agency's user of the bus", headers=CHALLENGE)
        agency = viewer.prefix.removeprefix(topics.agency("")).rstrip(".")
        if not agency:
            raise Refused(403, "The feed is for agencies: this user is none")
        return agency

    def served(self) -> Served:
        try:
            return self.following.current()
        except Unknown:
            raise later("Which agreements are in force is not known at present: come again later", 2, 503) from None

    def feed(self, agency: str, agreement: str) -> Outlet:
        """Raises Refused (404, 503)."""
        found = self.served().find(agency, agreement, self.now_ms())
        if found is None:
            raise not_found()
        return found

    def request(self, agency: str) -> None:
        """Raises Refused (429)."""
        try:
            self.limits.request(agency)
        except TooMuch as error:
            raise later(f"{error}", error.retry_seconds) from None

    def asked(self, query: list[tuple[str, str]], known: tuple[str, ...]) -> Asked:
        """Raises Refused (400)."""
        try:
            return asked.read(query, known, self.reading.lanes, self.most_events)
        except asked.Wrong as error:
            raise Refused(400, str(error)) from None

    async def begin(self, feed: Outlet, wanted: Asked) -> Cursor:
        """Where the reader stands. Raises Refused (400)."""
        lanes = [wanted.lane] if wanted.lane is not None else list(range(self.reading.lanes))
        if wanted.snapshot:
            return await self.reading.snapshot(feed, lanes)
        if not wanted.cursor:
            return cursor.beginning(lanes)
        try:
            found = cursor.decode(wanted.cursor, feed.agreement.id, self.secret)
        except cursor.Forged:
            raise Refused(
                400, "This is no cursor that the feed gave for this agreement: use 'next' of an answer as it is"
            ) from None
        if wanted.lane is not None and list(found.places) != lanes:
            raise Refused(400, "The cursor is of other lanes than 'lane' says: leave 'lane' out, or begin without a cursor")
        return found

    def text(self, feed: Outlet, place: Cursor) -> str:
        return cursor.encode(place, feed.agreement.id, self.secret)
