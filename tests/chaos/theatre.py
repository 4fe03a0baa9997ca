"""One broker on which a play is staged again and again, each time with empty topics; and what is looked at after it."""

from __future__ import annotations

import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from bus import access, config, platform
from bus.avro import dataset
from bus.avro.dataset import Dataset
from bus.config import ROOT, Settings
from bus.core import identity, topics
from bus.engine import agreements
from bus.platform import cluster, declaration, declared
from tests.chaos import broken, planting
from tests.engine.stage import Stage
from tests.oracle.agreements import read_all
from tests.oracle.collect import collect_topics, read
from tests.oracle.judge import judge_engine
from tests.oracle.leaks import Canary, Scanner, opened
from tests.oracle.report import Report
from tests.pipeline.rest import until

PEOPLE = 300
EVENTS = 600
FALL_SECONDS = 60.0
EXPIRY = "tax.taxpayers"
EXPIRY_SECONDS = 15.0
"""From a worker's start to the end of one agreement: long enough for it to begin."""
DEATHS = ("before-audit:6", "after-commit:2:250")
"""Where the worker dies, one life after the other: not in its first transaction, which may only say what is in force."""
LAWS = {
    "_check_dataset": "each event verified once, in order, or a dead letter",
    "_check_agencies": "seq dense, deliveries as decided",
    "_check_audit": "audit adds up",
    "_check_changes": "decided and delivered under the agreements in force",
    "_check_past": "an agreement's past given once",
}


class Theatre:
    def __init__(self, home: Path) -> None:
        self.home = home
        self._files = home / "agreements"
        shutil.copytree(ROOT / "deploy" / "agreements", self._files)
        (home / config.SETTINGS_FILE).write_text(f"agreements: {self._files}\nkafka: {{lanes: 4, heap_mb: 384}}\n", "utf-8")
        self.settings: Settings = config.load(home, env={})
        platform.start_kafka(self.settings)
        platform.declare(self.settings)
        self._stage: Stage | None = None

    def close(self) -> None:
        if self._stage is not None:
            self._stage.stop_all()
        platform.stop(self.settings)

    def play(self, shows_under: str, bug: str = "") -> list[str]:
        """The checks that found something wrong with a run under this disturbance."""
        stage = self._stage = self._empty_stage()
        canaries = plant_canaries(stage)
        _SCRIPTS[shows_under](stage, bug)
        found = [*_conservation(stage), *_oracle(stage), *_leaks(stage, canaries)]
        stage.stop_all()
        return found

    def _empty_stage(self) -> Stage:
        """No topic but the schemas' has a record, no log a line, and the agreements are as they came."""
        if self._stage is not None:
            self._stage.stop_all()
        shutil.rmtree(self.home / "log", ignore_errors=True)
        shutil.copytree(ROOT / "deploy" / "agreements", self._files, dirs_exist_ok=True)
        datasets = dataset.load(self.settings.schemas)
        wanted = declared.topics_of(datasets, agreements.load(self.settings, datasets), self.settings.kafka.lanes)
        wanted.pop(topics.SCHEMAS)
        known = AdminClient(access.confluent(self.settings, "admin") | {"log_level": 0})
        for answer in known.delete_topics(list(wanted), operation_timeout=30).values():
            answer.result(30)
        until(lambda: not wanted.keys() & known.list_topics(timeout=10).topics.keys(), 30, "the topics to be gone")
        with cluster.admin(self.settings) as client:
            cluster.create_topics(client, wanted, 1)
        declaration.apply(self.settings)
        return Stage(self.settings, PEOPLE)


# -- what happens


def _calm(stage: Stage, bug: str, disturbance: str = "") -> None:
    """Bad records, and records that were never committed; nothing goes wrong."""
    stage.poison()
    stage.feed_in_vain(EVENTS // 4)
    broken.start(stage, "engine-0", bug=bug, disturbance=disturbance)
    for _ in range(3):
        stage.feed(EVENTS // 3)
        stage.until("the end of the inputs", stage.drained)


def _kills(stage: Stage, bug: str) -> None:
    stage.feed(EVENTS)
    for place in DEATHS:
        broken.start(stage, "engine-0", bug=bug, dies_at=place)
        worker, deadline = stage.running["engine-0"], time.monotonic() + FALL_SECONDS
        while worker.poll() is None:
            assert time.monotonic() < deadline, f"{place} was not reached"
            stage.feed(40)
        del stage.running["engine-0"]
        assert worker.returncode == -signal.SIGKILL, stage.log("engine-0")[-3:]
        stage.feed(EVENTS)
    broken.start(stage, "engine-0", bug=bug)
    stage.until("the end of the inputs", stage.drained)


def _expiry(stage: Stage, bug: str) -> None:
    file = stage.settings.agreements / f"{EXPIRY}.yaml"
    ends = datetime.fromtimestamp(round(time.time() + EXPIRY_SECONDS), UTC)
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join(f"valid_until: {ends.isoformat()}" if n.startswith("valid_until") else n for n in lines), "utf-8")
    stage.apply()
    broken.start(stage, "engine-0", bug=bug)
    stage.feed(EVENTS // 3)
    stage.until("the end of the inputs", stage.drained)
    assert datetime.now(UTC) < ends, "the agreement has ended before anything was delivered"
    until(lambda: datetime.now(UTC) > ends, EXPIRY_SECONDS, "the agreement to end")
    stage.feed(EVENTS // 3)
    stage.until("the end of the inputs", stage.drained)


_SCRIPTS: dict[str, Callable[[Stage, str], None]] = {
    planting.CALM: _calm,
    planting.KILLS: _kills,
    planting.ABORTS: lambda stage, bug: _calm(stage, bug, "abort"),
    planting.EXPIRY: _expiry,
}


# -- what is looked at


def _conservation(stage: Stage) -> list[str]:
    try:
        stage.check()
    except (AssertionError, ValueError, KeyError) as error:  # zip(strict=True) raises the second
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__) if frame.name in LAWS]
        if not names:
            raise  # no law was broken: the stage itself could not look
        return [f"conservation ({LAWS[names[-1]]})"]
    return []


def _oracle(stage: Stage) -> list[str]:
    report = judge_engine(collect_topics(stage.settings, {}))
    assert report.facts["deliveries"] > EVENTS // 3, "hardly anything was delivered: nothing was tested"
    return [f"oracle ({', '.join(sorted(report.kinds()))})"] if report.kinds() else []


def _leaks(stage: Stage, canaries: list[Canary]) -> list[str]:
    """Agencies' topics and the engine's log, searched for canaries."""
    scanner, report = Scanner(canaries), Report()
    rights = {topics.agency(a.id): opened(a, stage.register.name) for a in read_all(stage.settings.agreements)}
    for topic, found in read(stage.settings, rights).items():
        for raw in found:
            scanner.record(topic, raw, report, rights[topic])
    scanner.text("log", (stage.settings.home / "log" / "engine-0.log").read_bytes(), report)
    return [f"leak search ({report.counts['canary']} times)"] if report.kinds() else []


def plant_canaries(stage: Stage) -> list[Canary]:
    """One row of every dataset about somebody whom the register lacks, every personal text in it unmistakable."""
    rng, secret = random.Random(1), stage.settings.secret("person-key")
    found: list[Canary] = []
    records = []
    for place, one in enumerate(stage.sources):
        events, row = stage.filling.events(one), _row(stage, one, rng)
        for field in (f for f in one.row["fields"] if "pii" in f and _is_text(f["type"]) and "date" not in f["name"]):
            text = f"0777{rng.randrange(10**8):08d}" if "pin" in field["name"] else f"Chim Hoàng Yến {rng.randrange(10**6):06d}"
            row[field["name"]] = text
            found.append(Canary(text, frozenset({f"{one.name}.{field['name']}"})))
        pin = row[one.people[0].pin] if one.people else ""
        key = identity.person_key(secret, pin.encode()) if pin else bytes([place]) * identity.KEY_BYTES
        records.append((one.topic, key, events.encoder.encode(10**6 + place, "c", None, row)))
    stage.filling.produce(records)
    return found


def _row(stage: Stage, one: Dataset, rng: random.Random) -> dict[str, Any]:
    """One that row filters let through, as far as they look at places."""
    row = stage.filling.events(one)._row(rng)
    return row | {name: "79" for name in row if name.endswith("province_code") and row[name]}


def _is_text(avro_type: object) -> bool:
    return avro_type in ("string", ["null", "string"])
