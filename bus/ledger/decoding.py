"""Framed Avro values as plain dictionaries, by the ids of `_schemas`. For accounts, consoles and tests; never the hot path."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro

from bus.avro import frame
from bus.avro.catalogue import Catalogue


class Decoder:
    """Decodes with the writer's schema. Raises frame.Malformed for bytes without a frame, CatalogueError for unknown ids."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._parsed: dict[int, Any] = {}

    def decode(self, value: bytes) -> dict[str, Any]:
        schema_id = frame.schema_id(value)
        if schema_id not in self._parsed:
            self._parsed[schema_id] = fastavro.parse_schema(json.loads(self._catalogue.schema(schema_id)))
        found: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(value[frame.HEADER_BYTES :]), self._parsed[schema_id], None)  # type: ignore[assignment]  # every schema of the bus is a record
        return found
