"""The embedded Kafka and PostgreSQL, and every cluster brought to its declared state.

    start_kafka(settings)     the embedded broker, answering; the one that runs already, if so
    start_postgres(settings)  the embedded PostgreSQL, likewise
    declare(settings)         secrets, topics, users, rights, schemas, databases and roles as the checkout declares them
    stop(settings)            workers, then Kafka and PostgreSQL; only processes that this home recorded as its own

All are idempotent, block until done, take bounded time, and raise ConfigError with cause and remedy. After `declare`,
`bus.access` has the addresses and passwords for everybody. `start_kafka` needs no PostgreSQL and the reverse.
In tests use the fixture `bus_home` (tests/conftest.py): Settings of a private home in which all of this is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.config import Settings

if TYPE_CHECKING:
    import psutil

    from bus.platform.declaration import Declared

# Each function imports its module when it is called: `bus down` should not wait for Kafka's client to load.


def start_kafka(settings: Settings) -> psutil.Process:
    from bus.platform import broker

    return broker.start(settings)


def start_postgres(settings: Settings) -> psutil.Process:
    from bus.platform import database

    return database.start(settings)


def declare(settings: Settings) -> Declared:
    from bus.platform import declaration

    return declaration.declare(settings)


def stop(settings: Settings) -> None:
    from bus.platform import stopping

    stopping.stop_all(settings)
