"""The embedded agencies' databases: one for each domain, with its owner, the capture role, and the agency's own tables.

The owner (agency_<domain>) is the agency; the capture role (bus_<domain>) may replicate, connect to this one database and
read the tables of schema public. PostgreSQL lets a replication role read every change of its database: that is why each
domain has its own, and why pg_hba.conf lets a role into no other.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from bus.config import ConfigError, Settings
from bus.platform import database, secrets, sources


def create(settings: Settings) -> list[str]:
    """Databases, roles, tables and rights of every embedded domain; doing it again changes nothing. The domains' names."""
    found = sources.domains(settings)
    with database.connect(settings) as connection:
        there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name in ("postgres", "template1"):
            connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        for domain in found:
            _role(connection, settings, f"agency_{domain}", replication=False)
            _role(connection, settings, f"bus_{domain}", replication=True)
            if domain not in there:
                connection.execute(
                    sql.SQL("CREATE DATABASE {0} OWNER {1}").format(sql.Identifier(domain), sql.Identifier(f"agency_{domain}"))
                )
    for domain in found:
        _fill(settings, domain)
    return found


def _role(connection: psycopg.Connection, settings: Settings, name: str, *, replication: bool) -> None:
    """The password goes over as a SCRAM verifier, so that no log or statistic of the server can hold it."""
    verifier = connection.pgconn.encrypt_password(
        secrets.password(settings, f"postgres-{name}").encode(), name.encode(), b"scram-sha-256"
    ).decode()
    there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    statement = sql.SQL("{verb} ROLE {name} WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE {replication} PASSWORD {verifier}")
    connection.execute(
        statement.format(
            verb=sql.SQL("ALTER" if there else "CREATE"),
            name=sql.Identifier(name),
            replication=sql.SQL("REPLICATION" if replication else "NOREPLICATION"),
            verifier=sql.Literal(verifier),
        )
    )


def _fill(settings: Settings, domain: str) -> None:
    """Tables as the owner, in one transaction: all of them or none."""
    owner, reader = sql.Identifier(f"agency_{domain}"), sql.Identifier(f"bus_{domain}")
    path = sources.tables(domain)
    with database.connect(settings, domain) as connection, connection.transaction():
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(owner))
        connection.execute("SET LOCAL client_min_messages = warning")
        _run(connection, path)
        connection.execute("RESET ROLE")
        for statement in (
            sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {domain} FROM PUBLIC"),
            sql.SQL("GRANT CONNECT ON DATABASE {domain} TO {reader}"),
            sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
            sql.SQL("GRANT CREATE, USAGE ON SCHEMA public TO {owner}"),
            sql.SQL("GRANT USAGE ON SCHEMA public TO {reader}"),
            sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}"),
            sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT SELECT ON TABLES TO {reader}"),
        ):
            connection.execute(statement.format(domain=sql.Identifier(domain), owner=owner, reader=reader))


def _run(connection: psycopg.Connection, path: Path) -> None:
    try:
        connection.execute(path.read_bytes())
    except psycopg.Error as error:
        place = f" (at character {error.diag.statement_position})" if error.diag.statement_position else ""
        raise ConfigError(f"{path} does not run{place}: {error.diag.message_primary}") from None
