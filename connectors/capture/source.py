"""What a database must be before anything is captured from it; every misfit is refused with its reason and remedy."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg.rows import namedtuple_row

from bus.avro.dataset import Dataset
from bus.core.position import format_lsn, parse_lsn
from connectors.capture import columns, walsender
from connectors.capture.columns import Binding, Column
from connectors.capture.errors import Interrupted, Misfit, Refusal
from connectors.capture.progress import Progress

PUBLICATION: Final = "bus"
SCHEMA: Final = "public"
LEAST_VERSION: Final = 150_000
"""Row filters and column lists of publications, which are checked here, are visible from PostgreSQL 15 on."""
STATEMENT_MS: Final = 10_000
_ANEW: Final = "forget this database's position (python -m connectors.capture.forget), and capture reads everything anew"

Db = psycopg.Connection[Any]

_COLUMNS = """
WITH RECURSIVE found AS (
    SELECT a.attnum, a.attname, a.attnotnull AS not_null, a.attgenerated <> '' AS generated, t.oid, t.typtype,
           a.atttypmod AS typmod, format_type(a.atttypid, a.atttypmod) AS type_name
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
    SELECT f.attnum, f.attname, f.not_null OR d.typnotnull, f.generated, b.oid, b.typtype, d.typtypmod, f.type_name
    FROM found f JOIN pg_type d ON d.oid = f.oid JOIN pg_type b ON b.oid = d.typbasetype WHERE f.typtype = 'd'
)
SELECT attname, CASE typtype WHEN 'e' THEN -1 ELSE oid::bigint END AS type_oid, typmod, type_name,
       NOT not_null AS nullable, generated
FROM found WHERE typtype <> 'd' ORDER BY attnum"""
_BASE_TYPE = """
WITH RECURSIVE found AS (
    SELECT oid, typtype, typbasetype, typtypmod, %s::int AS typmod FROM pg_type WHERE oid = %s
  UNION ALL
    SELECT b.oid, b.typtype, b.typbasetype, b.typtypmod, f.typtypmod FROM found f JOIN pg_type b ON b.oid = f.typbasetype
    WHERE f.typtype = 'd'
)
SELECT CASE typtype WHEN 'e' THEN -1 ELSE oid::bigint END AS type_oid, typmod FROM found WHERE typtype <> 'd'"""
_TABLE = """
SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       CASE WHEN c.reltuples > 0 THEN c.reltuples ELSE pg_relation_size(c.oid) / 200 END::bigint AS rows,
       has_table_privilege(c.oid, 'SELECT') AS readable, c.relrowsecurity AND row_security_active(c.oid) AS filtered,
       (SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = c.oid AND i.indisprimary) AS primary_key
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s"""
_PUBLICATION = "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AS whole FROM pg_publication WHERE pubname = %s"
_PUBLISHED = """
SELECT tablename::text, attnames::text[], rowfilter IS NOT NULL AS filtered FROM pg_publication_tables
WHERE pubname = %s AND schemaname = %s"""
_SLOT = """
SELECT plugin::text, database::text, slot_type, restart_lsn::text, confirmed_flush_lsn::text, wal_status
FROM pg_replication_slots WHERE slot_name = %s"""


@dataclass(frozen=True, slots=True)
class Table:
    """A captured table as the database has it: `rows` is an estimate, `columns` are all of them."""

    oid: int
    binding: Binding
    rows: int
    columns: dict[str, Column]

    @property
    def extra(self) -> list[str]:
        """Columns that the schema does not name: they never flow."""
        return [name for name in self.columns if name not in self.binding.dataset.fields]


def connect(dsn: str, domain: str) -> Db:
    """An ordinary autocommit connection with the session settings of walsender.SESSION. Raises Interrupted or Refusal."""
    try:
        db = psycopg.connect(
            walsender.conninfo(dsn, application_name=f"capture-{domain}"), autocommit=True, row_factory=namedtuple_row
        )
        db.execute(f"SET statement_timeout = {STATEMENT_MS}")
    except psycopg.OperationalError as error:
        told = [line for line in str(error).strip().splitlines() if not line[:1].isspace()][-1]  # an indented one is a hint
        if "authentication failed" in told:
            raise Refusal(f"{told}: check the DSN of {domain} or the secret postgres-bus_{domain}") from None
        raise Interrupted(told) from None
    return db


def claim(db: Db, domain: str) -> None:
    """Takes the database for this process as long as `db` lives. Raises Interrupted while another one has it."""
    number = zlib.crc32(f"bus capture {domain}".encode())
    if not _one(db, "SELECT pg_try_advisory_lock(%s) AS mine", number).mine:
        raise Interrupted("another process captures this database: this one waits until it ends")


def check_server(db: Db) -> None:
    version = db.info.server_version
    if version < LEAST_VERSION:
        raise Refusal(f"PostgreSQL {version // 10000} is too old: capture needs {LEAST_VERSION // 10000} or later")
    if (level := _one(db, "SELECT current_setting('wal_level') AS found").found) != "logical":
        raise Refusal(f"wal_level is {level}: ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL")
    if (encoding := _one(db, "SELECT current_setting('server_encoding') AS found").found) != "UTF8":
        raise Refusal(f"the database is encoded in {encoding}: capture reads UTF8 databases only")
    role = _one(db, "SELECT rolname::text AS name, rolreplication OR rolsuper AS may FROM pg_roles WHERE rolname = current_user")
    if not role.may:
        raise Refusal(f"role {role.name} may not replicate: ALTER ROLE {role.name} REPLICATION")


def check_tables(
    db: Db, bindings: Iterable[Binding], oids: Mapping[str, int] = MappingProxyType({})
) -> tuple[dict[str, Table], dict[str, Misfit]]:
    """(the tables of the bindings, by name; for each that does not fit its schema why, instead). `oids`: of those that are
    captured already. Raises Refusal for the first that cannot be captured whatever its schema says."""
    tables, misfits = {}, {}
    for binding in bindings:
        try:
            tables[binding.dataset.table] = _check_table(db, binding, oids.get(binding.dataset.table))
        except Misfit as wrong:
            misfits[binding.dataset.table] = wrong
    return tables, misfits


def _check_table(db: Db, binding: Binding, oid: int | None) -> Table:
    dataset = binding.dataset
    at = f"{SCHEMA}.{dataset.table}"
    row = read_table(db, dataset.table)
    if row is None:
        reason = f"there is no table {at}, but there is a schema {dataset.name}"
        raise Misfit(f"{reason}: create the table, give it back its name, or remove the schema file", logged=True, gone=True)
    if oid not in (None, row.oid):
        raise Misfit(made_anew(dataset), logged=True, gone=True)
    if row.relkind != "r" or row.relpersistence != "p":
        raise Refusal(f"{at} is not an ordinary logged table: capture reads no views, partitioned, foreign or unlogged tables")
    if not row.readable:
        raise Refusal(f"capture's role may not read {at}: GRANT SELECT ON {at} TO it")
    if row.filtered:
        raise Refusal(f"row-level security hides rows of {at} from capture's role: ALTER ROLE it BYPASSRLS, or add a policy")
    if row.relreplident != "f":
        raise Misfit(f"{at} does not log whole rows: ALTER TABLE {at} REPLICA IDENTITY FULL", logged=True)
    if set(row.primary_key or ()) != set(dataset.primary_key):
        raise Misfit(
            f"the primary key of {at} is not ({', '.join(dataset.primary_key)}), as schema {dataset.name} says: change either"
        )
    found = read_columns(db, row.oid)
    wrong = {f.name: why for f in binding.fields if (why := columns.misfit(f, found.get(f.name)))}
    if wrong:
        logged = all(columns.shows(f, found.get(f.name)) for f in binding.fields if f.name in wrong)
        reason = f"{at} does not fit schema {dataset.name}: {'; '.join(wrong.values())}. Change the table or the schema file"
        raise Misfit(reason, logged=logged)
    return Table(row.oid, binding, row.rows, found)


def made_anew(dataset: Dataset) -> str:
    at = f"{SCHEMA}.{dataset.table}"
    return (
        f"{at} was dropped and made anew, so its rows are others than those that were captured: to read the new table from its "
        f"beginning, ALTER PUBLICATION {PUBLICATION} ADD TABLE {at} if it is not in there, `bus down`, "
        f"`python -m connectors.capture.forget {dataset.domain} {dataset.table}`, `bus up`"
    )


def read_table(db: Db, table: str) -> Any:
    """The table's row of _TABLE, or None."""
    return db.execute(_TABLE, (SCHEMA, table)).fetchone()


def read_columns(db: Db, oid: int) -> dict[str, Column]:
    """All columns of a table, by name."""
    return {c.attname: Column(c.attname, *c[1:]) for c in db.execute(_COLUMNS, (oid,)).fetchall()}


def check_publication(db: Db, bindings: Iterable[Binding], misfits: Mapping[str, Misfit] = MappingProxyType({})) -> None:
    """Raises Refusal where changes are left out. `misfits`: tables that are not as their schemas say anyway."""
    about = db.execute(_PUBLICATION, (PUBLICATION,)).fetchone()
    wanted = [b.dataset for b in bindings]
    names = ", ".join(f"{SCHEMA}.{d.table}" for d in wanted)
    if about is None:
        raise Refusal(f"there is no publication {PUBLICATION!r}: CREATE PUBLICATION {PUBLICATION} FOR TABLE {names}")
    if not about.whole:
        raise Refusal(
            f"publication {PUBLICATION!r} leaves out kinds of changes: ALTER PUBLICATION {PUBLICATION} SET "
            "(publish = 'insert, update, delete, truncate')"
        )
    published = {p.tablename: p for p in db.execute(_PUBLISHED, (PUBLICATION, SCHEMA)).fetchall()}
    for dataset in wanted:
        name = dataset.table
        if name in misfits and misfits[name].gone:
            continue
        if name not in published:
            raise Refusal(
                f"publication {PUBLICATION!r} lacks {SCHEMA}.{name}: ALTER PUBLICATION {PUBLICATION} ADD TABLE {SCHEMA}.{name}"
            )
        missing = name not in misfits and set(dataset.fields) - set(published[name].attnames)
        if published[name].filtered or missing:
            raise Refusal(f"publication {PUBLICATION!r} filters rows or columns of {SCHEMA}.{name}: publish the table whole")


def has_slot(db: Db, slot: str) -> bool:
    return db.execute(_SLOT, (slot,)).fetchone() is not None


def slot_position(db: Db, slot: str, progress: Progress | None) -> int | None:
    """Where the slot stands; None: it has to be made. Raises Refusal where changes may be lost or it is not ours."""
    row = db.execute(_SLOT, (slot,)).fetchone()
    begun = progress is not None and bool(progress.tables)
    drop = f"SELECT pg_drop_replication_slot('{slot}')"
    if row is None:
        if begun:
            raise Refusal(f"replication slot {slot} is gone, and with it the changes since: {_ANEW}")
        return None
    if (row.plugin, row.slot_type, row.database) != ("pgoutput", "logical", db.info.dbname):
        raise Refusal(f"replication slot {slot} is not ours (plugin {row.plugin}, database {row.database}): drop or rename it")
    if row.wal_status == "lost" or row.restart_lsn is None:
        raise Refusal(
            f"replication slot {slot} is lost: PostgreSQL removed log it needed (max_slot_wal_keep_size). {drop}, then {_ANEW}"
        )
    if progress is None:
        raise Refusal(
            f"replication slot {slot} exists, but bus.positions knows nothing of it: it serves another bus, "
            f"or Kafka was emptied. If nothing uses it: {drop}"
        )
    stands_at = parse_lsn(row.confirmed_flush_lsn)
    if progress.confirmed is not None and stands_at > progress.confirmed:
        raise Refusal(
            f"replication slot {slot} stands at {row.confirmed_flush_lsn}, beyond what was published "
            f"({format_lsn(progress.confirmed)}): somebody else moved or re-created it. {drop}, then {_ANEW}"
        )
    return stands_at


def check_identity(found: walsender.Identity, progress: Progress | None, domain: str) -> None:
    if progress is None or (found.system_id, found.timeline) == (progress.system_id, progress.timeline):
        return
    if found.system_id != progress.system_id:
        raise Refusal(
            f"this is another database cluster than the one captured as {domain} so far (system identifier "
            f"{found.system_id}, was {progress.system_id}): correct the DSN, or {_ANEW}"
        )
    raise Refusal(
        f"the database was restored or promoted (timeline {found.timeline}, was {progress.timeline}): "
        f"changes may have been published that it no longer has. To go on, {_ANEW}"
    )


def base_type(db: Db, type_oid: int, typmod: int) -> tuple[int, int] | None:
    """(base type oid or ENUM, its typmod) behind domains; None for a type that no longer exists."""
    row = db.execute(_BASE_TYPE, (typmod, type_oid)).fetchone()
    return (row.type_oid, row.typmod) if row else None


def retained_bytes(db: Db, slot: str) -> int:
    """WAL that the slot keeps."""
    row = _one(
        db,
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS kept FROM pg_replication_slots "
        "WHERE slot_name = %s",
        slot,
    )
    return max(0, int(row.kept))


def beat(db: Db, prefix: str) -> None:
    """Writes a message to the log that comes back through the slot, so that a quiet database does not hold WAL."""
    db.execute("SELECT pg_logical_emit_message(false, %s, '')", (prefix,))


def _one(db: Db, query: str, *arguments: Any) -> Any:
    row = db.execute(query, arguments).fetchone()
    if row is None:
        raise Interrupted("the database lacks an answer that it gave before")
    return row
