"""A PostgreSQL with the agencies' databases, emptied for each test that asks for a town."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bus import access, config, platform
from bus.platform import agencies, database
from connectors import society
from connectors.society.agency import schemas
from tests.connectors.town import Town


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[config.Settings]:
    """Settings of a private home with PostgreSQL up. Autovacuum is off: samples follow the seed as long as pages stay put."""
    settings = config.load(Path(tmp_path_factory.mktemp("hộ tịch")) / ".bus", env={})
    try:
        platform.start_postgres(settings)
        with database.connect(settings) as connection:
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("SELECT pg_reload_conf()")
        agencies.create(settings)
        yield settings
    finally:
        platform.stop(settings)


@pytest.fixture
def town(server: config.Settings) -> Town:
    """Databases with the agencies' tables and nothing in them."""
    return empty_town(server)


def empty_town(server: config.Settings) -> Town:
    """The one set of databases of this server, emptied: whoever kept a town from before finds it empty too."""
    town = Town(
        {d: access.owner_dsn(server, d) for d in society.domains()},
        {d: access.capture_dsn(server, d) for d in society.domains()},
    )
    for domain, dsn in town.owners.items():
        with psycopg.connect(dsn) as connection:
            for table in schemas()[domain]:
                connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(sql.Identifier(table)))
            connection.execute("DROP SCHEMA IF EXISTS truth CASCADE")
    return town
