"""Reads a running bus from the outside: databases as their owners, topics as super user, committed records only."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fastavro
import psycopg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from psycopg import sql

from bus import access
from bus.avro import dataset as schemas
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core import topics
from tests.oracle import agreements, values
from tests.oracle.history import Delivery, Entry, Event, History, Raw, Table, Verified
from tests.oracle.values import Row

STALL_SECONDS = 60.0
"""Longest wait for the next record before reading is given up: a transaction hangs open."""


class Stuck(RuntimeError):
    """The end of a topic was not reached."""


def collect(settings: Settings) -> History:
    """The whole history of a bus at rest."""
    tables = {d.name: table(settings, d) for d in schemas.load(settings.schemas).values()}
    history = collect_topics(settings, json_columns(settings))
    history.tables = tables
    return history


def collect_topics(settings: Settings, json_columns: Mapping[str, tuple[str, ...]]) -> History:
    """What the topics hold, of a bus that need not have databases. `json_columns`: dataset -> the columns that hold JSON."""
    datasets = schemas.load(settings.schemas)
    register = schemas.register_of(datasets).name
    listed = agreements.read_all(settings.agreements)
    history = History(datasets, register, listed, settings.secret("person-key"), settings.secret("agreement-key"))
    codec = Codec(settings, json_columns)
    names = [t for d in datasets.values() for t in (d.topic, topics.verified(d.name), topics.dead(d.name))]
    raw = read(settings, [*names, *(topics.agency(a.id) for a in listed), topics.AUDIT])
    for name, found in datasets.items():
        history.changes[name], history.undecodable[name] = codec.changes(found, raw.pop(found.topic))
        history.verified[name] = [codec.verified(found, r) for r in raw.pop(topics.verified(name))]
        history.dead[name] = raw.pop(topics.dead(name))
    for agreement in listed:
        history.deliveries[agreement.id] = [codec.delivery(datasets, r) for r in raw.pop(topics.agency(agreement.id))]
    history.audit = [codec.decode(r.value or b"") for r in raw.pop(topics.AUDIT)]
    history.now_ms = round(time.time() * 1000)
    return history


def all_topics(settings: Settings, principal: str = "admin") -> list[str]:
    """Names of all topics that a principal can see."""
    consumer = _consumer(settings, principal)
    try:
        return sorted(consumer.list_topics(timeout=20).topics)
    finally:
        consumer.close()


def records(settings: Settings, topic: str, principal: str = "admin", *, committed_only: bool = True) -> list[Raw]:
    """All committed records (or also those of aborted transactions) up to the present end, in offset order of each lane."""
    return read(settings, [topic], principal, committed_only=committed_only)[topic]


def read(
    settings: Settings, names: Iterable[str], principal: str = "admin", *, committed_only: bool = True
) -> dict[str, list[Raw]]:
    """The same of several topics at once."""
    found: dict[str, list[Raw]] = {name: [] for name in names}
    consumer = _consumer(settings, principal, committed_only=committed_only)
    try:
        listed = consumer.list_topics(timeout=20).topics
        if missing := found.keys() - listed.keys():
            raise Stuck(f"no topics {sorted(missing)}, or {principal} may not see them")
        unread = {(name, lane) for name in found for lane in listed[name].partitions}
        consumer.assign([TopicPartition(name, lane, OFFSET_BEGINNING) for name, lane in unread])
        deadline = time.monotonic() + STALL_SECONDS
        while unread:
            messages = consumer.consume(10_000, 0.1)
            if messages:
                deadline = time.monotonic() + STALL_SECONDS
            elif time.monotonic() > deadline:
                raise Stuck(f"lanes do not come to an end: {sorted(unread)[:5]}")
            for message in messages:
                _take(message, found, unread)
    finally:
        consumer.close()
    return found


def _take(message: Any, found: dict[str, list[Raw]], unread: set[tuple[str, int]]) -> None:
    error = message.error()
    if error is None:
        found[message.topic()].append(_raw(message))
    elif error.code() == KafkaError._PARTITION_EOF:
        unread.discard((message.topic(), message.partition()))
    elif not error.retriable():
        raise KafkaException(error)


def _raw(message: Any) -> Raw:
    headers = {k: v or b"" for k, v in message.headers() or ()}
    return Raw(message.partition(), message.offset(), message.key(), message.value(), headers, message.timestamp()[1])


def _consumer(settings: Settings, principal: str, *, committed_only: bool = True) -> Consumer:
    own = {
        "group.id": principal,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed" if committed_only else "read_uncommitted",
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": 50,
    }
    return Consumer(access.confluent(settings, principal) | own)


def table(settings: Settings, dataset: Dataset) -> Table:
    """A table's rows and journal, in the common spelling."""
    made = Table(dataset, [], [])
    with psycopg.connect(access.owner_dsn(settings, dataset.domain)) as connection:
        read = _row_reader(dataset)
        rows = sql.SQL("SELECT to_jsonb(t)::text FROM public.{} t").format(sql.Identifier(dataset.table))
        made.final = [row for (text,) in _stream(connection, rows) if (row := read(text))]
        lines = sql.SQL(
            "SELECT seq, xid, op, before::text, after::text FROM truth.journal WHERE table_name = {} ORDER BY seq"
        ).format(dataset.table)
        made.journal = [Entry(n, x, op, read(before), read(after)) for n, x, op, before, after in _stream(connection, lines)]
    return made


def _stream(connection: psycopg.Connection[Any], query: sql.Composed) -> Iterator[Any]:
    with connection.cursor(name="oracle") as cursor:
        cursor.itersize = 10_000
        cursor.execute(query)
        yield from cursor


def _row_reader(dataset: Dataset) -> Any:
    convert = values.converters(dataset.fields)

    def read(text: str | None) -> Row | None:
        if text is None:
            return None
        found = values.load_json(text)
        return {column: make(found[column]) for column, make in convert.items()}

    return read


class Codec:
    """Decodes framed Avro by the schemas that stand in `_schemas`, logical types left out."""

    def __init__(self, settings: Settings, json_columns: Mapping[str, tuple[str, ...]]) -> None:
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, set[int]] = {}
        self._parsed: dict[int, tuple[Any, str]] = {}
        self._json = json_columns
        for raw in records(settings, topics.SCHEMAS):
            key = json.loads(raw.key or b"{}")
            if key.get("keytype") != "SCHEMA" or not raw.value:
                continue
            value = json.loads(raw.value)
            self._texts[value["id"]] = value["schema"]
            self._subjects.setdefault(value["subject"], set()).add(value["id"])

    def _schema(self, number: int) -> tuple[Any, str]:
        """(parsed schema, namespace of the record)."""
        found = self._parsed.get(number)
        if found is None:
            schema = json.loads(self._texts[number])
            bare = fastavro.parse_schema(values.bare(schema), named_schemas={})
            found = self._parsed[number] = bare, str(schema.get("namespace", ""))
        return found

    def decode(self, value: bytes, subject: str = "") -> dict[str, Any]:
        """Raises ValueError for whatever is not exactly one framed record of a known schema (of the subject, if named)."""
        if len(value) < 5 or value[0] != 0:
            raise ValueError("no frame")
        number = int.from_bytes(value[1:5], "big")
        if number not in self._texts or (subject and number not in self._subjects.get(subject, ())):
            raise ValueError("unknown schema")
        body = io.BytesIO(value)
        body.seek(5)
        try:
            made: Any = fastavro.schemaless_reader(body, self._schema(number)[0], None)
        except Exception as error:  # whatever a decoder may throw at bad bytes
            raise ValueError("malformed") from error
        if body.tell() != len(value):
            raise ValueError("trailing bytes")
        return dict(made)

    def changes(self, dataset: Dataset, found: Iterable[Raw]) -> tuple[list[Event], list[Raw]]:
        """(change events, records that are none)."""
        events, rest = [], []
        spell = self._speller(dataset)
        for raw in found:
            try:
                made = self.decode(raw.value or b"", f"{dataset.topic}-value")
                events.append(_event(raw, made, spell))
            except ValueError:
                rest.append(raw)
        return events, rest

    def verified(self, dataset: Dataset, raw: Raw) -> Verified:
        made = self.decode(raw.value or b"", f"{topics.verified(dataset.name)}-value")
        event = _event(raw, made, self._speller(dataset))
        return Verified(event, made["verification"], made["decisions"], made.get("person"))

    def delivery(self, datasets: dict[str, Dataset], raw: Raw) -> Delivery:
        value = raw.value or b""
        made = self.decode(value)
        place = self._schema(int.from_bytes(value[1:5], "big"))[1].rsplit(".", 1)[-1]
        name = next(n for n in datasets if n.replace(".", "_") == place)
        data = made["data"]
        if data is not None:
            spell = self._speller(datasets[name])
            data = spell(data) if spell else data
        head = (name, made["event_id"], made["seq"], made["agreement"], made["grant_hash"], made["op"], made["ts_ms"])
        return Delivery(raw.lane, raw.offset, raw.key or b"", *head, made["row_key"], made["verdict"], data)

    def _speller(self, dataset: Dataset) -> Any:
        """What brings a decoded row to the common spelling in place; None where nothing needs it."""
        convert = values.avro_converters(dataset.fields)
        convert |= dict.fromkeys(self._json.get(dataset.name, ()), _json_spelling)
        if not convert:
            return None

        def spell(row: Row) -> Row:
            for column, make in convert.items():
                if column in row:
                    row[column] = make(row[column])
            return row

        return spell


def _json_spelling(text: str | None) -> str | None:
    return None if text is None else values.json_text(values.load_json(text))


def json_columns(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Dataset -> its json and jsonb columns, whose text may be spelled in many ways."""
    found: dict[str, tuple[str, ...]] = {}
    for dataset in schemas.load(settings.schemas).values():
        with psycopg.connect(access.owner_dsn(settings, dataset.domain)) as connection:
            query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND data_type IN ('json', 'jsonb')"
            found[dataset.name] = tuple(name for (name,) in connection.execute(query, (dataset.table,)))
    return found


def _event(raw: Raw, made: dict[str, Any], spell: Any) -> Event:
    before, after = made["before"], made["after"]
    if spell:
        before, after = before and spell(before), after and spell(after)
    source, key = made["source"], raw.key or b""
    identity, op, at = made["event_id"], made["op"], made["ts_ms"]
    return Event(raw.lane, raw.offset, key, raw.timestamp_ms, identity, op, at, source, before, after)
