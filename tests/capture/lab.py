"""A domain of its own for one test: a database, schema files, topics, a user, and the capture process as a child."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import fastavro
import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from kafka.admin import UserScramCredentialUpsertion

from bus import access
from bus.avro import catalogue, dataset, derive, frame
from bus.config import ROOT, Postgres, Settings
from bus.core import topics
from bus.platform import cluster, database, declared, ports, secrets
from bus.registry import log as registry
from tests.chaos import broken

WAIT_SECONDS = 60.0
STOP_SECONDS = 5.0
"""Far longer than a stop takes by itself on an idle machine, far shorter than what hangs would hold it up."""


def field(name: str, avro: Any, **more: Any) -> dict[str, Any]:
    nullable = isinstance(avro, list)
    return {"name": name, "type": avro, "doc": name} | ({"default": None} if nullable else {}) | more


def schema(table: str, key: list[str], fields: list[dict[str, Any]], pin: str | None = "pin") -> dict[str, Any]:
    people = [{"role": "subject", "pin": pin, "match": {}}] if pin else []
    return {"type": "record", "name": table, "doc": table, "primary_key": key, "people": people, "fields": fields}


@dataclasses.dataclass(frozen=True)
class Event:
    """A change event as a reader sees it."""

    table: str
    partition: int
    offset: int
    key: bytes
    schema_id: int
    id: bytes
    op: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    source: dict[str, Any]

    @property
    def place(self) -> tuple[int, int, int]:
        return self.source["lsn"], self.source["xid"], self.source["ordinal"]

    @property
    def row(self) -> dict[str, Any]:
        return self.after or self.before or {}


@dataclasses.dataclass(frozen=True)
class Dead:
    key: bytes
    value: bytes
    headers: dict[str, bytes]


class Lab:
    """`settings` see this domain only. The database is reached as the superuser, who may do all that capture's role may."""

    def __init__(self, base: Settings, domain: str, place: Path, sql: str, schemas: list[dict[str, Any]]) -> None:
        self.domain = domain
        self._place = place
        self._base = base
        self._schemas: dict[int, Any] = {}
        folder = place / "schemas" / domain
        folder.mkdir(parents=True)
        for one in schemas:
            (folder / f"{one['name']}.avsc").write_text(json.dumps(one))
        with database.connect(base) as server:
            server.execute(f"CREATE DATABASE {domain}")
        password = secrets.password(base, "postgres-postgres")
        self.dsn = f"host=127.0.0.1 port={ports.ensure(base).postgres} dbname={domain} user=postgres password={password}"
        self.settings = dataclasses.replace(base, schemas=place / "schemas", postgres=Postgres({domain: self.dsn}))
        self.datasets = dataset.load(self.settings.schemas)
        with self.connect() as db:
            db.execute(sql)
            for d in self.datasets.values():
                db.execute(f"ALTER TABLE {d.table} REPLICA IDENTITY FULL")
            db.execute(f"CREATE PUBLICATION bus FOR TABLE {', '.join(d.table for d in self.datasets.values())}")
        self._declare()

    def _declare(self) -> None:
        wanted = {d.topic: declared.Topic(self.settings.kafka.lanes, d.name) for d in self.datasets.values()}
        wanted |= {topics.dead(d.name): declared.Topic(1, d.name) for d in self.datasets.values()}
        who = f"capture-{self.domain}"
        rules = {r for r in declared.rights(self.datasets, {}) if r.principal == who}
        user = UserScramCredentialUpsertion(who, self.settings.kafka.sasl_mechanism, secrets.password(self._base, f"kafka-{who}"))
        with cluster.admin(self._base) as client:
            cluster.create_topics(client, wanted, 1)
            client.alter_user_scram_credentials([user])
            client.create_acls([cluster._acl(rule) for rule in rules])
        registry.ensure(self._base, {catalogue.value_subject(d.topic): derive.change(d) for d in self.datasets.values()})

    def change_schema(self, changed: dict[str, Any], register: bool = True) -> None:
        """Another schema file for a table, and its id unless not wanted."""
        (self.settings.schemas / self.domain / f"{changed['name']}.avsc").write_text(json.dumps(changed))
        if register:
            self.datasets = dataset.load(self.settings.schemas)
            registry.ensure(self._base, {catalogue.value_subject(d.topic): derive.change(d) for d in self.datasets.values()})

    def other_domain(self, name: str, one: dict[str, Any]) -> Path:
        """A schema folder that says nothing of this domain."""
        folder = self._place / "elsewhere" / "nobody"
        folder.mkdir(parents=True)
        (folder / f"{name}.avsc").write_text(json.dumps(one))
        return folder.parent

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def drop(self) -> None:
        """Frees the slot and the database."""
        with self.connect() as db:
            db.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()")
            wait(lambda: not _one(db, "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()"))
            db.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
        with database.connect(self._base) as server:
            server.execute(f"DROP DATABASE {self.domain} WITH (FORCE)")

    @contextmanager
    def capture(self, *, bug: str = "", dies_at: str = "", **changes: Any) -> Iterator[Capture]:
        """The capture process, ended in the end. `changes`: settings of the capture section; `bug`: one of tests.chaos.bugs;
        `dies_at`: what BUS_FAILPOINT is to say."""
        settings = dataclasses.replace(self.settings, capture=dataclasses.replace(self.settings.capture, **changes))
        child = Capture(self, settings, bug, dies_at)
        try:
            yield child
        finally:
            child.kill()

    def events(self) -> list[Event]:
        """All committed change events, in the order of their places, each as the schema says that its record names."""
        found = []
        for d in self.datasets.values():
            for m in self._records(d.topic):
                schema_id = frame.schema_id(m.value())
                body: Any = fastavro.schemaless_reader(io.BytesIO(m.value()[5:]), self._schema(schema_id), None)
                rest = (body["event_id"], body["op"], body["before"], body["after"], body["source"])
                found.append(Event(d.table, m.partition(), m.offset(), m.key(), schema_id, *rest))
        return sorted(found, key=lambda e: e.place)

    def _schema(self, schema_id: int) -> Any:
        if schema_id not in self._schemas:
            text = registry.read(access.confluent(self._base, "admin")).schema(schema_id)
            self._schemas[schema_id] = fastavro.parse_schema(json.loads(text))
        return self._schemas[schema_id]

    def dead(self, table: str) -> list[Dead]:
        return [Dead(m.key(), m.value(), dict(m.headers())) for m in self._records(topics.dead(f"{self.domain}.{table}"))]

    def positions(self) -> list[dict[str, Any]]:
        return [json.loads(m.value()) for m in self._records(topics.POSITIONS) if m.key() == self.domain.encode()]

    def _records(self, topic: str) -> list[Any]:
        """Committed records up to the present end."""
        common = {**access.confluent(self._base, "admin"), "group.id": "lab", "enable.auto.commit": False, "log_level": 2}
        ends = Consumer({**common, "isolation.level": "read_uncommitted"})
        lanes = list(ends.list_topics(topic, 10.0).topics[topic].partitions)
        left = {lane: ends.get_watermark_offsets(TopicPartition(topic, lane), 10.0)[1] for lane in lanes}
        ends.close()
        reader = Consumer({**common, "isolation.level": "read_committed", "enable.partition.eof": True, "fetch.wait.max.ms": 10})
        reader.assign([TopicPartition(topic, lane, 0) for lane in lanes])
        found, deadline = [], time.monotonic() + WAIT_SECONDS
        while left:
            assert time.monotonic() < deadline, f"the end of {topic} was not reached"
            for m in reader.consume(1000, 0.05):
                error, lane, offset = m.error(), m.partition() or 0, m.offset() or 0
                if error is None:
                    found.append(m)
                    offset += 1
                elif error.code() != KafkaError._PARTITION_EOF:
                    continue
                if offset >= left.get(lane, offset + 1):
                    left.pop(lane)
        reader.close()
        return found

    def wait_for_events(self, count: int) -> list[Event]:
        """All events once there are `count`; fails when there are more or they do not come."""
        found: list[Event] = []

        def enough() -> bool:
            try:
                found[:] = self.events()
            except KafkaException:  # a broker that has only just come back
                return False
            return len(found) >= count

        wait(enough, pause=0.2)
        assert len(found) == count, f"{len(found)} events, not {count}"
        return found


class Capture:
    """The capture process of a lab as a child process."""

    def __init__(self, lab: Lab, settings: Settings, bug: str, dies_at: str) -> None:
        file = lab._place / f"settings-{time.monotonic_ns()}"
        file.write_bytes(pickle.dumps(settings))
        command, environment = broken.command(file, f"capture-{lab.domain}", bug=bug, dies_at=dies_at)
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.child.stderr or ():
            self.lines.append(line)
            if line.startswith("{"):
                self._queue.put(json.loads(line))
        self._queue.put({"event": "ended"})

    def until(self, event: str) -> dict[str, Any]:
        """The next log entry of that name. Fails when the process ends before."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            if found["event"] == event:
                return found
            assert found["event"] != "ended", "".join(self.lines)

    def streaming(self) -> Self:
        self.until("streaming_started")
        return self

    def refusal(self) -> str:
        """The reason it gives up for, with exit status 1."""
        reason: str = self.until("process_failed")["reason"]
        assert self.child.wait(WAIT_SECONDS) == 1
        return reason

    def stop(self) -> None:
        """SIGTERM. Fails unless it soon ends with status 0."""
        self.child.send_signal(signal.SIGTERM)
        assert self.child.wait(STOP_SECONDS) == 0, "".join(self.lines)

    def dead(self) -> None:
        """Until it has killed itself. Fails when it does not, or ends in another way."""
        assert self.child.wait(WAIT_SECONDS) == -signal.SIGKILL, "".join(self.lines)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.child.poll() is None:
            os.kill(self.child.pid, signal.SIGKILL)
            self.child.wait(10)
        sys.stderr.write("".join(self.lines))  # pytest shows it when the test fails


def wait(done: Callable[[], bool], seconds: float = WAIT_SECONDS, pause: float = 0.05) -> None:
    """Until `done()`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the awaited condition did not come about"
        time.sleep(pause)


def _one(db: psycopg.Connection[Any], query: str) -> Any:
    row = db.execute(query).fetchone()
    assert row is not None
    return row[0]
