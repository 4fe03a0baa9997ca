"""Bugs of capture, one function each."""

from __future__ import annotations

from typing import Any

from connectors.capture.events import MAX_ORDINAL, Events
from connectors.capture.session import Session
from connectors.capture.sink import Sink
from tests.chaos.planting import CAPTURE, bug, replace


@bug(CAPTURE)
def position_by_lsn_only() -> None:
    """A source transaction of which some was published counts as published."""
    honest = Events.transaction

    def transaction(self: Events, lsn: int, xid: int, ts_ms: int, now_ms: int, published: Any) -> None:
        honest(self, lsn, xid, ts_ms, now_ms, published)
        if published is not None and lsn <= published.lsn:
            self._skip_below = MAX_ORDINAL

    replace(Events, "transaction", transaction)


@bug(CAPTURE)
def position_recorded_after_the_events() -> None:
    honest = Sink.commit

    def commit(self: Sink, position_record: bytes | None) -> None:
        if self._open:
            self._producer.commit_transaction(20)
            self._open = False
        honest(self, position_record)

    replace(Sink, "commit", commit)


@bug(CAPTURE)
def slot_told_before_the_commit() -> None:
    honest = Session.commit_stream

    def commit_stream(self: Session, confirmed: int, inside: bool) -> None:
        self.wal.confirm(confirmed)
        honest(self, confirmed, inside)

    replace(Session, "commit_stream", commit_stream)
