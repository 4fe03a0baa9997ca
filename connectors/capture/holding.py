"""Tables that were altered so that their schemas do not fit: nothing of them flows, all others go on, nothing is lost.

A table is *held* from the first change that cannot be read. The slot stays there, so that PostgreSQL keeps the log. Once the
table fits again (the schema was released, or the alteration undone) a new session reads the log from there: the table is then
*late*, its changes are published, those of the others that were published meanwhile are passed over. Behind the newest of
those the table is in step again. A table that does not fit before its snapshot is *unread*: its snapshot comes when it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from bus import telemetry
from connectors.capture.errors import Interrupted, Refusal
from connectors.capture.progress import BEHIND_THE_LAST_ROW, MESSAGE_ORDINALS
from connectors.capture.session import Session
from connectors.capture.source import Table

Captured = TypeVar("Captured")


@dataclass(frozen=True, slots=True)
class Relation(Generic[Captured]):
    """Of a table that is not in step. `captured`: None where it cannot be read, and then `why`."""

    table: str
    captured: Captured | None
    why: str


class Holding(Generic[Captured]):
    """The held, late and unread tables of one session's stream."""

    def __init__(self, session: Session) -> None:
        self._s = session
        self._stopped: set[str] = set()
        """Held or unread, until another session."""
        self._late = set(session.progress.held) - set(session.misfits)
        self._apart: dict[bytes, Relation[Captured]] = {}
        """By oid."""

    def begin(self) -> None:
        """Before the stream: what is known of the tables now."""
        gauge = telemetry.gauge("bus_capture_table_held")
        for target in self._s.targets.values():
            gauge.labels(dataset=target.name).set(0)
        for table in self._late:
            gauge.labels(dataset=self._s.targets[table].name).set(1)
        for table, why in self._s.misfits.items():
            self._hold(table, why, BEHIND_THE_LAST_ROW)
        self._owe()

    def observe(self, tables: dict[str, Table], misfits: dict[str, str]) -> None:
        """What the database says of its tables now, between two transactions. Raises Interrupted where one fits that did not: a
        new session reads it."""
        before, self._s.tables, self._s.misfits = set(self._s.misfits), tables, misfits
        if fitting := sorted(before - set(misfits)):
            raise Interrupted(f"fits its schema again: {', '.join(fitting)}; read on from where it was held")
        for table, why in misfits.items():
            if table not in self._stopped:
                self._hold(table, why, BEHIND_THE_LAST_ROW)

    def _hold(self, table: str, why: str, row: int) -> None:
        """From the row message at `row` on nothing of it is published."""
        s = self._s
        if s.progress.done(table):
            s.progress = s.progress.hold(table, (s.events.lsn, s.events.ordinal), row)
        self._late.discard(table)
        self._stopped.add(table)
        self._owe()
        name = s.targets[table].name
        telemetry.gauge("bus_capture_table_held").labels(dataset=name).set(1)
        s.log.warning("table_held", dataset=name, reason=why)

    def stopped(self, table: str) -> bool:
        """Whether its changes are not read in this session, be it held or unread."""
        return table in self._stopped

    def in_step(self, table: str) -> bool:
        return table not in self._stopped and table not in self._s.progress.held

    def set_apart(self, oid: bytes, table: str, captured: Captured | None, why: str = "") -> None:
        """A relation whose changes are for `change`: of a table that is not in step, or that cannot be read: `why`."""
        self._apart[oid] = Relation(table, captured, why)

    def forget(self, oid: bytes) -> None:
        self._apart.pop(oid, None)

    def change(self, oid: bytes, row: int, publish: Callable[[Captured], None]) -> None:
        """The row message at `row` is of a table that is not in step, or not captured. Raises Refusal where it cannot be told
        which events are published."""
        if (relation := self._apart.get(oid)) is None:
            return
        s, table = self._s, relation.table
        events = s.events
        if relation.captured is None and self.in_step(table):
            if self._is_published(table):
                return
            self._hold(table, relation.why, row)
        if (held := s.progress.held.get(table)) is None:
            return  # unread
        if not held.begins_before(events.lsn, row):
            if relation.captured is not None:
                publish(relation.captured)  # for its ordinals
            return
        if relation.captured is None and table in self._late:
            self._hold(table, relation.why, row)
        if events.lsn == held.since[0]:
            events.ordinal = max(events.ordinal, held.since[1])  # what came before it may not have been readable
        begun = events.ordinal
        if relation.captured is not None and table in self._late:
            publish(relation.captured)
        events.ordinal = begun + MESSAGE_ORDINALS

    def _is_published(self, table: str) -> bool:
        """Whether the open transaction is. Raises Refusal when it is in part."""
        at = self._s.progress.streamed
        if at is not None and self._s.events.lsn == at.lsn and self._s.events.is_published():
            raise Refusal(
                f"{table} was altered in a transaction that is published in part, and its first part cannot be read any more: "
                "give it back the schema of before, or forget this database's position (python -m connectors.capture.forget)"
            )
        return at is not None and self._s.events.lsn < at.lsn

    def reached(self, lsn: int) -> dict[bytes, Captured]:
        """The stream is about to go on at `lsn`. Gives what is in step from there on, by oid."""
        s = self._s
        if not self._late or (s.progress.streamed and lsn <= s.progress.streamed.lsn):
            return {}
        for table in sorted(self._late):
            name = s.targets[table].name
            telemetry.gauge("bus_capture_table_held").labels(dataset=name).set(0)
            s.log.info("table_resumed", dataset=name)
        s.progress = s.progress.release(self._late)
        found = {oid: r.captured for oid, r in self._apart.items() if r.table in self._late and r.captured is not None}
        self._apart = {oid: of for oid, of in self._apart.items() if oid not in found}
        self._late = set()
        self._owe()
        return found

    def before_commit(self) -> None:
        """What was published of late tables is on record with it."""
        if self._late:
            s = self._s
            s.progress = s.progress.caught_up(self._late, (s.events.lsn, s.events.ordinal))
            self._owe()

    def _owe(self) -> None:
        s = self._s
        s.events.owed = {s.targets[table].name: s.progress.held[table].next for table in self._late}
