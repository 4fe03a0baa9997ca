"""The initial snapshot: every table in key order, as of one exact point of the log, in batches that can be taken up again.

The permanent slot exists before, so every change after the point also comes through the stream. An interrupted snapshot goes
on behind the last key, as of a new point; see progress.py for how the stream then tells what it already has.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

import psycopg
from psycopg import pq, sql

from bus import telemetry
from bus.core import failpoint
from bus.core.failpoint import Point
from bus.core.outcome import DeadCode
from bus.core.position import format_lsn
from connectors.capture import compiled, source
from connectors.capture.columns import blank_padded
from connectors.capture.errors import Interrupted, ProtocolError, Refusal
from connectors.capture.events import READ
from connectors.capture.session import Session
from connectors.capture.source import SCHEMA, Table
from connectors.capture.walsender import Snapshot

BATCH_BYTES = 8_000_000
LOCK_MS = 5_000
_C = sql.SQL(' COLLATE "C"')


def take(session: Session, dsn: str) -> None:
    """Reads what is not read yet and publishes it as `r` events. Returns when every table is done."""
    pending = [t for name, t in session.tables.items() if not session.progress.done(name)]
    gauge = telemetry.gauge("bus_snapshot_progress_ratio").labels(database=session.domain)
    for name in session.tables:
        telemetry.counter("bus_snapshot_rows_total").labels(dataset=session.targets[name].name)  # a series from the start
    for name, why in session.misfits.items():
        if session.progress.last_key(name) is not None:
            raise Refusal(f"{why} (its snapshot is half done)")
    if not pending:
        gauge.set(1.0)
        return
    telemetry.gauge("bus_capture_streaming").labels(database=session.domain).set(0)
    with _exported(session, pending, dsn) as (reader, snapshot, ts_ms):
        session.log.info("snapshot_started", tables=[t.binding.dataset.table for t in pending], lsn=format_lsn(snapshot.lsn))
        failpoint.hit(Point.SNAPSHOT_EXPORTED)
        session.events.snapshot(snapshot.lsn, ts_ms, session.progress.rows)
        estimate = max(1, sum(t.rows for t in session.tables.values()))
        for table in pending:
            for _ in _read_table(session, reader, table, snapshot):
                gauge.set(min(0.99, session.progress.rows / estimate))  # 1 is kept for the end; the estimate may be short
                session.lag.contact()
    failpoint.hit(Point.SNAPSHOT_DONE)
    gauge.set(1.0)
    session.log.info("snapshot_finished", rows=session.progress.rows)


@contextlib.contextmanager
def _exported(session: Session, tables: list[Table], dsn: str) -> Iterator[tuple[source.Db, Snapshot, int]]:
    """A connection inside the exported snapshot, the snapshot, and its time in Unix milliseconds.

    A rewriting ALTER TABLE or a TRUNCATE makes a table look empty to older snapshots, so the tables are locked against both
    (ACCESS SHARE, as pg_dump does) from before the snapshot is taken until everything is read.
    """
    names = sql.SQL(", ").join(sql.Identifier(SCHEMA, t.binding.dataset.table) for t in tables)
    lock = sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(names)
    session.db.execute(f"SET lock_timeout = {LOCK_MS}")
    with source.connect(dsn, session.domain) as reader:
        with session.db.transaction():
            session.db.execute(lock)
            session.tables, session.misfits = source.check_tables(session.db, session.bindings.values(), session.progress.oids)
            if altered := [t.binding.dataset.table for t in tables if t.binding.dataset.table in session.misfits]:
                raise Interrupted(f"altered before it was read: {', '.join(altered)}")
            snapshot = session.wal.export_snapshot(f"{session.slot}_snapshot")
            reader.execute(f"SET lock_timeout = {LOCK_MS}")  # it may queue behind an ALTER that waits for the lock above
            reader.execute("SET statement_timeout = 0")
            reader.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            reader.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot.name))
            reader.execute(lock)
        row = reader.execute("SELECT (extract(epoch FROM now()) * 1000)::bigint AS ms").fetchone()
        yield reader, snapshot, int(row.ms) if row else 0
        reader.execute("COMMIT")


def _read_table(session: Session, reader: source.Db, table: Table, snapshot: Snapshot) -> Iterator[int]:
    """Publishes the rest of one table; gives the rows of each batch after its commit."""
    name = table.binding.dataset.table
    target = session.targets[name]
    convert = compiled.from_line(table.binding)
    counted = telemetry.counter("bus_snapshot_rows_total").labels(dataset=target.name)
    events, limit = session.events, session.settings.capture.batch_events
    query = _query(table, session.progress.last_key(name))
    rows, line = 0, b""
    for line in _lines(session, reader, query):
        try:
            row, pin, key = convert(line)
        except ValueError:
            events.dead(target, DeadCode.UNCONVERTIBLE, line)
        else:
            events.row(target, READ, row, pin, key)
        rows += 1
        if rows >= limit or events.bytes >= BATCH_BYTES:
            session.commit(session.progress.read(name, compiled.key_values(table.binding, line), snapshot.lsn, rows))
            failpoint.hit(Point.SNAPSHOT_BATCH)
            counted.inc(rows)
            yield rows
            rows = 0
            session.check_stop()
    failpoint.hit(Point.SNAPSHOT_TABLE)
    session.commit(session.progress.read(name, None, snapshot.lsn, rows))
    counted.inc(rows)
    yield rows


def _query(table: Table, after: tuple[str, ...] | None) -> bytes:
    """COPY of the fields in key order, behind `after`."""
    binding = table.binding
    fields = sql.SQL(", ").join(sql.Identifier(f.name) for f in binding.fields)
    order = sql.SQL(", ").join(_ordering(table, place) for place in binding.key)
    where: sql.Composable = sql.SQL("")
    if after is not None:
        where = sql.SQL("WHERE ({}) > ({})").format(order, sql.SQL(", ").join(sql.Literal(value) for value in after))
    name = sql.Identifier(SCHEMA, binding.dataset.table)
    query = sql.SQL("COPY (SELECT {} FROM ONLY {} {} ORDER BY {}) TO STDOUT").format(fields, name, where, order)
    return query.as_bytes(None)


def _ordering(table: Table, place: int) -> sql.Composable:
    """A key column as an expression whose order segments.KeyOrder can repeat: numbers as such, the rest by its bytes."""
    field = table.binding.fields[place]
    name = sql.Identifier(field.name)
    if table.binding.kinds[place] == "integer" or field.avro != "string":
        return name
    column = table.columns[field.name]
    return name + _C if blank_padded(column.type_oid) else name + sql.SQL("::text") + _C


def _lines(session: Session, reader: source.Db, query: bytes) -> Iterator[bytes]:
    """The lines of a COPY TO STDOUT. A stop is noticed while waiting for them."""
    raw = reader.pgconn
    result = raw.exec_(query)
    if result.status != pq.ExecStatus.COPY_OUT:
        raise _copy_failure(result)
    get = raw.get_copy_data
    try:
        while True:
            size, data = get(1)
            if size > 0:
                yield bytes(data)
            elif size == 0:
                session.check_stop()
                select.select([raw.socket], [], [], 0.5)
                raw.consume_input()
            else:
                break
    except psycopg.OperationalError as error:
        raise Interrupted(str(error).strip()) from error
    while (end := raw.get_result()) is not None:
        if end.status != pq.ExecStatus.COMMAND_OK:
            raise _copy_failure(end)


def _copy_failure(result: pq.abc.PGresult) -> Exception:
    """By its code only: the text could quote a value."""
    code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    if code == "42501":
        return Refusal("a table may not be read, or row-level security hides rows: check the rights of capture's role")
    if code.startswith(("08", "57")) or not code:
        return Interrupted(f"the database ended the snapshot (SQLSTATE {code or 'none'})")
    return ProtocolError(f"a table could not be read (SQLSTATE {code})")
