"""Who reads what now: datasets and agreements from files, registered schemas and recorded values from the bus, if one runs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from typing import Any

from bus import access
from bus.avro import dataset, frame
from bus.avro.catalogue import Catalogue, record_subject, value_subject
from bus.avro.dataset import Dataset
from bus.cli.newest import PRINCIPAL, TopicReader
from bus.config import Settings
from bus.contracts import evidence
from bus.contracts.evidence import Evidence
from bus.contracts.impact import World
from bus.core import topics
from bus.core.agreement import Agreement
from bus.engine import agreements
from bus.engine.plan import delivery_schemas
from bus.platform import presence
from bus.registry import log

NEWEST = 200
"""Recorded values of each subject that are tried."""
LOOKED_AT = 4_000
"""Newest records of each topic that are looked through for them: an agency's topic carries several datasets."""


def read(settings: Settings) -> World:
    """Files, and what is registered. Raises SchemaError, AgreementError; RegistryError where a bus runs and cannot be read."""
    datasets = dataset.load(settings.schemas)
    register = dataset.register_of(datasets)
    agreed = agreements.load(settings, datasets)
    found = log.read(access.confluent(settings, PRINCIPAL)) if _runs(settings) else Catalogue()
    subjects = [value_subject(t) for d in datasets.values() for t in (d.topic, topics.verified(d.name))]
    for agreement in agreed.values():
        subjects += delivery_schemas(datasets, register, agreement)
    registered = {s: {e.version: json.loads(e.schema) for e in found.versions(s)} for s in subjects}
    return World(datasets, register, agreed, {s: v for s, v in registered.items() if v}, {})


def with_recorded(settings: Settings, world: World, changed: Dataset) -> World:
    """The same with the newest records of every topic that a change of `changed` concerns, where a bus runs."""
    if not _runs(settings):
        return world
    connection = access.confluent(settings, PRINCIPAL)
    found = log.read(connection)
    recorded: dict[str, Evidence] = {}
    for topic, subjects in _topics(world, changed).items():
        recorded |= _values(connection, found, topic, subjects)
    return dataclasses.replace(world, recorded=recorded)


def _runs(settings: Settings) -> bool:
    return bool(settings.kafka.bootstrap) or presence.is_up(settings)


def _topics(world: World, changed: Dataset) -> dict[str, list[str]]:
    """Topic -> the subjects of what may be in it."""
    names = [changed.topic, topics.verified(changed.name)]
    if changed.register:
        names += [topics.verified(name) for name in world.datasets if name != changed.name]
    found = {name: [value_subject(name)] for name in names}
    for agreement in world.agreements.values():
        if changed.register or any(g.dataset == changed.name for g in agreement.grants):
            found[topics.agency(agreement.id)] = _subjects(world, agreement)
    return {topic: [s for s in subjects if s in world.registered] for topic, subjects in found.items()}


def _subjects(world: World, agreement: Agreement) -> list[str]:
    schemas = delivery_schemas(world.datasets, world.register, agreement)
    return [record_subject(topics.agency(agreement.id), schema) for schema in schemas.values()]


def _values(connection: dict[str, Any], found: Catalogue, topic: str, subjects: list[str]) -> dict[str, Evidence]:
    """Subject -> its values among the newest records of the topic, by the schema that wrote them."""
    by_id = {e.id: (s, e.schema) for s in subjects for e in found.versions(s)}
    if not by_id:
        return {}
    reader = TopicReader(connection, topic)
    try:
        messages = reader.last(LOOKED_AT)
    finally:
        reader.close()
    values: dict[str, dict[str, list[bytes]]] = defaultdict(lambda: defaultdict(list))
    counts = Counter[str]()
    for message in reversed(messages):
        value = message.value()
        data = value.encode() if isinstance(value, str) else value or b""
        # others than the bus may have written: a record that is no frame is passed over
        if (
            len(data) > frame.HEADER_BYTES
            and data[0] == frame.MAGIC
            and (known := by_id.get(frame.schema_id(data)))
            and counts[known[0]] < NEWEST
        ):
            counts[known[0]] += 1
            values[known[0]][known[1]].append(data[frame.HEADER_BYTES :])
    return {s: evidence.recorded(topic, [(json.loads(text), v) for text, v in one.items()]) for s, one in values.items()}
