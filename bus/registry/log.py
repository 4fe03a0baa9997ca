"""The `_schemas` topic: read it to its end, and bring it to the schemas in use.

One writer at a time: `ensure` takes a transactional id, so a second one that starts meanwhile fences the first, whose
transaction then never becomes visible. Readers see committed records only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bus import access
from bus.avro import catalogue, records
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.config import Settings
from bus.core.topics import SCHEMAS

WRITER = "schema-registry"
"""The transactional id of whoever writes: `ensure` as principal `admin`, the server as `registry`."""
READ_SECONDS = 30.0
WRITE_SECONDS = 30.0
_POLL_SECONDS = 0.5
_NO_GROUP = (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
"""Errors that pass or do not concern a reader that is in no group; what stays wrong runs into the time limit."""


class RegistryError(CatalogueError):
    """The schema topic cannot be read or written; the message says what to do."""


def read(config: Mapping[str, Any], timeout_seconds: float = READ_SECONDS) -> Catalogue:
    """The catalogue as it stands now. `config`: connection settings of a principal that may read `_schemas`.

    Raises RegistryError when the end is not reached in time, CatalogueError when a record is unreadable.
    """
    consumer = Consumer(
        {
            **config,
            "group.id": WRITER,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            **access.READ_WHOLE,
            "log_level": 0,  # errors come as messages; a coordinator that nobody needs may be left unheard
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,  # the end is told by an empty answer, which the broker holds back for so long
        }
    )
    try:
        consumer.assign([TopicPartition(SCHEMAS, 0, access.FIRST_OFFSET)])
        return _to_the_end(consumer, time.monotonic() + timeout_seconds)
    finally:
        consumer.close()


def _to_the_end(consumer: Consumer, deadline: float) -> Catalogue:
    found = Catalogue()
    while time.monotonic() < deadline:
        message = consumer.poll(_POLL_SECONDS)
        if message is None:
            continue
        error = message.error()
        if error is None:
            _apply(found, message)
        elif error.code() == KafkaError._PARTITION_EOF:
            return found
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise RegistryError(f"the topic {SCHEMAS!r} does not exist: run `bus up`, which creates it")
        elif error.code() not in _NO_GROUP:
            raise RegistryError(f"cannot read {SCHEMAS!r}: {error.str()}")
    raise RegistryError(f"the end of {SCHEMAS!r} was not reached in time: is the broker up? (`bus doctor`)")


def _apply(found: Catalogue, message: Message) -> None:
    key, value = message.key(), message.value()
    try:
        found.apply(_bytes(key), _bytes(value))
    except CatalogueError as error:
        raise CatalogueError(f"{SCHEMAS} offset {message.offset()}: {error}") from error


def _bytes(data: bytes | str | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


def ensure(settings: Settings, subjects: Mapping[str, Any], levels: Mapping[str, str] = MappingProxyType({})) -> dict[str, int]:
    """Make each schema (parsed JSON) its subject's latest version and give the ids, by subject.

    `levels`: the compatibility levels that subjects are to have.

    Principal `admin`. Idempotent: what is already registered writes nothing. Raises RegistryError.
    """
    config = access.confluent(settings, "admin")
    found = read(config)
    if all(_registered(found, subject, schema) for subject, schema in subjects.items()) and not differing(found, levels):
        return {subject: found.id_for(subject, schema) for subject, schema in subjects.items()}
    producer = Producer({**config, "transactional.id": WRITER, "acks": "all", "partitioner": "murmur2_random"})
    try:
        producer.init_transactions(WRITE_SECONDS)
        found = read(config)  # again, now that nobody else can write
        _write(producer, found, subjects, levels)
    except KafkaException as error:
        raise RegistryError(f"cannot write {SCHEMAS!r}: {error.args[0].str()}") from error
    return _read_back(config, subjects)


def _read_back(config: Mapping[str, Any], subjects: Mapping[str, Any]) -> dict[str, int]:
    """The ids as everybody reads them. A commit is answered before the marker that lets its records be read is written."""
    deadline = time.monotonic() + READ_SECONDS
    while True:
        back = read(config)
        if all(_registered(back, subject, schema) for subject, schema in subjects.items()) or time.monotonic() > deadline:
            return {subject: back.id_for(subject, schema) for subject, schema in subjects.items()}


def _registered(found: Catalogue, subject: str, schema: Any) -> bool:
    return found.propose(subject, schema) is None


def differing(found: Catalogue, levels: Mapping[str, str]) -> list[str]:
    """Subjects that have another level than these."""
    return [subject for subject, level in levels.items() if found.level(subject) != level]


def _write(producer: Producer, found: Catalogue, subjects: Mapping[str, Any], levels: Mapping[str, str]) -> None:
    producer.begin_transaction()
    for subject, schema in subjects.items():
        if entry := found.propose(subject, schema):
            producer.produce(SCHEMAS, catalogue.value_bytes(entry), catalogue.key_bytes(subject, entry.version), partition=0)
            found.add(entry)
    for subject in differing(found, levels):
        record = records.level_record(subject, levels[subject])
        producer.produce(SCHEMAS, record.value, record.key, partition=0)
    producer.commit_transaction(WRITE_SECONDS)
