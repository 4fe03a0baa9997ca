"""The product's own processes and topics, as measurements and tests drive them: start a process, fill topics, watch a group."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import access
from bus.avro import catalogue, dataset
from bus.avro.dataset import Dataset
from bus.bench.events import Events
from bus.config import Settings
from bus.core import topics
from bus.engine.member import GROUP
from bus.registry import log as registry

LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 600.0
_RUN = (
    "import sys; from pathlib import Path; from bus import config; from bus.engine import {m}; "
    "{m}.run(config.load(Path(sys.argv[1]), env={{}}){a})"
)


def start(settings: Settings, process: str) -> subprocess.Popen[bytes]:
    """The product's process 'register' or 'engine-<index>' on this home, its log beside the others."""
    name, _, index = process.partition("-")
    code = _RUN.format(m="worker" if name == "engine" else name, a=f", {index}" if index else "")
    (settings.home / "log").mkdir(exist_ok=True)
    with (settings.home / "log" / f"{process}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", code, str(settings.home)], stdout=log, stderr=log)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def wait_for(what: str, done: Callable[[], bool], processes: Iterable[subprocess.Popen[bytes]] = ()) -> None:
    """Raises RuntimeError when it takes too long or one of the processes has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
            raise RuntimeError(f"waited in vain for {what}: see the log directory of the home")
        time.sleep(LOOK_SECONDS)


class Filling:
    """Puts records into topics as capture would, without its transactions."""

    def __init__(self, settings: Settings, datasets: dict[str, Dataset], people: int) -> None:
        self._config, self._datasets = access.confluent(settings, "admin"), datasets
        self._found = registry.read(self._config)
        self._people, self._secret = people, settings.secret("person-key")
        self._producer: Producer | None = None
        """Kept: an idempotent one takes half a second to begin."""

    def events(self, one: Dataset) -> Events:
        schema_id = self._found.latest(catalogue.value_subject(one.topic))
        assert schema_id is not None
        return Events(one, schema_id.id, self._people, self._secret)

    def register(self) -> int:
        """Everybody into the register, and capture's word that the database streams. The number of records."""
        one = dataset.register_of(self._datasets)
        count = self.produce((one.topic, k, v) for k, v in self.events(one).register())
        self.streams(one)
        return count

    def streams(self, one: Dataset) -> None:
        record = {"tables": {one.table: [{"upto": None, "lsn": "0/0"}]}}
        self.produce([(topics.POSITIONS, one.domain.encode(), json.dumps(record).encode())])

    def produce(self, records: Iterable[tuple[str, bytes, bytes]]) -> int:
        """Raises RuntimeError when one could not be delivered."""
        kept, self._producer = self._producer or _producer(self._config), None
        count = _put(kept, records)
        self._producer = kept
        return count


def produce(config: dict[str, Any], records: Iterable[tuple[str, bytes, bytes]]) -> int:
    """Put (topic, key, value) records where they belong; their number. Raises RuntimeError when one could not be delivered."""
    return _put(_producer(config), records)


def _producer(config: dict[str, Any]) -> Producer:
    return Producer(
        config
        | {
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "enable.idempotence": True,
            "linger.ms": 50,
            "message.max.bytes": 8_000_000,
            "queue.buffering.max.messages": 100_000,
            "delivery.report.only.error": True,
        }
    )


def _put(producer: Producer, records: Iterable[tuple[str, bytes, bytes]]) -> int:
    count, lost = 0, list[Any]()
    for count, (topic, key, value) in enumerate(records, 1):  # noqa: B007
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=lambda error, _: lost.append(error))
                break
            except BufferError:
                producer.poll(0.05)
    producer.flush(60)
    if lost or len(producer):
        raise RuntimeError(f"{len(lost)} records were not delivered: {lost[:1]}")
    return count


class Watch:
    """How far the group has come, and how much the topics hold."""

    def __init__(self, settings: Settings, group: str = GROUP) -> None:
        given = access.confluent(settings, "admin") | {"log_level": 0}
        self._consumer = Consumer(given | {"group.id": group, "enable.auto.commit": False})
        self._admin = AdminClient(given)

    def ends(
        self, names: Iterable[str], isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[tuple[str, int], int]:
        """(topic, partition) -> the log's end, or how far committed records can be read by now."""
        there = self._admin.list_topics(timeout=10).topics  # also: a restarted broker refuses the epochs known before
        wanted = [TopicPartition(n, p) for n in names for p in there[n].partitions]
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        answers = self._admin.list_offsets(dict.fromkeys(wanted, latest), isolation_level=isolation)
        return {(tp.topic, tp.partition): answer.result(30).offset for tp, answer in answers.items()}

    def names(self) -> list[str]:
        return list(self._consumer.list_topics(timeout=10).topics)

    def committed(self, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        found = self._consumer.committed([TopicPartition(t, p) for t, p in wanted], 30)
        return {(tp.topic, tp.partition): max(0, tp.offset) for tp in found}
