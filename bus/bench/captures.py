"""What both captures have in common for a measurement: each reads one table of a database of its own turn into one topic."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import fastavro
import psutil
import psycopg

from bus import access
from bus.avro import catalogue, dataset, derive, frame
from bus.bench import decoding, wide
from bus.bench.wide import Change
from bus.config import Settings
from bus.registry import log as registry

OURS = "ours"
STOP_SECONDS = 30.0
Decode = Callable[[bytes], Change]


class Capture(Protocol):
    """One capture on the bench's servers. `domain` is a database that has the table."""

    name: str

    def topic(self, domain: str) -> str: ...

    def prepare(self, domain: str) -> None:
        """Whatever must be there before the clock runs."""
        ...

    def resume(self, domain: str) -> None:
        """Asks it to begin, or to go on where it stopped, and returns at once."""
        ...

    def reads(self, domain: str) -> bool:
        """Whether it is at the database's log."""
        ...

    def pause(self, domain: str) -> None:
        """Returns when nobody reads the database's log."""
        ...

    def processes(self) -> list[psutil.Process]:
        """All of its own that run now."""
        ...

    def finish(self, domain: str) -> None:
        """Forgets the database; its log is not kept for it any more."""
        ...

    def close(self) -> None:
        """Ends whatever it has started."""
        ...

    def decoder(self, domain: str) -> Decode: ...


class Ours:
    """The product's own capture process, with default settings but for what `flags` says (BUS_… variables)."""

    name = OURS

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: subprocess.Popen[bytes] | None = None
        self.flags: Mapping[str, str] = {}

    def topic(self, domain: str) -> str:
        return dataset.load(self._settings.schemas)[f"{domain}.{wide.TABLE}"].topic

    def prepare(self, domain: str) -> None:
        """Nothing: topics and schemas are declared for the whole home."""

    def resume(self, domain: str) -> None:
        home = self._settings.home
        command = [sys.executable, "-m", "bus.cli.main", "--home", str(home), "run", "capture", domain]
        with (home / "log" / f"capture-{domain}.log").open("ab") as log:
            self._running = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self.flags})

    def reads(self, domain: str) -> bool:
        return slot_is_read(self._settings, domain, _slot(domain))

    def pause(self, domain: str) -> None:  # noqa: ARG002 it captures one database at a time
        self.close()

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._running.pid)] if self._running else []

    def finish(self, domain: str) -> None:
        self.pause(domain)
        drop_slot(self._settings, domain, _slot(domain))

    def close(self) -> None:
        if self._running is None:
            return
        self._running.send_signal(signal.SIGTERM)
        try:
            self._running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait(STOP_SECONDS)
        self._running = None

    def decoder(self, domain: str) -> Decode:
        one = dataset.load(self._settings.schemas)[f"{domain}.{wide.TABLE}"]
        found = registry.read(access.confluent(self._settings, "admin"))
        known = found.id_for(catalogue.value_subject(one.topic), derive.change(one))
        schema = fastavro.parse_schema(decoding.bare(derive.change(one)))

        def decode(value: bytes) -> Change:
            if frame.schema_id(value) != known:
                raise RuntimeError(f"{one.topic}: a record with another schema than {known}")
            event: Any = decoding.read(schema, value)
            return Change(event["op"], _image(event["before"]), _image(event["after"]))

        return decode


def _slot(domain: str) -> str:
    return f"bus_{domain}"


def _image(row: dict[str, Any] | None) -> wide.Image | None:
    return None if row is None else tuple(row[column] for column, _ in wide.COLUMNS)


def connect(settings: Settings, domain: str) -> psycopg.Connection[Any]:
    """To a bench's database, each statement for itself."""
    return psycopg.connect(settings.postgres.dsn[domain], autocommit=True)


def slot_is_read(settings: Settings, domain: str, slot: str) -> bool:
    with connect(settings, domain) as db:
        found = db.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", (slot,)).fetchone()
    return bool(found and found[0])


def drop_slot(settings: Settings, domain: str, slot: str) -> None:
    with connect(settings, domain) as db:
        db.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (slot,))
