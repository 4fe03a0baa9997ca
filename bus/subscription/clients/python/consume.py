#!/usr/bin/env python3
"""Reads this agency's topics: committed deliveries, each handled once, in the order of each lane. Put your work into `handle`.

README.md says how to run it. Needs confluent-kafka and fastavro (requirements.txt).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

HERE = Path(__file__).resolve().parent
BATCH_RECORDS = 500
POLL_SECONDS = 1.0
REFUSED = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)


def handle(topic: str, lane: int, offset: int, key: bytes, delivery: dict[str, Any]) -> None:
    """Your work. `op` c, r, u: `data` is the row as it is now. d, w: the row is gone, or no longer yours to see: delete it.

    Hold rows by topic, message key and row_key together. What this does must be durable when it returns, or at the latest when
    `Progress.save` is called: best write it, and the seq of its topic and lane, in one transaction of your own database.
    """
    record = {"topic": topic, "lane": lane, "offset": offset, "key": key, "delivery": delivery}
    print(json.dumps(record, default=lambda value: value.hex() if isinstance(value, bytes) else str(value), ensure_ascii=False))


class Schemas:
    """Decodes a value by the schema whose id it names: schemas/<id>.avsc."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}

    def decode(self, value: bytes) -> dict[str, Any]:
        """`value`: a zero byte, the schema's id in four bytes, Avro."""
        schema_id = int.from_bytes(value[1:5], "big")
        if schema_id not in self._known:
            path = HERE / "schemas" / f"{schema_id}.avsc"
            if value[0] != 0 or not path.exists():
                sys.exit(
                    f"schema {schema_id} is not in {path.parent}: an agreement or a schema has changed; ask for a new bundle"
                )
            self._known[schema_id] = fastavro.parse_schema(json.loads(path.read_text(encoding="utf-8")))
        delivery: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(value[5:]), self._known[schema_id], None)  # type: ignore[assignment]
        return delivery


class Progress:
    """The last seq of each topic and lane that was handled. They count from 1 without gaps: a lower one is a repetition."""

    def __init__(self, group: str) -> None:
        self._file = sqlite3.connect(HERE / f"progress.{group}.db")
        self._file.execute("CREATE TABLE IF NOT EXISTS lane (topic TEXT, lane INT, seq INT, PRIMARY KEY (topic, lane))")
        self._last: dict[tuple[str, int], int] = {}
        self._due: dict[tuple[str, int], int] = {}
        self.assigned()

    def assigned(self) -> None:
        """Who had the lanes until now has saved what came. From there on each must go on without a gap, over a restart too."""
        for topic, lane, seq in self._file.execute("SELECT topic, lane, seq FROM lane"):
            self._last[topic, lane] = max(seq, self._last.get((topic, lane), 0))
        self._due.clear()

    def is_new(self, topic: str, lane: int, seq: int) -> bool:
        place = (topic, lane)
        due = self._due.get(place, self._last.get(place, 0) + 1)
        if seq > due:
            print(f"{topic} lane {lane}: seq {due} to {seq - 1} did not come: see 'A gap' in README.md", file=sys.stderr)
        self._due[place] = max(seq + 1, due)
        if seq <= self._last.get(place, 0):
            return False
        self._last[place] = seq
        return True

    def save(self) -> None:
        self._file.executemany("REPLACE INTO lane VALUES (?, ?, ?)", [(*place, seq) for place, seq in self._last.items()])
        self._file.commit()


class Reader:
    def __init__(self, group: str, client: dict[str, Any]) -> None:
        self.stopping = False
        self._refusal = ""
        self._ended: set[tuple[str, int]] = set()
        self._schemas, self._progress = Schemas(), Progress(group)
        self._consumer = Consumer(settings(group, client) | {"error_cb": self._told})
        self._consumer.subscribe(client["topics"], on_assign=self._assigned)

    def run(self, until_end: bool) -> None:
        """Batch by batch, until told to stop or, with `until_end`, until nothing is left to read."""
        while not self.stopping and not (until_end and self._at_end()):
            messages = self._consumer.consume(BATCH_RECORDS, POLL_SECONDS)
            if self._refusal:
                sys.exit(f"the bus refuses this user: {self._refusal}; ask for a new bundle")
            taken = [self._take(message) for message in messages]
            sys.stdout.flush()  # first what was done, then that it was done
            self._progress.save()
            if any(taken):
                self._commit()
        self._consumer.close()

    def _take(self, message: Message) -> bool:
        topic, lane, error = str(message.topic()), message.partition() or 0, message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._ended.add((topic, lane))
            elif not error.retriable():
                sys.exit(f"cannot read {topic}: {error.str()}")
            return False
        self._ended.discard((topic, lane))
        delivery = self._schemas.decode(message.value())  # type: ignore[arg-type]  # agencies' topics have no tombstones
        if self._progress.is_new(topic, lane, delivery["seq"]):
            handle(topic, lane, message.offset() or 0, message.key(), delivery)  # type: ignore[arg-type]  # nor records without keys
        return True

    def _commit(self) -> None:
        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as refused:  # the lanes went to another member: what comes twice is known by its seq
            print(f"not committed: {refused.args[0].str()}", file=sys.stderr)

    def _assigned(self, _: Consumer, __: list[TopicPartition]) -> None:
        self._ended.clear()
        self._progress.assigned()

    def _at_end(self) -> bool:
        lanes = {(lane.topic, lane.partition) for lane in self._consumer.assignment()}
        return bool(lanes) and lanes <= self._ended

    def _told(self, error: KafkaError) -> None:
        if error.code() in REFUSED:
            self._refusal = error.str()


def settings(group: str, client: dict[str, Any]) -> dict[str, Any]:
    made = {
        "bootstrap.servers": ",".join(client["bootstrap"]),
        "security.protocol": "SASL_SSL" if client["tls"] else "SASL_PLAINTEXT",
        "sasl.mechanism": client["mechanism"],
        "sasl.username": client["username"],
        "sasl.password": client["password"],
        "group.id": group,
        "isolation.level": "read_committed",  # others see deliveries that were taken back
        "auto.offset.reset": "earliest",  # a group that begins, begins with the first delivery
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "allow.auto.create.topics": False,
    }
    return made | ({"ssl.ca.location": str(HERE / client["ca"])} if client["ca"] else {})


def main() -> None:
    parser = argparse.ArgumentParser(description="Read this agency's deliveries.")
    parser.add_argument("--until-end", action="store_true", help="stop when nothing is left to read")
    parser.add_argument(
        "--group", metavar="NAME", help="a consumer group of your own beside the main one, with a place of its own"
    )
    options = parser.parse_args()
    os.umask(0o077)  # what this writes is nobody else's business
    client = json.loads((HERE / "client.json").read_text(encoding="utf-8"))
    reader = Reader(f"{client['group']}.{options.group}" if options.group else client["group"], client)

    def stop(*_: object) -> None:
        reader.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    reader.run(options.until_end)


if __name__ == "__main__":
    main()
