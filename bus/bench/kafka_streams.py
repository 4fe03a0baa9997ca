"""Kafka Streams on the same work: the application in java/, compiled here, with its best settings known to us (Main.java).

`python -m bus.bench.kafka_streams` resolves its jars again and rewrites the lock file after a change of WANTED.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from bus import access
from bus.bench import contestants, product
from bus.bench.contestants import Decode, Encode, Process
from bus.bench.reference import Side, Values
from bus.bench.workload import PIN, Agreement, Event, Workload
from bus.config import ConfigError, Settings
from bus.platform import jars, java, secrets

NAME = "kafka_streams"
WANTED = (
    ("org.apache.kafka:kafka-streams:4.3.1", False),
    ("org.apache.avro:avro:1.12.2", False),
    ("org.slf4j:slf4j-simple:1.7.36", False),
)
LOCK = Path(__file__).with_name("kafka_streams.lock.toml")
SOURCES = Path(__file__).with_name("java")
HEAP = "-Xmx2g"
MEMORY, ROCKSDB = "memory", "rocksdb"
_PERSON = "person"
_COMPILE_SECONDS = 120
_MAGIC_BYTES = 5
_TOPIC = {"retention.ms": "-1"}
JDKS = Path("/usr/lib/jvm")
Entry = dict[str, Any]


def find_jdk() -> Path:
    """bin/ of the newest Java with a compiler. Raises ConfigError with what to install."""
    places = [Path(home) / "bin" for home in (os.environ.get("JAVA_HOME"),) if home]
    places += [Path(found).parent for found in (shutil.which("javac"),) if found]
    places += [path.parent for path in JDKS.glob("*/bin/javac")]
    found = {place: java.major(place / "java") or 0 for place in places if (place / "javac").exists()}
    best = max(found, key=lambda place: found[place], default=None)
    if best is None or found[best] < java.LEAST_MAJOR:
        raise ConfigError(
            f"Kafka Streams needs a JDK with javac, {java.LEAST_MAJOR} or newer; 25 is best: "
            "`apt-get install openjdk-17-jdk-headless`, or measure ours alone with --without-streams"
        )
    return best


def client_properties(settings: Settings) -> dict[str, str]:
    """How a Java client logs in as the administrator."""
    module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    return {
        "security.protocol": settings.kafka.security_protocol,
        "sasl.mechanism": settings.kafka.sasl_mechanism,
        "sasl.jaas.config": f'{module} required username="admin" password="{access.password(settings, "admin")}";',
    }


def _record(name: str, namespace: str, fields: list[tuple[str, Any]]) -> Entry:
    listed = [{"name": n, "type": t, **({"default": None} if isinstance(t, list) else {})} for n, t in fields]
    return {"type": "record", "name": name, "namespace": namespace, "fields": listed}


_SOURCE = _record(
    "Source",
    "gov",
    [
        ("connector", "string"), ("db", "string"), ("table", "string"), ("lsn", "long"), ("tx", ["null", "string"]),
        ("ts_ms", "long"), ("snapshot", "string"),
    ],
)  # fmt: skip
_VERIFICATION = _record(
    "Verification",
    "gov",
    [("status", "string"), ("mismatched", {"type": "array", "items": "string"}), ("person_offset", ["null", "long"])],
)


def schemas(workload: Workload) -> dict[str, dict[str, Entry]]:
    """{kind: {name: {id, topic, schema}}}, as java/ reads it; ids are fixed."""
    numbers = itertools.count(1)
    person = _record("Person", "gov", workload.register_columns())

    def entry(topic: str, schema: Entry) -> Entry:
        return {"id": next(numbers), "topic": topic, "schema": schema}

    def envelope(domain: str) -> list[tuple[str, Any]]:
        row = _record("Row", f"gov.{domain}", workload.columns(domain))
        after = ["null", f"gov.{domain}.Row"]
        return [("before", ["null", row]), ("after", after), ("source", _SOURCE), ("op", "string"), ("ts_ms", "long")]

    found = [("verification", _VERIFICATION), ("person", ["null", person])]
    return {
        "person": {_PERSON: entry(_PERSON, person)},
        "envelope": {d: entry(_input(d), _record("Envelope", f"gov.{d}", envelope(d))) for d in workload.domains},
        "verified": {d: entry(f"verified.{d}", _record("Verified", f"gov.{d}", envelope(d) + found)) for d in workload.domains},
        "agency": {a.name: entry(_agency(a), _projection(workload, a)) for a in workload.agreements},
    }


def _projection(workload: Workload, agreement: Agreement) -> Entry:
    types = dict(workload.columns(agreement.domains[0]))
    told = [("op", "string"), ("ts_ms", "long"), ("status", "string")]
    return _record("Projection", f"gov.agency.{agreement.name}", [(f, types[f]) for f in agreement.fields] + told)


def _input(domain: str) -> str:
    return f"{domain}.change"


def _agency(agreement: Agreement) -> str:
    return f"agency.{agreement.name}"


def _stated(workload: Workload) -> dict[str, Any]:
    """The workload as java/ reads it."""
    agreements = [
        {
            "name": a.name,
            "domains": a.domains,
            "where": a.where,
            "fields": a.fields,
            "pseudonymise": a.pseudonymise,
            "key": a.key.decode(),
        }
        for a in workload.agreements
    ]
    return {"domains": workload.domains, "agreements": agreements}


class KafkaStreams:
    """The Contestant. Its files lie in <home>/bench/kafka_streams."""

    name = NAME

    def __init__(self, settings: Settings, workload: Workload, threads: int) -> None:
        self._settings, self._workload, self._threads = settings, workload, threads
        self._place = settings.home / "bench" / NAME
        self._schemas = schemas(workload)
        self._run = 0
        self.inputs = [one["topic"] for one in self._schemas["envelope"].values()]
        self.outputs = [one["topic"] for kind in ("verified", "agency") for one in self._schemas[kind].values()]
        self.side = Side("verified.{}".format, _agency, str.encode, _pseudonym, deletes_are_bare=False)

    @property
    def group(self) -> str:
        return f"{NAME}-{self._run}"

    @property
    def _config(self) -> dict[str, Any]:
        return access.confluent(self._settings, "admin") | {"log_level": 0}

    def declare(self) -> None:
        self._compile()
        settings = self._settings
        (self._place / "schemas.json").write_text(json.dumps(self._schemas), encoding="utf-8")
        (self._place / "workload.json").write_text(json.dumps(_stated(self._workload)), encoding="utf-8")
        lines = client_properties(settings)
        secrets.write(self._place / "client.properties", "".join(f"{k}={v}\n" for k, v in lines.items()).encode())
        self._create()

    def _create(self) -> None:
        contestants.create_topics(self._config, [_PERSON], {"cleanup.policy": "compact"})
        contestants.create_topics(self._config, [*self.inputs, *self.outputs], _TOPIC)

    def _compile(self) -> None:
        classes = self._place / "classes"
        classes.mkdir(parents=True, exist_ok=True)
        sources = sorted(map(str, SOURCES.rglob("*.java")))
        command = [str(find_jdk() / "javac"), "--release", "17", "-encoding", "UTF-8", "-nowarn", "-cp", self._classpath()]
        command += ["-d", str(classes), *sources]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
        if done.returncode:
            raise ConfigError(f"javac refuses the Kafka Streams application: {done.stderr.strip()[-800:]}")

    def _classpath(self) -> str:
        return ":".join(str(path) for path in [self._place / "classes", *jars.fetch(lock=LOCK)])

    def forget(self) -> None:
        contestants.delete_topics(self._config, [_PERSON, *self.inputs])
        self._create()

    def fill_register(self) -> dict[str, float]:
        encode = _encoder(self._schemas["person"][_PERSON])
        product.produce(self._config, ((_PERSON, row[PIN].encode(), encode(row)) for row, _ in self._workload.persons()))
        return {}

    def fill_people(self, first: int, last: int) -> None:
        """Those of `Workload.someone` from `first` to before `last` into the register."""
        encode, someone = _encoder(self._schemas["person"][_PERSON]), self._workload.someone()
        rows = map(someone, range(first, last))
        product.produce(self._config, ((_PERSON, row[PIN].encode(), encode(row)) for row in rows))

    def encoder(self) -> Encode:
        encoders = {domain: _encoder(one) for domain, one in self._schemas["envelope"].items()}

        def encode(event: Event) -> tuple[str, bytes, bytes]:
            source = {
                "connector": "postgresql", "db": event.domain, "table": f"public.{self._workload.table}",
                "lsn": 1_000_000 + event.number * 57, "tx": str(700 + event.number), "ts_ms": event.ts_ms, "snapshot": "false",
            }  # fmt: skip
            value = {"before": event.before, "after": event.after, "source": source, "op": event.op, "ts_ms": event.ts_ms}
            return _input(event.domain), event.row[PIN].encode(), encoders[event.domain](value)

        return encode

    def decoder(self) -> Decode:
        entries = [one for kind in self._schemas.values() for one in kind.values()]
        readers = {one["id"]: fastavro.parse_schema(one["schema"]) for one in entries}
        deliveries = {one["topic"] for one in self._schemas["agency"].values()}

        def decode(topic: str, value: bytes) -> tuple[int, str | None, Values, int | None]:
            if value[0]:
                raise ValueError(f"{topic}: not in Confluent's wire format")
            body = io.BytesIO(value)
            body.seek(_MAGIC_BYTES)
            one: Any = fastavro.schemaless_reader(body, readers[int.from_bytes(value[1:_MAGIC_BYTES], "big")])
            ts_ms, op = one["ts_ms"], one["op"]
            if topic in deliveries:
                *data, _, _, status = one.values()
                return ts_ms, status, (op, ts_ms, status, tuple(data)), None
            check, person = one["verification"], one["person"]
            about = check["status"], tuple(check["mismatched"]), check["person_offset"], _tuple(person)
            return ts_ms, check["status"], (op, ts_ms, _tuple(one["before"]), _tuple(one["after"]), *about), None

        return decode

    def reset(self, at_end: bool) -> None:
        contestants.delete_topics(self._config, self.outputs)
        contestants.create_topics(self._config, self.outputs, _TOPIC)
        self._run += 1
        contestants.delete_group(self._config, self.group)  # of an earlier run on this home
        self.forget_state()
        if at_end:
            ends = product.Watch(self._settings, self.group).ends(self.inputs)
            places = [TopicPartition(topic, lane, end) for (topic, lane), end in ends.items()]
            asked = [ConsumerGroupTopicPartitions(self.group, places)]
            admin = AdminClient(self._config)  # kept in a variable: one that is collected never answers
            admin.alter_consumer_group_offsets(asked)[self.group].result(30)

    def forget_state(self) -> None:
        """What RocksDB has on disk."""
        shutil.rmtree(self._place / "state", ignore_errors=True)

    def start(self, steady: bool) -> list[Process]:
        return self.start_with(steady, MEMORY, HEAP)

    def start_with(self, steady: bool, store: str, heap: str, instance: str | None = None) -> list[Process]:
        """`store`: MEMORY or ROCKSDB, which is in the state directory until the next `reset`. `instance`: its name in the group,
        by which it takes its own place after a restart; without one the group waits until its predecessor's session is over."""
        told = {
            "BOOTSTRAP": access.bootstrap(self._settings),
            "CLIENT": str(self._place / "client.properties"),
            "WORKLOAD": str(self._place / "workload.json"),
            "SCHEMAS": str(self._place / "schemas.json"),
            "STATE_DIR": str(self._place / "state"),
            "GROUP": self.group,
            "THREADS": str(self._threads),
            "MODE": "steady" if steady else "drain",
            "STORE": store,
        }
        told |= {} if instance is None else {"KS_group_instance_id": instance}
        options = [heap, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dfile.encoding=UTF-8"]
        command = [str(find_jdk() / "java"), *options, "-cp", self._classpath(), "peers.Main"]
        with self._log.open("wb") as log:
            return [subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **told})]

    @property
    def _log(self) -> Path:
        return self._settings.home / "log" / f"{NAME}.log"

    def restore_seconds(self) -> float | None:
        found = re.findall(r"^RESTORED ([0-9.]+)", self._log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        return round(max(map(float, found)), 2) if found else None


def _encoder(entry: Entry) -> Any:
    schema, head = fastavro.parse_schema(entry["schema"]), b"\0" + struct.pack(">I", entry["id"])

    def encode(value: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        out.write(head)
        fastavro.schemaless_writer(out, schema, value)
        return out.getvalue()

    return encode


def _pseudonym(agreement: Agreement, pin: str) -> tuple[bytes, str]:
    text = hmac.new(agreement.key, pin.encode(), hashlib.sha256).hexdigest()[:32]
    return text.encode(), text


def _tuple(record: dict[str, Any] | None) -> Values | None:
    return None if record is None else tuple(record.values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        jars.resolve(Path(directory), "kafka-streams", WANTED).save(LOCK)
