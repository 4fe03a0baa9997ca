"""The bus as its users run it: the register process and workers, configured by schema and agreement files alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Producer

from bus import access, platform
from bus.avro import catalogue, dataset, derive, frame
from bus.avro.catalogue import Catalogue
from bus.avro.dataset import Dataset
from bus.bench import contestants, decoding, product
from bus.bench.contestants import LANES, Decode, Encode, Process
from bus.bench.events import Encoder
from bus.bench.reference import Side, Values
from bus.bench.workload import BASE_MS, MATCHED, PIN, Agreement, Event, Workload
from bus.config import Settings
from bus.core import topics
from bus.engine import lanes
from bus.engine.member import GROUP
from bus.platform import cluster, declared
from bus.platform.declaration import Files
from bus.registry import log as registry

NAME = "ours"
_AGREEMENT = "workload"
_COMPARE = {"full_name": "name", "birth_date": "date", "sex": "sex"}
_DATE = {"type": "int", "logicalType": "date"}


def write_files(workload: Workload, schemas: Path, agreements: Path) -> None:
    """The workload as a user of the bus would state it: row schemas and agreements."""
    write_register(workload, schemas)
    subject = {"people": [{"role": "subject", "pin": PIN, "match": {f: f for f in MATCHED}}]}
    for name in workload.domains:
        write_schema(schemas, name, workload.table, workload.columns(name), subject)
    agreements.mkdir(parents=True, exist_ok=True)
    for one in workload.agreements:
        document = json.dumps(_agreement_file(workload, one), ensure_ascii=False, indent=1)  # which is YAML, too
        (agreements / f"{one.name}.yaml").write_text(document, encoding="utf-8")


def write_register(workload: Workload, schemas: Path) -> None:
    domain, table = workload.register
    person = {"people": [{"role": "person", "pin": PIN, "match": {}}], "register": True}
    write_schema(schemas, domain, table, workload.register_columns(), person)


def write_schema(root: Path, domain: str, table: str, columns: list[tuple[str, Any]], about: dict[str, Any]) -> None:
    """A row schema; `about` are the annotations beside the columns, a `primary_key` other than the PIN among them."""
    fields = [_field(name, avro_type) for name, avro_type in columns]
    row = {"type": "record", "name": table, "namespace": f"bench.{domain}", "primary_key": [PIN], **about, "fields": fields}
    path = root / domain / f"{table}.avsc"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row, ensure_ascii=False, indent=1), encoding="utf-8")


def _field(name: str, avro_type: Any) -> dict[str, Any]:
    made = {"name": name, "type": _DATE if name == "birth_date" else avro_type, "doc": name, "pii": "basic"}
    return (
        made | ({"default": None} if isinstance(avro_type, list) else {}) | ({"compare": c} if (c := _COMPARE.get(name)) else {})
    )


def _agreement_file(workload: Workload, one: Agreement) -> dict[str, Any]:
    where = {column: list(values) for column, values in one.where.items() if column != "status"}
    fields: list[Any] = [{f: "pseudonym"} if f == PIN and one.pseudonymise else f for f in one.fields]
    verdicts = {"verdicts": list(one.where["status"])} if "status" in one.where else {}
    agency, _, name = _agreement_id(one).partition(".")
    return agreement_file(agency, name, [f"{d}.{workload.table}" for d in one.domains], where, fields, verdicts)


def agreement_file(
    agency: str,
    name: str,
    datasets: list[str],
    where: dict[str, list[str]],
    fields: list[Any],
    verdicts: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    """An agreement with the same grant on each dataset."""
    grant = {**({"where": where} if where else {}), **(verdicts or {}), "share_verdict": True, "fields": fields}
    return {
        "agency": agency,
        "name": name,
        "purpose": "Measurement",
        "legal_basis": "Made-up people",
        "valid_from": "2025-01-01T00:00:00+07:00",
        "datasets": [{"dataset": one, **grant} for one in datasets],
    }


def _agreement_id(one: Agreement) -> str:
    return f"{one.name.replace('_', '-')}.{_AGREEMENT}"


class Ours:
    """The Contestant. `settings` has a home with its own schemas and agreements."""

    name = NAME

    def __init__(self, settings: Settings, workload: Workload, workers: int) -> None:
        self._settings, self._workload, self._workers = settings, workload, workers
        self._seen = 0
        """Size of the register's log before the last start."""
        self._datasets = dataset.load(settings.schemas)
        self._register = dataset.register_of(self._datasets)
        self._names = {domain: f"{domain}.{workload.table}" for domain in workload.domains}
        self.inputs = [topics.change(name) for name in self._names.values()]
        self._deliveries = [topics.agency(_agreement_id(a)) for a in workload.agreements]
        self.outputs = [*(topics.verified(name) for name in self._names.values()), *self._deliveries]
        self.side = Side(
            lambda domain: topics.verified(self._names[domain]),
            lambda agreement: topics.agency(_agreement_id(agreement)),
            self._key,
            self._pseudonym,
            deletes_are_bare=True,
        )

    @property
    def group(self) -> str:
        return GROUP

    # Keys as docs/glossary.md defines them, worked out once more: the check must not trust the code it checks.

    def _key(self, pin: str) -> bytes:
        return hmac.digest(self._settings.secret("person-key"), pin.encode(), "sha256")[:16]

    def _pseudonym(self, agreement: Agreement, pin: str) -> tuple[bytes, str]:
        master = self._settings.secret("agreement-key")
        name = _agreement_id(agreement).encode()
        key = hashlib.blake2b(name, key=master, digest_size=32, person=b"bus.agreement").digest()

        def hashed(value: bytes) -> bytes:
            return hashlib.blake2b(value, key=key, digest_size=16, person=b"bus.pseudonym").digest()

        return hashed(self._key(pin)), hashed(pin.encode()).hex()

    @property
    def _config(self) -> dict[str, Any]:
        return access.confluent(self._settings, "admin") | {"log_level": 0}

    def declare(self) -> None:
        platform.declare(self._settings)

    def forget(self) -> None:
        contestants.delete_group(self._config, GROUP)
        contestants.delete_topics(self._config, [*self.inputs, self._register.topic, topics.POSITIONS])
        self._create_topics()

    def _create_topics(self) -> None:
        files = Files.read(self._settings)
        wanted = declared.topics_of(files.datasets, files.agreements, LANES)
        with cluster.admin(self._settings) as client:
            cluster.create_topics(client, wanted, self._settings.kafka.replication)

    def fill_register(self) -> dict[str, float]:
        filling = product.Filling(self._settings, self._datasets, self._workload.people)
        filling.produce(self.persons(registry.read(self._config)))
        filling.streams(self._register)
        began = time.monotonic()
        log = self._log("register")
        seen = log.stat().st_size if log.exists() else 0
        register = product.start(self._settings, "register")
        try:
            product.wait_for("the replica", lambda: "register_ready" in log.read_text(encoding="utf-8")[seen:], [register])
            return {"first_restore_s": round(time.monotonic() - began, 2)}
        finally:
            product.stop(register)

    def persons(self, found: Catalogue) -> Iterator[tuple[str, bytes, bytes]]:
        """(topic, key, value) of the register's change events."""
        encoder = _encoder(found, self._register)
        known: Any = None
        for number, (row, again) in enumerate(self._workload.persons()):
            op, before = ("u", known) if again else ("c", None)
            yield self._register.topic, self._key(row[PIN]), encoder.encode(number, op, before, row, BASE_MS)
            known = row

    def encoder(self) -> Encode:
        return self.encoding(registry.read(self._config))

    def encoding(self, found: Catalogue) -> Encode:
        encoders = {domain: _encoder(found, self._datasets[name]) for domain, name in self._names.items()}
        places = {domain: topics.change(name) for domain, name in self._names.items()}
        key = self._key

        def encode(event: Event) -> tuple[str, bytes, bytes]:
            value = encoders[event.domain].encode(event.number, event.op, event.before, event.after, event.ts_ms)
            return places[event.domain], key(event.row[PIN]), value

        return encode

    def decoder(self) -> Decode:
        return self.decoding(registry.read(self._config))

    def decoding(self, found: Catalogue) -> Decode:
        schemas = {i: fastavro.parse_schema(decoding.bare(json.loads(found.schema(i)))) for i in found.ids().values()}
        deliveries = frozenset(self._deliveries)

        def decode(topic: str, value: bytes) -> tuple[int, str | None, Values, int | None]:
            one: Any = decoding.read(schemas[frame.schema_id(value)], value)
            if topic in deliveries:
                shown = one["verdict"]
                return one["ts_ms"], shown, (one["op"], one["ts_ms"], shown, _tuple(one["data"])), one["seq"]
            [check] = one["verification"]
            about = check["status"], tuple(check["mismatched"]), check["register_offset"], _tuple(one["person"])
            values = (one["op"], one["ts_ms"], _tuple(one["before"]), _tuple(one["after"]), *about)
            return one["ts_ms"], check["status"], values, None

        return decode

    def reset(self, at_end: bool) -> None:
        """As on a bus that has taken in its register and nothing else, or everything that is in the inputs."""
        contestants.delete_group(self._config, GROUP)
        dead = [topics.dead(name) for name in self._datasets]
        verified = topics.verified(self._register.name)
        contestants.delete_topics(self._config, [*self.outputs, *dead, verified, topics.AUDIT, topics.LANES])
        self._create_topics()
        taken_in = [self._register.topic, *(self.inputs if at_end else ())]
        states: dict[int, dict[str, int]] = {}
        for (topic, lane), end in product.Watch(self._settings).ends(taken_in).items():
            states.setdefault(lane, {})[topic] = end
        _lane_records(self._config, states)

    def start(self, steady: bool) -> list[Process]:  # noqa: ARG002 the same settings for both
        self._seen = self._log("register").stat().st_size
        names = ["register", *(f"engine-{n}" for n in range(self._workers))]
        return [product.start(self._settings, name) for name in names]

    def restore_seconds(self) -> float | None:
        lines = self._log("register").read_text(encoding="utf-8").encode()[self._seen :].decode().splitlines()
        at = {line["event"]: datetime.fromisoformat(line["timestamp"]) for line in map(json.loads, lines)}
        if "register_ready" not in at:
            return None
        return round((at["register_ready"] - at["process_started"]).total_seconds(), 2)

    def _log(self, process: str) -> Path:
        return self._settings.home / "log" / f"{process}.log"


def _lane_records(config: dict[str, Any], inputs: dict[int, dict[str, int]]) -> None:
    """Where the engine's lanes begin."""
    producer = Producer(config)
    for lane, places in inputs.items():
        producer.produce(topics.LANES, lanes.encode(lanes.LaneState({}, places)), lanes.KEY, partition=lane)
    if producer.flush(30):
        raise RuntimeError("the lane records were not delivered")


def _encoder(found: Catalogue, one: Dataset) -> Encoder:
    return Encoder(one, found.id_for(catalogue.value_subject(one.topic), derive.change(one)))


def _tuple(record: dict[str, Any] | None) -> Values | None:
    return None if record is None else tuple(record.values())
