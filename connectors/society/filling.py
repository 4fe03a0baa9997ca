"""The seeded society, written into empty agency databases by COPY: all of it or nothing, in one transaction a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from random import Random
from typing import Any

import psycopg
from psycopg import sql

from bus.avro.dataset import Dataset
from connectors.society import people as society
from connectors.society.agency import Agency, SocietyError, agency, domains, schemas, tables_sql, truth_sql
from connectors.society.desk import maybe_slip, row_key
from connectors.society.people import Neighbourhood

_AT_ONCE = 8
"""Neighbourhoods in memory, and in one COPY of each table."""
_ERROR_COLUMNS = ("table_name", "row_key", "role", "kind", "field", "expected", "right_value", "note")
Progress = Callable[[str, int, int], None]
Lines = list[tuple[Any, ...]]


def fill(dsns: Mapping[str, str], people: int, seed: int, progress: Progress) -> dict[str, int]:
    """Fill the databases (owner DSN by domain) with a society of `people`; rows by dataset name.

    `progress(domain, people written, people in all)` after each batch. Run it before capture starts: the rows come into
    the bus by the initial snapshot, and the journal of changes begins after them. Memory does not grow with `people`.
    Raises SocietyError when a database already holds data, or for more people than there are PINs for.
    """
    if not 1 <= people <= society.MOST_PEOPLE:
        raise SocietyError(f"a society has 1 to {society.MOST_PEOPLE:,} people, not {people:,}")
    wanted = [d for d in domains() if d in dsns]
    with ExitStack() as stack:
        fillers = [_Filler(d, stack.enter_context(psycopg.connect(dsns[d], application_name=f"fill {d}")), seed) for d in wanted]
        for filler in fillers:
            filler.prepare()
        pool = stack.enter_context(ThreadPoolExecutor(len(fillers)))
        done = 0
        for batch in _batches(society.neighbourhoods(people, seed)):
            done += sum(len(h.members()) for n in batch for h in n.households)
            for filler in pool.map(lambda f, now=batch: f.write(now), fillers):
                progress(filler.domain, done, people)
        for filler in fillers:
            filler.finish(people)
        return {name: count for filler in fillers for name, count in filler.rows.items()}


def is_empty(dsns: Mapping[str, str]) -> bool:
    """Whether nobody lives in the databases yet. Raises SocietyError when agencies hold rows about people the register lacks."""
    inhabited = []
    for domain in (d for d in domains() if d in dsns):
        with psycopg.connect(dsns[domain], application_name=f"look {domain}") as connection:
            if any(_has_rows(connection, table) for table in agency(domain).tables):
                inhabited.append(domain)
    register = domains()[0]
    if inhabited and register not in inhabited:
        others = ", ".join(inhabited)
        raise SocietyError(f"no people in database {register!r}, but rows in {others}: empty these, then fill all of them")
    return not inhabited


def _has_rows(connection: psycopg.Connection[Any], table: str) -> bool:
    if connection.execute("SELECT to_regclass(%s)", (f"public.{table}",)).fetchone() == (None,):
        return False
    return connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))).fetchone() is not None


def install(connection: psycopg.Connection[Any], domain: str) -> None:
    """Tables, publication and ground truth of a domain, as far as they are not there yet."""
    connection.execute(tables_sql(domain))
    connection.execute(truth_sql())


def _batches(source: Iterator[Neighbourhood]) -> Iterator[list[Neighbourhood]]:
    while batch := list(islice(source, _AT_ONCE)):
        yield batch


class _Filler:
    """Writes one domain. Its transaction ends in `finish`, so that a failure anywhere leaves every database empty."""

    def __init__(self, domain: str, connection: psycopg.Connection[Any], seed: int) -> None:
        self.domain = domain
        self.connection = connection
        self.seed = seed
        self.agency: Agency = agency(domain)
        self.datasets: dict[str, Dataset] = schemas()[domain]
        self.columns = {t: tuple(d.fields) for t, d in self.datasets.items()}
        self.rows: Counter[str] = Counter({d.name: 0 for d in self.datasets.values()})

    def prepare(self) -> None:
        install(self.connection, self.domain)
        for table in self.agency.tables:
            if _has_rows(self.connection, table):
                raise SocietyError(
                    f"database {self.domain!r} already holds data (table {table}): only empty databases are filled. "
                    "Use what is there, choose another home, or empty the databases first."
                )
        self._triggers("DISABLE")

    def write(self, batch: list[Neighbourhood]) -> _Filler:
        """COPY everything this agency holds about these neighbourhoods."""
        lines: dict[str, Lines] = {t: [] for t in self.agency.tables}
        errors: Lines = []
        for one in batch:
            self._settle(one, lines, errors)
        for table in self.agency.tables:
            self._copy(sql.Identifier(table), self.columns[table], lines[table])
            self.rows[self.datasets[table].name] += len(lines[table])
        self._copy(sql.Identifier("truth", "error"), _ERROR_COLUMNS, errors)
        return self

    def finish(self, people: int) -> None:
        """Let sequences go on after the rows, switch the journal on, commit."""
        self.connection.execute("SELECT setval('truth.number', %s)", (people,))
        for table in self.agency.tables:
            for column in self.datasets[table].primary_key:
                self._continue_sequence(table, column)
            self.connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))
        self._triggers("ENABLE")
        self.connection.commit()

    def _settle(self, one: Neighbourhood, lines: dict[str, Lines], errors: Lines) -> None:
        rng = Random(f"{self.seed}/{self.domain}/{one.index}")
        everyone = one.people()
        known = {p.pin: p for p in everyone}
        for table, row in self.agency.settle(one, rng):
            dataset = self.datasets[table]
            if slip := maybe_slip(dataset, row, known, everyone, rng):
                errors.append((table, row_key(dataset, row), slip.role, slip.kind, slip.field, slip.expected, slip.right, "fill"))
            lines[table].append(tuple(row[c] for c in self.columns[table]))

    def _copy(self, table: sql.Identifier, columns: tuple[str, ...], lines: Lines) -> None:
        if not lines:
            return
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        with self.connection.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, names)) as copy:
            for line in lines:
                copy.write_row(line)

    def _triggers(self, action: str) -> None:
        for table in self.agency.tables:
            self.connection.execute(sql.SQL("ALTER TABLE {} {} TRIGGER journal").format(sql.Identifier(table), sql.SQL(action)))

    def _continue_sequence(self, table: str, column: str) -> None:
        found = self.connection.execute("SELECT pg_get_serial_sequence(%s, %s)", (table, column)).fetchone()
        if found and found[0]:
            highest = sql.SQL("SELECT setval({}, max({})) FROM {} HAVING max({}) IS NOT NULL")
            name = sql.Identifier(column)
            self.connection.execute(highest.format(sql.Literal(found[0]), name, sql.Identifier(table), name))
