"""The ground truth of one agency (schema `truth`): which records are wrong, kept in the transaction that makes them so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import Any

import psycopg
from psycopg import sql

from connectors.society.slips import Row, Slip


class Truth:
    """Statements on truth.error, in whatever transaction the connection is in."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def record(self, table: str, key: str, slip: Slip) -> None:
        self._connection.execute(
            "INSERT INTO truth.error (table_name, row_key, role, kind, field, expected, right_value, note)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 'life')",
            (table, key, slip.role, slip.kind, slip.field, slip.expected, slip.right),
        )

    def open(self, table: str, key: str, role: str) -> list[Row]:
        """What is wrong now with one role of a record."""
        return self._connection.execute(
            "SELECT * FROM truth.error WHERE table_name = %s AND row_key = %s AND corrected_at IS NULL AND role = %s",
            (table, key, role),
        ).fetchall()

    def draw(self, rng: Random) -> Row | None:
        """An error that verification should see, drawn at random."""
        last = self._connection.execute("SELECT coalesce(max(error_id), 0) AS id FROM truth.error").fetchone()
        assert last is not None
        return self._connection.execute(
            "SELECT * FROM truth.error WHERE error_id >= %s AND corrected_at IS NULL AND expected <> 'MATCH'"
            " ORDER BY error_id LIMIT 1",
            (rng.randint(0, last["id"]),),
        ).fetchone()

    def settle(self, errors: Sequence[Row], at: datetime) -> None:
        """These are mended."""
        self._set("corrected_at", at, errors)

    def settle_row(self, table: str, key: str, at: datetime, role: str | None = None) -> None:
        """Nothing is wrong any more with the record, or with that role of it."""
        self._connection.execute(
            "UPDATE truth.error SET corrected_at = %s WHERE table_name = %s AND row_key = %s AND corrected_at IS NULL"
            " AND (%s::text IS NULL OR role = %s)",
            (at, table, key, role, role),
        )

    def expect(self, errors: Sequence[Row], verdict: str) -> None:
        self._set("expected", verdict, errors)

    def retarget(self, errors: Sequence[Row], right_value: str) -> None:
        """The same things are wrong, but another value would be right now."""
        self._set("right_value", right_value, errors)

    def retarget_all(self, old: str, new: str) -> None:
        """Wherever `old` would have been right, `new` is now."""
        statement = "UPDATE truth.error SET right_value = %s WHERE right_value = %s AND corrected_at IS NULL"
        self._connection.execute(statement, (new, old))

    def _set(self, column: str, value: Any, errors: Sequence[Row]) -> None:
        for error in errors:
            statement = sql.SQL("UPDATE truth.error SET {} = %s WHERE error_id = %s").format(sql.Identifier(column))
            self._connection.execute(statement, (value, error["error_id"]))
