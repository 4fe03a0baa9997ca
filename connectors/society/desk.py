"""A clerk's desk: one agency's database connection, with the statements of one transaction at a time.

A desk counts row changes by dataset, lets slips happen, and keeps the ground truth of them in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from random import Random
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from bus.avro.dataset import Dataset, Role
from connectors.society import slips
from connectors.society.people import Person
from connectors.society.slips import Row, Slip
from connectors.society.truth import Truth

_POOL = 300
_NUMBERS = 200
_TRIES = 4


def roles_present(dataset: Dataset, row: Row) -> list[Role]:
    return [r for r in dataset.people if row[r.pin] is not None]


def maybe_slip(dataset: Dataset, row: Row, known: Mapping[str, Person], nearby: Sequence[Person], rng: Random) -> Slip | None:
    """With the society's rate, one slip in one role of a correct row, the subject's likelier than another's."""
    if dataset.register or rng.random() >= slips.RATE:
        return None
    roles = [r for r in roles_present(dataset, row) if row[r.pin] in known]
    if not roles:
        return None
    role = roles[0] if rng.random() < 0.7 else rng.choice(roles)
    person = known[row[role.pin]]
    for _ in range(_TRIES):
        if made := slips.slip(row, role, person, nearby, rng):
            return made
    return None


def row_key(dataset: Dataset, row: Row) -> str:
    """The primary key as text, columns joined by '/'."""
    return "/".join(str(row[c]) for c in dataset.primary_key)


class Desk:
    """One agency's desk. Statements between `begin` and `commit` or `rollback` are one transaction; others stand alone."""

    def __init__(self, domain: str, dsn: str, datasets: Mapping[str, Dataset]) -> None:
        self.domain = domain
        self.datasets = datasets
        self.rng = Random()
        self.now = datetime.now(UTC)
        self._dsn = dsn
        self._pending: Counter[str] = Counter()
        self._numbers: list[int] = []
        self._pools: dict[str, list[Row]] = {}
        self.connect()

    def connect(self) -> None:
        """Open the connection, again if need be; what was under way on the old one is gone. Raises psycopg.OperationalError."""
        self._pending.clear()
        self.connection = psycopg.connect(
            self._dsn, autocommit=True, row_factory=dict_row, connect_timeout=5, application_name=f"agency {self.domain}"
        )
        self.truth = Truth(self.connection)

    @property
    def today(self) -> date:
        return self.now.date()

    def begin(self, now: datetime) -> None:
        """Begin a transaction at that wall-clock time."""
        self.now = now
        self.connection.execute("BEGIN")

    def commit(self) -> Counter[str]:
        """Commit; row changes by dataset name."""
        self.connection.execute("COMMIT")
        done, self._pending = self._pending, Counter()
        return done

    def rollback(self) -> None:
        self.connection.execute("ROLLBACK")
        self._pending.clear()

    def close(self) -> None:
        self.connection.close()

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        return self.connection.execute(statement, values).fetchall()

    def bearing(self, table: str, column: str, pin: str) -> list[Row]:
        """The rows whose `column` is this PIN."""
        statement = sql.SQL("SELECT * FROM {} WHERE {} = %s").format(sql.Identifier(table), sql.Identifier(column))
        return self.connection.execute(statement, (pin,)).fetchall()

    def number(self) -> int:
        """A number that this agency has given to nothing else; not returned by a rollback."""
        if not self._numbers:
            block = self.query("SELECT nextval('truth.number') AS n FROM generate_series(1, %s)", (_NUMBERS,))
            self._numbers = [r["n"] for r in reversed(block)]
        return self._numbers.pop()

    def insert(self, table: str, row: Row, *people: Person | None) -> Row:
        """Insert a row that describes `people` correctly, perhaps with a slip; returns it as stored."""
        dataset = self.datasets[table]
        known = {p.pin: p for p in people if p}
        slip = maybe_slip(dataset, row, known, list(known.values()), self.rng)
        columns = list(row)
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
            sql.Identifier(table), _names(columns), sql.SQL(", ").join(sql.Placeholder() * len(columns))
        )
        stored = self.connection.execute(statement, list(row.values())).fetchone()
        assert stored is not None
        self._pending[dataset.name] += 1
        if slip:
            self.record(table, stored, slip)
        return stored

    def update(self, table: str, row: Row, **changes: Any) -> bool:
        """Change columns of a stored row, found by its key; whether it still was there."""
        dataset = self.datasets[table]
        changes = {"updated_at": self.now} | changes
        sets = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(c)) for c in changes)
        statement = sql.SQL("UPDATE {} SET {} WHERE {}").format(sql.Identifier(table), sets, _where(dataset.primary_key))
        done = self.connection.execute(statement, [*changes.values(), *_key(dataset, row)]).rowcount
        self._pending[dataset.name] += done
        return bool(done)

    def reassign(self, table: str, row: Row, role: str, person: Person, **changes: Any) -> None:
        """Put another person into a role: what was wrong about the old one is gone, and a new slip may happen."""
        dataset = self.datasets[table]
        fresh = row | changes
        slip = slips.slip(fresh, self.role(table, role), person, (), self.rng) if self.rng.random() < slips.RATE else None
        touched = {*changes, slip.field} if slip else set(changes)
        if self.update(table, row, **{c: fresh[c] for c in touched}):
            self.truth.settle_row(table, row_key(dataset, row), self.now, role)
            if slip:
                self.record(table, row, slip)

    def delete(self, table: str, row: Row) -> bool:
        dataset = self.datasets[table]
        statement = sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), _where(dataset.primary_key))
        done = self.connection.execute(statement, _key(dataset, row)).rowcount
        self._pending[dataset.name] += done
        if done:
            self.truth.settle_row(table, row_key(dataset, row), self.now)
        return bool(done)

    def some(self, table: str) -> Row | None:
        """A row of the table as it is now, drawn from a pool that is refilled at random; None in an empty table."""
        for _ in range(_TRIES):
            if not (pool := self._pools.get(table)):
                pool = self._pools[table] = self._draw(table)
            if not pool:
                return None
            if found := self.again(table, pool.pop()):
                return found
        return None

    def again(self, table: str, row: Row) -> Row | None:
        """The row with the same key, as it is now."""
        dataset = self.datasets[table]
        statement = sql.SQL("SELECT * FROM {} WHERE {}").format(sql.Identifier(table), _where(dataset.primary_key))
        return self.connection.execute(statement, _key(dataset, row)).fetchone()

    def by_row_key(self, table: str, key: str) -> Row | None:
        return self.again(table, dict(zip(self.datasets[table].primary_key, key.split("/"), strict=True)))

    def record(self, table: str, row: Row, slip: Slip) -> None:
        """Write down that this slip happened in a stored row."""
        self.truth.record(table, row_key(self.datasets[table], row), slip)

    def open_errors(self, table: str, row: Row, role: str) -> list[Row]:
        return self.truth.open(table, row_key(self.datasets[table], row), role)

    def copy_errors(self, source: tuple[str, Row, str], target: tuple[str, Row, str]) -> None:
        """What is wrong with the role of one record (table, row, role name) was copied into another's."""
        fields, there = self._fields(source[0], source[2]), self._fields(target[0], target[2])
        for error in self.open_errors(*source):
            column = there.get(next(f for f, c in fields.items() if c == error["field"]))
            if column:
                slip = Slip(target[2], error["kind"], column, error["expected"], error["right_value"])
                self.record(target[0], target[1], slip)

    def _fields(self, table: str, role: str) -> dict[str, str]:
        """Register field -> column, 'pin' included."""
        found = self.role(table, role)
        return {"pin": found.pin, **found.match}

    def role(self, table: str, name: str) -> Role:
        return next(r for r in self.datasets[table].people if r.name == name)

    def _draw(self, table: str) -> list[Row]:
        """Up to _POOL keys from pages drawn at random; small tables are read whole."""
        pages = self.query("SELECT greatest(relpages, 1) AS n FROM pg_class WHERE oid = %s::regclass", (table,))[0]["n"]
        share, seed = min(100.0, 100 * _POOL / 10 / pages), self.rng.randrange(2**31)
        keys = _names(self.datasets[table].primary_key)
        statement = sql.SQL("SELECT {} FROM {} TABLESAMPLE SYSTEM ({}) REPEATABLE ({})").format(
            keys, sql.Identifier(table), sql.Literal(share), sql.Literal(seed)
        )
        found = self.connection.execute(statement).fetchmany(_POOL * 10)
        self.rng.shuffle(found)
        return found[:_POOL]


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _where(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(c)) for c in columns)


def _key(dataset: Dataset, row: Row) -> list[Any]:
    return [row[c] for c in dataset.primary_key]
