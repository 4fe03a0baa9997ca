"""Tables that were altered so that their schemas do not fit: nothing of them flows, all others go on, nothing is lost.

A table is *held* from the first change that cannot be read: what the log has of it before that is published, in the shape and
under the schema of then. The slot stays there, so that PostgreSQL keeps the log. Once the table fits again (the schema was
released, or the alteration undone) a new session reads the log from there: the table is then *late*, its changes are published,
those of the others that were published meanwhile are passed over. Behind the newest of those the table is in step again. A
table that does not fit before its snapshot is *unread*: its snapshot comes when it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from bus import telemetry
from connectors.capture.errors import Interrupted, Misfit, Refusal
from connectors.capture.progress import BEHIND_THE_LAST_ROW, MESSAGE_ORDINALS
from connectors.capture.session import Session
from connectors.capture.source import Table

Captured = TypeVar("Captured")


@dataclass(frozen=True, slots=True)
class Relation(Generic[Captured]):
    """Of a table that is not in step, or that cannot be read now: `why`. `captured`: None where nobody knows any more how its
    rows were read when they could be."""

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
        self._for_people: set[str] = set()
        """Held while they caught up: another session would come no further."""
        self._apart: dict[bytes, Relation[Captured]] = {}
        """By oid."""
        self._uncounted = -1
        """LSN of a transaction of whose published rows some could not be read, so that its further ordinals are not known."""

    def begin(self) -> None:
        """Before the stream: what is known of the tables now."""
        gauge = telemetry.gauge("bus_capture_table_held")
        for target in self._s.targets.values():
            gauge.labels(dataset=target.name).set(0)
        for table in self._late:
            gauge.labels(dataset=self._s.targets[table].name).set(1)
        for table, misfit in self._s.misfits.items():
            self._found(table, misfit)
        self._owe()

    def observe(self, tables: dict[str, Table], misfits: dict[str, Misfit]) -> None:
        """What the database says of its tables now, between two transactions. Raises Interrupted where one fits that did not: a
        new session reads it."""
        before, self._s.tables, self._s.misfits = self._s.misfits, tables, misfits
        if fitting := sorted(self._stopped - set(misfits) - self._for_people):
            raise Interrupted(f"fits its schema again: {', '.join(fitting)}; read on from where it was held")
        for table in before.keys() - misfits.keys() - self._stopped:
            telemetry.gauge("bus_capture_table_held").labels(dataset=self._s.targets[table].name).set(0)
        for table, misfit in misfits.items():
            if table not in self._stopped and (table not in before or not misfit.logged):
                self._found(table, misfit)

    def _found(self, table: str, misfit: Misfit) -> None:
        """The database says so. What the log shows by itself holds the table from the first row on that cannot be read: what
        stands before it in the log still can."""
        if misfit.logged and self._s.progress.done(table) and table not in self._s.progress.held:
            self._tell(table, str(misfit))
        else:
            self._hold(table, str(misfit), BEHIND_THE_LAST_ROW)

    def _hold(self, table: str, why: str, row: int) -> None:
        """From the row message at `row` on nothing of it is published."""
        s = self._s
        if s.progress.done(table):
            s.progress = s.progress.hold(table, (s.events.lsn, s.events.ordinal), row)
        if table in self._late:
            self._late.discard(table)
            self._for_people.add(table)
        self._stopped.add(table)
        self._owe()
        self._tell(table, why)

    def _tell(self, table: str, why: str) -> None:
        name = self._s.targets[table].name
        telemetry.gauge("bus_capture_table_held").labels(dataset=name).set(1)
        self._s.log.warning("table_held", dataset=name, reason=why)

    def in_step(self, table: str) -> bool:
        return table not in self._stopped and table not in self._s.progress.held

    def set_apart(self, oid: bytes, table: str, captured: Captured | None, why: str = "") -> None:
        """A relation whose changes are for `change`: of a table that is not in step, or that must not be published: `why`."""
        self._apart[oid] = Relation(table, captured, why)

    def forget(self, oid: bytes) -> None:
        self._apart.pop(oid, None)

    def change(self, oid: bytes, row: int, publish: Callable[[Captured], None]) -> None:
        """The row message at `row` is of a table that is not in step, or not captured. Raises Refusal where it cannot be told
        which events are published."""
        if (relation := self._apart.get(oid)) is None:
            return
        s, table, captured = self._s, relation.table, relation.captured
        events = s.events
        if events.lsn < s.progress.first(table):
            return  # of before its snapshot; it may not even be the same table
        held = s.progress.held.get(table)
        if held is None:  # in step until now
            if self._is_published(table, captured is not None):
                self._count(captured, publish)
                return
            self._hold(table, relation.why, row)
            held = s.progress.held[table]
        if not held.begins_before(events.lsn, row):
            self._count(captured, publish)
            return
        if relation.why and table in self._late:
            self._hold(table, relation.why, row)
        if events.lsn == held.since[0]:
            events.ordinal = max(events.ordinal, held.since[1])  # what came before it may not have been readable
        elif self._uncounted == events.lsn:
            raise Refusal(
                f"{table}: which events its changes become cannot be told, for those of another table before them in the same "
                "transaction were published under a schema that is not registered any more: "
                "forget this database's position (python -m connectors.capture.forget)"
            )
        begun = events.ordinal
        if captured is not None and table in self._late:
            publish(captured)
        events.ordinal = begun + MESSAGE_ORDINALS

    def _count(self, captured: Captured | None, publish: Callable[[Captured], None]) -> None:
        """A row message of which everything is published: for its ordinals."""
        if captured is not None:
            publish(captured)
        else:
            self._uncounted = self._s.events.lsn

    def _is_published(self, table: str, countable: bool) -> bool:
        """Whether the row message that comes is. Raises Refusal where that cannot be told."""
        progress, events = self._s.progress, self._s.events
        at = progress.streamed
        if at is None or events.lsn > at.lsn:
            return False
        if events.lsn < at.lsn or progress.whole:
            return True
        if events.is_published() and not countable:
            raise Refusal(
                f"{table} was altered in a transaction that is published in part, and its first part cannot be read any more: "
                "give it back the schema of before, or forget this database's position (python -m connectors.capture.forget)"
            )
        return events.is_published()

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
        found = {
            oid: r.captured for oid, r in self._apart.items() if r.table in self._late and r.captured is not None and not r.why
        }
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
