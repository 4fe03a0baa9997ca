"""A feed that runs as a process of a home, agreements that it serves, and deliveries put into their topics as by the engine."""

from __future__ import annotations

import io
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import fastavro
import httpx
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bus import access
from bus.avro import dataset, frame
from bus.config import Settings
from bus.core import topics
from bus.core.agreement import Agreement
from bus.engine import agreements, plan
from bus.platform import declaration, processes, roster, stopping
from bus.registry import log as registry

START_SECONDS = 30.0
PATIENCE_SECONDS = 20.0
LANES = 4
REQUESTS_PER_SECOND = 150
TEXT = """\
agency: {agency}
name: {name}
purpose: Test {number}
legal_basis: Decree 1
valid_from: {valid_from}
delivery: {delivery}
datasets:
  - dataset: civil.birth
    fields: [{fields}]
"""


def text(
    agreement: str, delivery: str = "feed", fields: str = "register_number, province_code", begin: str = "2026-01-01"
) -> str:
    """Of an agreement file that nobody has said anything of yet: what is said in a home stays."""
    agency, _, name = agreement.partition(".")
    valid_from = f"{begin}T00:00:00+07:00"
    return TEXT.format(agency=agency, name=name, number=uuid4().hex, valid_from=valid_from, delivery=delivery, fields=fields)


@dataclass
class Site:
    settings: Settings
    texts: Mapping[str, str]
    seqs: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    _known: dict[str, tuple[Agreement, bytes, Any]] = field(default_factory=dict)
    _producer: Producer | None = None

    def apply(self) -> None:
        for name, content in self.texts.items():
            (self.settings.agreements / f"{name}.yaml").write_text(content, encoding="utf-8")
        declaration.apply(self.settings)
        self._known.clear()

    # -- the process -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        (worker,) = [w for w in roster.workers(self.settings, {}) if w.name == roster.FEED]
        env = {
            "BUS_HOME": str(self.settings.home),
            "BUS_PARTIES": str(self.settings.parties),
            "BUS_FEED__REQUESTS_PER_SECOND": str(REQUESTS_PER_SECOND),
        }
        process = processes.spawn(self.settings, worker.name, worker.command, env=env)
        began = time.monotonic()
        while True:
            try:
                if self.get("archive", "/v1/agreements").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert process.poll() is None, processes.last_lines(self.settings, worker.name)
            assert time.monotonic() < began + START_SECONDS, self.log()
            time.sleep(0.02)

    def kill(self) -> None:
        running = processes.running(self.settings, roster.FEED)
        assert running is not None
        running.kill()
        running.wait(10)

    def stop(self) -> None:
        stopping.end(self.settings, [roster.FEED], 5.0)

    def log(self) -> str:
        return (self.settings.home / "log" / "feed.log").read_text(encoding="utf-8")

    # -- asking ------------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return access.feed_url(self.settings)

    def client(self, agency: str = "archive", seconds: float = 30.0) -> httpx.Client:
        auth = (f"agency-{agency}", access.password(self.settings, f"agency-{agency}"))
        return httpx.Client(base_url=self.url, auth=auth, timeout=seconds, trust_env=False)

    def get(self, agency: str, path: str, params: Mapping[str, Any] | None = None) -> httpx.Response:
        with self.client(agency) as client:
            return client.get(path, params=params)

    def events(self, agreement: str, **params: Any) -> httpx.Response:
        return self.get(agreement.partition(".")[0], f"/v1/agreements/{agreement}/events", params)

    def all(self, agreement: str, **params: Any) -> tuple[list[dict[str, Any]], str, list[dict[str, Any]]]:
        """Every event there is, the cursor after it, and what was lost."""
        found, lost = [], []
        with self.client(agreement.partition(".")[0]) as client:
            while True:
                answer = client.get(f"/v1/agreements/{agreement}/events", params=params)
                assert answer.status_code == 200, answer.text
                body = answer.json()
                found += body["events"]
                lost += body["lost"]
                if not body["more"]:
                    return found, body["next"], lost
                params = {"cursor": body["next"], "limit": params.get("limit", 100)}

    # -- deliveries ----------------------------------------------------------------------------------------------------------

    def deliver(self, agreement: str, lane: int, rows: list[Any], *, commit: bool = True, op: str = "c") -> list[str]:
        """One transaction of deliveries, numbered on; their event ids. `rows`: numbers that stand for rows."""
        made = [self._value(agreement, lane, row, op, count) for count, row in enumerate(rows, 1)]
        producer = self.producer()
        producer.begin_transaction()
        for key, value, _ in made:
            producer.produce(topics.agency(agreement), value, key, partition=lane)
        if not commit:
            producer.flush(10)
            producer.abort_transaction(30)
            return []
        producer.commit_transaction(30)
        self.seqs[agreement, lane] += len(rows)
        return [event for _, _, event in made]

    def producer(self) -> Producer:
        if self._producer is None:
            named = {"transactional.id": f"site-{uuid4().hex}", "linger.ms": 0}
            self._producer = Producer(access.confluent(self.settings, "admin") | named)
            self._producer.init_transactions(30)
        return self._producer

    def _value(self, agreement: str, lane: int, row: Any, op: str, count: int) -> tuple[bytes, bytes, str]:
        one, header, schema = self.known(agreement)
        event_id = uuid4().bytes
        data = {name: _filled(name, row) for name in (f["name"] for f in schema["fields"][-1]["type"][1]["fields"])}
        content = {
            "event_id": event_id, "seq": self.seqs[agreement, lane] + count, "agreement": agreement, "grant_hash": one.grant_hash,
            "op": op, "ts_ms": 1_790_000_000_000, "row_key": int(row).to_bytes(16, "big"), "verdict": None,
            "data": None if op in ("d", "w") else data,
        }  # fmt: skip
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), content)
        return (int(row) % 7).to_bytes(16, "big"), header + out.getvalue(), event_id.hex()

    def known(self, agreement: str) -> tuple[Agreement, bytes, Any]:
        if agreement not in self._known:
            datasets = dataset.load(self.settings.schemas)
            one = agreements.load(self.settings, datasets)[agreement]
            (subject, schema), *_ = plan.delivery_schemas(datasets, dataset.register_of(datasets), one).items()
            number = registry.read(access.confluent(self.settings, "admin")).id_for(subject, schema)
            self._known[agreement] = one, frame.header(number), schema
        return self._known[agreement]

    def delete(self, agreement: str, before: Mapping[int, int]) -> None:
        """As retention would: records before these offsets."""
        admin = AdminClient(access.confluent(self.settings, "admin"))
        asked = [TopicPartition(topics.agency(agreement), lane, offset) for lane, offset in before.items()]
        for answer in admin.delete_records(asked).values():
            answer.result(30)


def _filled(name: str, row: Any) -> Any:
    return f"{row:02d}" if name == "province_code" else f"Số {row}"


def until(what: str, done: Any, seconds: float = PATIENCE_SECONDS) -> float:
    """Seconds it took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() < began + seconds, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - began


@contextmanager
def site(home: Settings, place: Path, texts: Mapping[str, str]) -> Iterator[Site]:
    """A feed on this home, with these agreements beside its own; afterwards the home is what it was."""
    (place / "agreements").mkdir()
    (place / "parties").mkdir()
    for path in home.agreements.iterdir():
        (place / "agreements" / path.name).write_bytes(path.read_bytes())
    made = Site(replace(home, agreements=place / "agreements", parties=place / "parties"), dict(texts))
    assert "BUS_FEED__REQUESTS_PER_SECOND" not in os.environ
    declaration.apply(home)  # topics, users and schemas of its own
    try:
        made.apply()
        made.start()
        yield made
    finally:
        made.stop()
        declaration.apply(home)
