"""A replication connection to one database: PostgreSQL's streaming replication protocol over libpq.

psycopg's libpq binding is used directly. psycopg2's replication cursor moves the position it confirms forward by itself
on keepalives, judging by the last message's LSN; with interleaved transactions that can confirm a transaction that Kafka
does not have yet. Here the slot moves only when `confirm` says so.
"""

from __future__ import annotations

import select
import struct
import time
from typing import Final, NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bus.core.position import parse_lsn
from connectors.capture import pgoutput
from connectors.capture.errors import Interrupted

SESSION: Final = (
    "-c datestyle=ISO -c timezone=UTC -c bytea_output=hex -c extra_float_digits=1 -c row_security=off -c search_path=pg_catalog"
)
"""How values are printed (encode.py counts on it), and that row-level security raises instead of leaving rows out."""
CONNECT_SECONDS: Final = 5
COMMAND_SECONDS: Final = 60.0
"""Longest wait for a slot: PostgreSQL makes one when every transaction that was running has ended."""
_STATUS = struct.Struct(">cQQQqB").pack
_TCP = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}


class Identity(NamedTuple):
    system_id: int
    timeline: int


class Snapshot(NamedTuple):
    name: str
    lsn: int
    """The consistent point: the snapshot shows exactly what committed before it."""


def conninfo(dsn: str, **more: str) -> str:
    """The DSN with the session settings that every connection of capture has."""
    given = conninfo_to_dict(dsn).get("options") or ""
    settings = {
        "options": f"{given} {SESSION}",
        "client_encoding": "UTF8",
        "connect_timeout": str(CONNECT_SECONDS),
        **_TCP,
        **more,
    }
    return make_conninfo(dsn, **settings)


class WalSender:
    """One replication connection. Not thread-safe. Every method raises Interrupted when the connection is lost."""

    def __init__(self, dsn: str, application: str) -> None:
        text = conninfo(dsn, replication="database", application_name=application)
        self._pg = pq.PGconn.connect(text.encode())
        if self._pg.status != pq.ConnStatus.OK:
            reason = _last_line(self._pg)
            self._pg.finish()
            raise Interrupted(reason)
        self._confirmed = 0
        self.received = 0
        """The highest WAL end the server has told."""
        self.heard_at = time.monotonic()

    def close(self) -> None:
        self._pg.finish()

    def identify(self) -> Identity:
        row = self._row("IDENTIFY_SYSTEM")
        return Identity(int(row[0]), int(row[1]))

    def create_slot(self, slot: str) -> int:
        """Creates a permanent slot and gives its consistent point. Waits for running transactions to end."""
        return parse_lsn(self._row(f"CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput (SNAPSHOT 'nothing')")[1])

    def export_snapshot(self, slot: str) -> Snapshot:
        """A snapshot at an exact point of the log, by way of a slot that goes when this connection closes.

        It can be taken over (SET TRANSACTION SNAPSHOT) until the next command on this connection.
        """
        row = self._row(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')")
        return Snapshot(row[2], parse_lsn(row[1]))

    def start(self, slot: str, publication: str, confirmed: int) -> None:
        """Starts the stream where the slot stands; the caller passes over what it has already."""
        self._confirmed = confirmed
        options = f"proto_version '1', publication_names '{publication}', messages 'true'"
        self._run(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})", pq.ExecStatus.COPY_BOTH)

    def read(self) -> bytes | None:
        """The next message with its header, see pgoutput.py; None when there is none yet. Answers keepalives."""
        while True:
            size, data = self._get()
            if size == 0:
                return None
            b = bytes(data)
            if b[0] == pgoutput.XLOG_DATA:
                return b
            if b[0] == pgoutput.KEEPALIVE:
                end, reply = pgoutput.keepalive(b)
                self.received = max(self.received, end)
                if reply:
                    self.confirm(self._confirmed)

    def _get(self) -> tuple[int, memoryview]:
        try:
            size, data = self._pg.get_copy_data(1)
            if size == 0:
                self._pg.consume_input()
                size, data = self._pg.get_copy_data(1)
        except psycopg.OperationalError as error:
            raise Interrupted(f"the connection to the database was lost ({type(error).__name__})") from error
        if size < 0:
            result = self._pg.get_result()
            code = result.error_field(pq.DiagnosticField.SQLSTATE) if result else None  # its text may quote a value
            raise Interrupted(f"the database ended the replication stream (SQLSTATE {code.decode() if code else 'unknown'})")
        if size:
            self.heard_at = time.monotonic()
        return size, data

    def wait(self, seconds: float) -> None:
        """Until something arrives, at most `seconds`."""
        select.select([self._pg.socket], [], [], max(0.0, seconds))

    def confirm(self, lsn: int) -> None:
        """Tells the server that everything that committed before `lsn` is safe: the slot may let go of it."""
        self._confirmed = max(self._confirmed, lsn)
        now = int(time.time() * 1e6) - pgoutput.EPOCH_MS * 1000
        written = max(self.received, self._confirmed)
        try:
            self._pg.put_copy_data(_STATUS(b"r", written, self._confirmed, self._confirmed, now, 0))
            self._pg.flush()
        except psycopg.OperationalError as error:
            raise Interrupted(str(error).strip()) from error

    def _row(self, command: str) -> list[str]:
        result = self._run(command, pq.ExecStatus.TUPLES_OK)
        return [(result.get_value(0, i) or b"").decode() for i in range(result.nfields)]

    def _run(self, command: str, expected: pq.ExecStatus) -> pq.abc.PGresult:
        self._pg.send_query(command.encode())
        deadline = time.monotonic() + COMMAND_SECONDS
        while self._pg.is_busy():
            if time.monotonic() > deadline:
                self._pg.get_cancel().cancel()
                raise Interrupted("a long-running transaction holds up the replication slot: it has to end first")
            self.wait(0.5)
            self._pg.consume_input()
        result = self._pg.get_result()
        if result is None or result.status != expected:
            raise Interrupted(_last_line(self._pg))
        if expected == pq.ExecStatus.TUPLES_OK:
            while self._pg.get_result() is not None:
                pass
        return result


def _last_line(connection: pq.abc.PGconn) -> str:
    told = connection.error_message.decode(errors="replace").strip().splitlines()
    return told[-1] if told else "no connection to the database"
