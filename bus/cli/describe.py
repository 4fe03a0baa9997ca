"""A Kafka record as it may be shown to an operator: decoded by the id in its frame, masked, ready for JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from confluent_kafka import Message

from bus.avro import dataset, frame
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.cli.masking import Masker, headers, json_value, key_text
from bus.config import Settings
from bus.ledger.decoding import Decode, compile_decoder

Record = dict[str, Any]
"""{"topic", "lane", "offset", "timestamp_ms", "key" (four hexadecimal digits), "headers", "value"}."""


class Describer:
    """`read_catalogue` reads `_schemas` as it stands now; it is called for the first value and for every id not seen yet."""

    def __init__(self, settings: Settings, read_catalogue: Callable[[], Catalogue]) -> None:
        self._masker = Masker(dataset.load(settings.schemas))
        self._read_catalogue = read_catalogue
        self._schemas: dict[int, tuple[Any, Decode]] = {}
        """id -> schema as parsed JSON, and what decodes by it."""

    def describe(self, message: Message) -> Record:
        """What may be shown. Never raises: bytes that cannot be decoded are described by their length."""
        topic, value = message.topic() or "", _bytes(message.value())
        return {
            "topic": topic,
            "lane": message.partition(),
            "offset": message.offset(),
            "timestamp_ms": message.timestamp()[1],
            "key": key_text(_bytes(message.key())),
            "headers": headers(message.headers()),  # type: ignore[arg-type]  # always a list of pairs when read
            "value": None if value is None else self.value(topic, value),
        }

    def value(self, topic: str, value: bytes) -> Any:
        """One value, masked."""
        try:
            schema_id = frame.schema_id(value)
        except frame.Malformed:
            return _json(topic, value)
        try:
            schema, decode = self._schema(schema_id)
            return self._masker.mask(decode(value), schema)
        except CatalogueError as error:
            return f"<{len(value)} bytes: {error}>"
        except Exception as error:  # fastavro raises whatever bad values lead it to, and its text may quote them
            return f"<{len(value)} bytes that do not fit their schema: {type(error).__name__}>"

    def _schema(self, schema_id: int) -> tuple[Any, Decode]:
        if schema_id not in self._schemas:
            schema = json.loads(self._read_catalogue().schema(schema_id))
            self._schemas[schema_id] = schema, compile_decoder(schema)
        return self._schemas[schema_id]


def _json(topic: str, value: bytes) -> Any:
    try:
        return json_value(topic, json.loads(value))
    except (ValueError, RecursionError):
        return f"<{len(value)} bytes: neither framed Avro nor JSON>"


def _bytes(data: bytes | str | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
