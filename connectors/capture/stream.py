"""The stream: every committed change behind the slot, in commit order, batch by batch into Kafka, then the slot is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import psycopg

from bus import telemetry
from bus.core import failpoint
from bus.core.failpoint import Point
from bus.core.outcome import DeadCode
from bus.core.position import format_lsn
from connectors.capture import pgoutput, relations, source
from connectors.capture.compiled import UnchangedValue
from connectors.capture.errors import Interrupted, KafkaRefusal, Misfit, ProtocolError, Refusal
from connectors.capture.events import CREATE, DELETE
from connectors.capture.holding import Holding
from connectors.capture.pgoutput import HEADER, Relation
from connectors.capture.relations import Captured, RowImage
from connectors.capture.session import Session

BATCH_BYTES: Final = 8_000_000
CONFIRM_SECONDS: Final = 1.0
"""Least time between two words to the slot: the server may write to disk for each."""
IDLE_SECONDS: Final = 0.5
STALLED_SECONDS: Final = 1.0
"""After this long without the rest of a large source transaction, its first part is committed."""
SILENCE_SECONDS: Final = 60.0
"""Beyond three heartbeats: no word from the server for so long means that the connection is dead."""
PREFIX: Final = "bus"
_OID: Final = HEADER + 1
_ROW: Final = HEADER + 5


class Stream:
    """Runs the stream of one session. `clock` is monotonic, in seconds."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._s = session
        self._clock = clock
        self._relations: dict[bytes, Captured] = {}
        """Of tables in step, by oid, as its four bytes stand in row messages."""
        self._holding: Holding[Captured] = Holding(session)
        self._inside = False
        """Between a source transaction's first and last message."""
        self._filtered = False
        """The open transaction committed before some snapshot run: rows are looked up in their segments."""
        self._boundary = session.progress.confirmed or 0
        """Everything that committed before this is in this batch or an earlier one."""
        self._told_at = self._begun_at = 0.0
        self._newest_ms = 0

    def run(self) -> None:
        """Until stopped or something fails. Raises Interrupted or Refusal; Kafka then has everything up to the last commit."""
        s = self._s
        self._holding.begin()
        s.wal.start(s.slot, source.PUBLICATION, s.progress.confirmed or 0)
        s.log.info("streaming_started", confirmed=format_lsn(s.progress.confirmed or 0))
        telemetry.gauge("bus_capture_streaming").labels(database=s.domain).set(1)
        failpoint.hit(Point.STREAM_STARTED)
        try:
            self._until_stopped()
        except KafkaRefusal:
            raise
        except Refusal:
            if s.events.events_since_commit:  # what came before the reason to refuse is good
                self._commit()
            raise
        finally:
            telemetry.gauge("bus_capture_streaming").labels(database=s.domain).set(0)
        if s.events.events_since_commit and not self._inside:
            self._commit()
        s.wal.confirm(s.progress.confirmed or 0)

    def _until_stopped(self) -> None:
        s = self._s
        next_beat = self._clock()
        while not s.stopped():
            self._drain()
            now = self._clock()
            if now >= next_beat:
                self._heartbeat()
                next_beat = now + s.settings.capture.heartbeat_seconds
            self._when_idle(now, next_beat)

    def _drain(self) -> None:
        """Takes in what has arrived; leaves when nothing is left, or now and then so that the heart can beat."""
        s, read = self._s, self._s.wal.read
        events, limit = s.events, s.settings.capture.batch_events
        until = self._clock() + IDLE_SECONDS
        while (b := read()) is not None:
            kind = b[HEADER]
            if kind == pgoutput.INSERT:
                self._insert(b)
            elif kind == pgoutput.UPDATE:
                self._update(b)
            elif kind == pgoutput.DELETE:
                self._delete(b)
            else:
                self._control(kind, b)
                if not self._inside:
                    now = self._clock()
                    if self._due(now):
                        self._commit()
                    if now >= until:
                        return
            if events.events_since_commit >= limit or events.bytes >= BATCH_BYTES:
                self._commit()
                s.check_stop()

    def _due(self, now: float) -> bool:
        """Whether the batch's oldest event has waited long enough. Starts the clock of a new batch."""
        if not self._s.events.events_since_commit:
            self._begun_at = 0.0
            return False
        if not self._begun_at:
            self._begun_at = now
        return now - self._begun_at >= self._s.settings.capture.linger_ms / 1000

    def _when_idle(self, now: float, next_beat: float) -> None:
        s = self._s
        if self._inside:
            if s.events.events_since_commit and self._due(now) and now - self._begun_at >= STALLED_SECONDS:
                self._commit()
            s.wal.wait(IDLE_SECONDS)
        elif self._due(now):
            self._commit()
        elif s.events.events_since_commit:
            s.wal.wait(s.settings.capture.linger_ms / 1000 - (now - self._begun_at))
        else:
            s.lag.contact()
            self._confirm(now)
            s.wal.wait(min(IDLE_SECONDS, next_beat - now))
        if now - s.wal.heard_at > SILENCE_SECONDS + 3 * s.settings.capture.heartbeat_seconds:
            raise Interrupted("the database has been silent for too long")

    def _commit(self) -> None:
        s = self._s
        events = s.events.events_since_commit
        self._holding.before_commit()
        s.commit_stream(self._boundary, self._inside)
        self._begun_at = 0.0
        if events:
            s.lag.captured(self._newest_ms)
        else:  # a heartbeat: nothing that committed before it is missing
            s.lag.contact()
        self._confirm(self._clock())

    def _confirm(self, now: float) -> None:
        """Tells the slot what Kafka has: never more than the position record says."""
        if now - self._told_at >= CONFIRM_SECONDS:
            failpoint.hit(Point.BEFORE_CONFIRM)
            self._s.wal.confirm(self._s.progress.confirmed or 0)
            failpoint.hit(Point.AFTER_CONFIRM)
            self._told_at = now

    def _heartbeat(self) -> None:
        """Checks that nothing was changed behind our back, and keeps the slot moving on a quiet database."""
        s = self._s
        try:
            self._look_at_tables()
            kept = source.retained_bytes(s.db, s.slot)
            telemetry.gauge("bus_replication_slot_retained_bytes").labels(database=s.domain).set(kept)
            source.beat(s.db, PREFIX)
        except psycopg.Error as error:
            raise Interrupted(f"the heartbeat failed ({type(error).__name__})") from None

    def _look_at_tables(self) -> None:
        """Raises Refusal where changes are left out of the log, Interrupted where a table that did not fit does now."""
        s = self._s
        tables, misfits = source.check_tables(s.db, s.bindings.values(), s.progress.oids)
        source.check_publication(s.db, s.bindings.values(), misfits)
        if self._inside:
            return  # the next heartbeat sees it, too
        self._holding.observe(tables, misfits)
        for oid, captured in list(self._relations.items()):
            if not self._holding.in_step(table := captured.target.dataset.table):
                del self._relations[oid]
                self._holding.set_apart(oid, table, captured)

    def _control(self, kind: int, b: bytes) -> None:
        s = self._s
        if kind == pgoutput.BEGIN:
            at = pgoutput.begin(b)
            self._relations |= self._holding.reached(at.lsn)
            s.events.transaction(at.lsn, at.xid, at.ts_ms, s.now_ms(), s.progress.streamed)
            self._filtered = at.lsn < s.progress.floor()
            self._inside = True
            self._newest_ms = at.ts_ms
        elif kind == pgoutput.COMMIT:
            self._inside = False
            self._boundary = max(self._boundary, pgoutput.commit_end(b))
        elif kind == pgoutput.MESSAGE:
            self._pass_heartbeat(b)
        elif kind == pgoutput.RELATION:
            self._relation(pgoutput.relation(b))
        elif kind == pgoutput.TRUNCATE:
            for number in pgoutput.truncated(b):
                self._truncate(number, pgoutput.message_at(b))

    def _pass_heartbeat(self, b: bytes) -> None:
        """A message in the log: all that committed before it has come."""
        if self._inside:
            return  # another program's, inside its own transaction
        s = self._s
        self._boundary = max(self._boundary, pgoutput.message_lsn(b))
        s.log.debug("heartbeat", lsn=format_lsn(self._boundary))
        self._relations |= self._holding.reached(self._boundary)
        moved = not s.progress.held and self._boundary > (s.progress.confirmed or 0)
        ended = not s.progress.whole and s.is_whole(s.progress.streamed, False)
        if not s.events.events_since_commit and (moved or ended):
            self._commit()

    def _apart(self, b: bytes, publish: Callable[[bytes], None]) -> None:
        """A change of a table that is not in step, or not captured. `publish` is one of the three below."""
        oid = b[_OID:_ROW]

        def in_turn(captured: Captured) -> None:
            self._relations[oid] = captured
            try:
                publish(b)
            finally:
                del self._relations[oid]

        self._holding.change(oid, pgoutput.message_at(b), in_turn)

    def _insert(self, b: bytes) -> None:
        captured = self._relations.get(b[_OID:_ROW])
        if captured is None:
            self._apart(b, self._insert)
            return
        if self._filtered and not self._passes(captured, b, _ROW + 1):
            return
        try:
            row, end, pin, key = captured.convert(b, _ROW + 1)
        except ValueError:
            self._unconvertible(captured, b)
        else:
            if end != len(b):
                raise _wrong_length()
            self._s.events.row(captured.target, CREATE, row, pin, key)

    def _delete(self, b: bytes) -> None:
        captured = self._relations.get(b[_OID:_ROW])
        if captured is None:
            self._apart(b, self._delete)
            return
        _require_old(captured, b)
        if self._filtered and not self._passes(captured, b, _ROW + 1):
            return
        try:
            row, end, pin, key = captured.convert(b, _ROW + 1)
        except ValueError:
            self._unconvertible(captured, b)
        else:
            if end != len(b):
                raise _wrong_length()
            self._s.events.row(captured.target, DELETE, row, pin, key)

    def _update(self, b: bytes) -> None:
        captured = self._relations.get(b[_OID:_ROW])
        if captured is None:
            self._apart(b, self._update)
            return
        _require_old(captured, b)
        if self._filtered:
            self._filtered_update(captured, b)
            return
        try:
            try:
                old, new, end = captured.convert_pair(b, _ROW + 1)
            except UnchangedValue:
                old, new, end = self._with_unchanged(captured, b)
        except ValueError:
            self._unconvertible(captured, b)
        else:
            if end != len(b):
                raise _wrong_length()
            self._s.events.update(captured.target, old, new)

    def _with_unchanged(self, captured: Captured, b: bytes) -> tuple[RowImage, RowImage, int]:
        """The two images of an update that leaves out large values, and the end of the message."""
        _, _, new_at = pgoutput.columns_at(b, _ROW + 1)
        _, _, end = pgoutput.columns_at(b, new_at + 1)
        old_row, _, *old = captured.convert(b, _ROW + 1)
        new_row, _, *new = captured.convert(pgoutput.fill_unchanged(b, _ROW + 1, new_at + 1), 0)
        return (old_row, old[0], old[1]), (new_row, new[0], new[1]), end

    def _filtered_update(self, captured: Captured, b: bytes) -> None:
        """An update while snapshot segments still matter: each side counts by its own segment."""
        _, _, new_at = pgoutput.columns_at(b, _ROW + 1)
        filled = pgoutput.fill_unchanged(b, _ROW + 1, new_at + 1)
        old_counts, new_counts = self._passes(captured, b, _ROW + 1), self._passes(captured, filled, 0)
        if not (old_counts or new_counts):
            return
        events, target = self._s.events, captured.target
        try:
            old, new, _ = self._with_unchanged(captured, b)
        except ValueError:
            self._unconvertible(captured, b)
            return
        if old_counts and new_counts:
            events.update(target, old, new)
        elif old_counts:
            events.row(target, DELETE, *old)
        else:
            events.row(target, CREATE, *new)

    def _passes(self, captured: Captured, b: bytes, i: int) -> bool:
        """Whether the snapshot of the row's segment was taken before the open transaction committed."""
        if captured.segments is None:
            return True
        values, _, _ = pgoutput.columns_at(b, i)
        named = dict(zip(captured.names, values, strict=True))
        return self._s.events.lsn >= captured.segments.point(named)

    def _unconvertible(self, captured: Captured, b: bytes) -> None:
        self._s.events.dead(captured.target, DeadCode.UNCONVERTIBLE, b[HEADER:])

    def _truncate(self, number: int, at: int) -> None:
        oid = number.to_bytes(4, "big")
        if (captured := self._relations.get(oid)) is not None:
            self._truncated(captured)
        else:
            self._holding.change(oid, at, self._truncated)

    def _truncated(self, captured: Captured) -> None:
        if captured.segments is None or self._s.events.lsn >= captured.segments.first():
            self._s.events.dead(captured.target, DeadCode.TRUNCATE, None)

    def _relation(self, relation: Relation) -> None:
        """The stream describes a table: before its first change, and again after it was altered."""
        s, oid = self._s, relation.oid.to_bytes(4, "big")
        self._relations.pop(oid, None)
        self._holding.forget(oid)
        table, why = self._table(relation)
        if table is None or not s.progress.done(table):
            return
        captured = None
        try:
            if not why:
                captured, why = relations.described(s, table, relation)
        except Misfit as wrong:
            why = str(wrong)
        if captured is not None and not why and self._holding.in_step(table):
            self._relations[oid] = captured
        else:
            self._holding.set_apart(oid, table, captured, why)

    def _table(self, relation: Relation) -> tuple[str | None, str]:
        """Which captured table it is, whatever its name is by now; and why one of that name is not the one that was captured."""
        oids, table = self._s.progress.oids, relation.table
        if known := next((name for name, oid in oids.items() if oid == relation.oid), None):
            return known, ""
        if relation.schema != source.SCHEMA or table not in self._s.bindings:
            return None, ""
        return table, source.made_anew(self._s.bindings[table].dataset) if table in oids else ""


def _wrong_length() -> ProtocolError:
    return ProtocolError("a row message is longer or shorter than its columns")


def _require_old(captured: Captured, b: bytes) -> None:
    if b[_ROW] != pgoutput.OLD:
        if b[_ROW] in (pgoutput.NEW, ord("K")):
            raise Refusal(relations.identity(captured.target.dataset.table))
        raise ProtocolError("a row message has no image of the row")
