"""Debezium on Kafka Connect, exactly once, set as it is fastest as far as we know.

Exactly once needs Connect's distributed mode, here with one worker. Its transactions are one for each poll; JSON without
schemas is the cheapest of its formats.

`python -m bus.bench.debezium` resolves the jars again and rewrites the lock file after a change of WANTED.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg.conninfo

from bus import access
from bus.bench import captures, contestants, kafka_streams, wide
from bus.bench.captures import Decode
from bus.bench.wide import Change
from bus.config import Settings
from bus.platform import jars, java, ports, secrets

NAME = "debezium"
WANTED = (
    ("io.debezium:debezium-connector-postgres:3.5.0.Final", True),
    ("org.apache.kafka:connect-runtime:4.3.1", False),
    ("org.apache.kafka:connect-json:4.3.1", False),
    ("org.slf4j:slf4j-simple:1.7.36", False),
)
"""Debezium is raw: its own build manages another Kafka."""
LOCK = Path(__file__).with_name("debezium.lock.toml")
HEAP = ("-Xms256m", "-Xmx2g")
PATIENCE_SECONDS = 90.0
_LOOK_SECONDS = 0.05
_ANSWER_SECONDS = 60.0
_CONFLICT = 409
"""Connect's answer while its group settles."""
_CLIENTS = ("", "producer.", "consumer.", "admin.")
_CONNECTOR = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": "1",
    "plugin.name": "pgoutput",
    "publication.name": wide.PUBLICATION,
    "publication.autocreate.mode": "disabled",
    "table.include.list": f"public.{wide.TABLE}",
    "snapshot.mode": "initial",
    "snapshot.fetch.size": "10240",
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "10",
    "exactly.once.support": "required",
    "transaction.boundary": "poll",
    "tombstones.on.delete": "false",
    "producer.override.acks": "all",
    "producer.override.compression.type": "lz4",
    "producer.override.linger.ms": "5",
    "producer.override.batch.size": "524288",
    "producer.override.buffer.memory": "134217728",
    "producer.override.max.request.size": "4194304",
}
_WORKER = {
    "group.id": "bench-connect",
    "exactly.once.source.support": "enabled",
    "config.storage.topic": "bench-connect-config",
    "offset.storage.topic": "bench-connect-offsets",
    "status.storage.topic": "bench-connect-status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter.schemas.enable": "false",
    "connector.client.config.override.policy": "All",
    "offset.flush.interval.ms": "10000",
}


def find_java() -> Path:
    """The newest Java: the system's, or the runtime that comes with the bus."""
    found = [*kafka_streams.JDKS.glob("*/bin/java"), java.find()]
    return max(found, key=lambda path: java.major(path) or 0)


class Debezium:
    """The Capture. Its files lie in <home>/bench/debezium."""

    name = NAME

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = settings.home / "bench" / NAME
        self._place.mkdir(parents=True, exist_ok=True)
        self._worker: subprocess.Popen[bytes] | None = None
        self._port = ports.choose(1, random.Random())[0]

    def topic(self, domain: str) -> str:
        return f"{NAME}-{domain}.public.{wide.TABLE}"

    def prepare(self, domain: str) -> None:
        """Its topic, of one partition, and the worker, warm from the rounds before."""
        config = access.confluent(self._settings, "admin") | {"log_level": 0}
        contestants.create_topics(config, [self.topic(domain)], {"retention.ms": "-1"}, lanes=1)
        if self._worker is None:
            self._start()

    def _start(self) -> None:
        login = kafka_streams.client_properties(self._settings)
        told = {"bootstrap.servers": access.bootstrap(self._settings), "listeners": f"http://127.0.0.1:{self._port}", **_WORKER}
        told |= {f"{client}{key}": value for client in _CLIENTS for key, value in login.items()}
        file = self._place / "worker.properties"
        secrets.write(file, "".join(f"{k}={v}\n" for k, v in told.items()).encode())
        classpath = ":".join(str(path) for path in jars.fetch(lock=LOCK))
        options = [*HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dfile.encoding=UTF-8"]
        command = [str(find_java()), *options, "-cp", classpath, "org.apache.kafka.connect.cli.ConnectDistributed", str(file)]
        with self._log.open("wb") as log:
            self._worker = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"LC_ALL": "C.UTF-8"})
        self._wait_for("Connect's answer", lambda: self._ask("GET", "/connectors") is not None)

    @property
    def _log(self) -> Path:
        return self._settings.home / "log" / f"{NAME}.log"

    def resume(self, domain: str) -> None:
        if self._status(domain) is not None:
            self._ask("PUT", f"/connectors/{domain}/resume")
            return
        dsn = psycopg.conninfo.conninfo_to_dict(self._settings.postgres.dsn[domain])
        reached = {
            "database.hostname": dsn["host"],
            "database.port": dsn["port"],
            "database.user": dsn["user"],
            "database.password": dsn["password"],
            "database.dbname": dsn["dbname"],
            "topic.prefix": f"{NAME}-{domain}",
            "slot.name": self._slot(domain),
        }
        body = {"name": domain, "config": {k: str(v) for k, v in (_CONNECTOR | reached).items()}}
        self._wait_for("the connector", lambda: self._ask("POST", "/connectors", body) is not None)

    def _slot(self, domain: str) -> str:
        return f"{NAME}_{domain}"

    def _status(self, domain: str) -> Any:
        """What Connect says of the connector, None when it knows none. Raises RuntimeError when a task has failed."""
        found = self._ask("GET", f"/connectors/{domain}/status")
        for task in found["tasks"] if found else ():
            if task["state"] == "FAILED":
                raise RuntimeError(f"Debezium failed: see {self._log}: {task.get('trace', '')[:300]}")
        return found

    def pause(self, domain: str) -> None:
        self._ask("PUT", f"/connectors/{domain}/stop")
        self._wait_for("the connector's stop", lambda: self._stopped(domain))

    def _stopped(self, domain: str) -> bool:
        found = self._status(domain)
        return bool(found and found["connector"]["state"] == "STOPPED" and not found["tasks"] and not self.reads(domain))

    def reads(self, domain: str) -> bool:
        return captures.slot_is_read(self._settings, domain, self._slot(domain))

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._worker.pid)] if self._worker else []

    def finish(self, domain: str) -> None:
        self.pause(domain)
        self._ask("DELETE", f"/connectors/{domain}")
        captures.drop_slot(self._settings, domain, self._slot(domain))

    def close(self) -> None:
        if self._worker is not None:
            contestants.stop([self._worker])
            self._worker = None

    def decoder(self, domain: str) -> Decode:  # noqa: ARG002 JSON says all of itself
        return decode

    def _wait_for(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            if self._worker is None or self._worker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"waited in vain for {what}: see {self._log}")
            time.sleep(_LOOK_SECONDS)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Connect's answer; None where it has none yet, or knows nothing of the kind. Raises RuntimeError when it refuses."""
        given = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self._port}{path}"
        request = urllib.request.Request(url, given, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code in (404, _CONFLICT):
                return None
            raise RuntimeError(f"Connect refuses {method} {path.split('/')[1]}: status {error.code}, see {self._log}") from None
        except OSError:
            return None


def decode(value: bytes) -> Change:
    """A record of Debezium's, as its JSON converter writes it without schemas."""
    event = json.loads(value)
    return Change(event["op"], _image(event["before"]), _image(event["after"]))


def _image(row: dict[str, Any] | None) -> wide.Image | None:
    if row is None:
        return None
    return tuple(_micros(row[column]) if kind == "timestamptz" else row[column] for column, kind in wide.COLUMNS)


def _micros(text: str | None) -> int | None:
    """io.debezium.time.ZonedTimestamp: ISO 8601 in UTC, as many decimals as there are."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        jars.resolve(Path(directory), NAME, WANTED).save(LOCK)
