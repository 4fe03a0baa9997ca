"""A dataset of its own on the real broker, so that suites that share a bus do not see each other's events.

Run as an app of its own: `faust -A tests.processors.trial worker`, with windows of TRIAL_WINDOW_SECONDS.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported without saying so

from bus import access, config
from bus.avro import catalogue, dataset, derive, frame
from bus.core import topics
from bus.registry import log

ROW = {
    "type": "record",
    "name": "record",
    "namespace": "vn.lienthong.trial",
    "primary_key": ["id"],
    "people": [
        {"role": "holder", "pin": "pin", "match": {"full_name": "name", "sex": "sex"}},
        {"role": "other", "pin": "other_pin", "match": {"full_name": "other_name"}},
    ],
    "fields": [
        {"name": "id", "type": "long", "doc": "Identifier"},
        {"name": "pin", "type": "string", "pii": "basic", "doc": "PIN"},
        {"name": "name", "type": "string", "pii": "basic", "doc": "Name"},
        {"name": "sex", "type": "string", "pii": "basic", "doc": "Sex"},
        {"name": "other_pin", "type": ["null", "string"], "default": None, "pii": "basic", "doc": "PIN"},
        {"name": "other_name", "type": ["null", "string"], "default": None, "pii": "basic", "doc": "Name"},
        {"name": "note", "type": "string", "doc": "Harmless"},
    ],
}
SOURCE = "trial.record"
LANES = 4

Verification = tuple[str, str, Sequence[str]]
"""(role, status, mismatched)."""


@dataclass(frozen=True, slots=True)
class Trial:
    settings: config.Settings
    """Those of the shared bus, with the trial's own schemas."""
    schema_id: int
    schema: Any

    @property
    def topic(self) -> str:
        return topics.verified(SOURCE)

    def event(self, number: int, people: Sequence[Verification]) -> bytes:
        """A framed verified event."""
        row = {
            "id": number,
            "pin": "012345678901",
            "name": "Canary",
            "sex": "F",
            "other_pin": None,
            "other_name": None,
            "note": "ok",
        }
        body = {
            "event_id": number.to_bytes(16, "big"),
            "op": "c",
            "ts_ms": 1,
            "source": {"db": "trial", "schema": "public", "table": "record", "system_id": 1, "lsn": number, "xid": 1}
            | {"ordinal": 0, "ts_ms": 1, "snapshot": False},
            "before": None,
            "after": row,
            "verification": [{"role": r, "status": s, "mismatched": list(m), "register_offset": 1} for r, s, m in people],
            "decisions": [],
            "person": None,
        }
        out = io.BytesIO(frame.header(self.schema_id))
        out.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(out, self.schema, body)
        return out.getvalue()

    def producer(self, transactional_id: str, compression: str = "lz4") -> Producer:
        """A transactional one; the engine compresses with lz4."""
        config = {"transactional.id": transactional_id, "acks": "all", "compression.type": compression}
        made = Producer(access.confluent(self.settings, "admin") | config)
        made.init_transactions(20)
        return made

    def send(self, producer: Producer, values: Sequence[bytes], at: float, commit: bool = True) -> None:
        """One transaction, spread over the lanes, with the record timestamp `at` (Unix seconds)."""
        producer.begin_transaction()
        for value in values:
            producer.produce(self.topic, value, random.randbytes(16), random.randrange(LANES), timestamp=int(at * 1000))
        producer.flush(20)
        (producer.commit_transaction if commit else producer.abort_transaction)(20)

    @contextmanager
    def worker(
        self, window_seconds: float = 4.0, name: str = "processors", fault: bool = False, module: str = "trial", **more: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A Faust worker in a home of its own that shares the bus's secrets; killed at the end if it still runs."""
        home = self.settings.home.parent / name
        _lend(self.settings.home, home)
        env = os.environ | {"BUS_HOME": str(home), "BUS_SCHEMAS": str(self.settings.schemas)}
        env |= {"TRIAL_WINDOW_SECONDS": str(window_seconds), "TRIAL_FAULT": "1" if fault else ""} | more
        for told in (home / "run").glob("processors*.json"):
            told.unlink()
        command = [str(Path(sys.executable).parent / "faust"), "-A", f"tests.processors.{module}", "worker", "-l", "info"]
        with (home / "worker.log").open("ab") as out:
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def samples(self, name: str = "processors") -> dict[str, float]:
        """What the worker's /metrics says now; nothing when it does not answer yet."""
        try:
            about = json.loads((self.settings.home.parent / name / "run" / "processors.json").read_text())
            with urllib.request.urlopen(f"http://127.0.0.1:{about['metrics_port']}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def _lend(bus: Path, home: Path) -> None:
    (home / "run").mkdir(parents=True, exist_ok=True)
    for name in ("secrets", "run/endpoints.json"):
        if not (home / name).exists():
            (home / name).symlink_to(bus / name)


def make(settings: config.Settings, schemas: Path) -> Trial:
    """Schemas, topic and schema id of the trial dataset, under `schemas`."""
    (schemas / "trial").mkdir(parents=True, exist_ok=True)
    (schemas / "trial" / "record.avsc").write_text(json.dumps(ROW))
    shutil.copytree(config.ROOT / "schemas" / "population", schemas / "population", dirs_exist_ok=True)
    settings = replace(settings, schemas=schemas)
    found = dataset.load(schemas)
    schema = derive.verified(found[SOURCE], dataset.register_of(found))
    topic = topics.verified(SOURCE)
    ids = log.ensure(settings, {catalogue.value_subject(topic): schema})
    admin = AdminClient(access.confluent(settings, "admin"))
    if topic not in admin.list_topics(timeout=20).topics:
        admin.create_topics([NewTopic(topic, LANES)], operation_timeout=20)[topic].result(20)
    return Trial(settings, ids[catalogue.value_subject(topic)], fastavro.parse_schema(schema))


def until(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first truthy answer. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s; last answer: {answer!r}")


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    from bus.processors import mismatches
    from bus.processors.windows import TumblingWindows

    globals()["app"] = made = mismatches.build(config.load(), TumblingWindows(float(os.environ["TRIAL_WINDOW_SECONDS"]), 1.0))
    if os.environ.get("TRIAL_FAULT"):

        @made.agent(made.topic("processors-fault", value_serializer="raw"))
        async def fault(stream: Any) -> None:
            async for _ in stream:
                raise RuntimeError("a fault of the processor")

    if os.environ.get("TRIAL_THREAD"):  # one that the process would wait for in vain
        threading.Thread(target=time.sleep, args=(120,)).start()
    return made
