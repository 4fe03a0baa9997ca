"""Framed Avro values as plain dictionaries, by the ids of `_schemas`. For accounts, consoles and tests; never the hot path."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro

from bus.avro import frame
from bus.avro.catalogue import Catalogue
from bus.avro.walker import compile_walker

Decode = Callable[[bytes], dict[str, Any]]


def compile_decoder(schema: Any) -> Decode:
    """decode(framed value) for a record's schema, as parsed JSON. Raises frame.Malformed for bytes that are not one datum of it.

    fastavro believes what it reads: it makes a list of as many nulls as a count says, follows nesting until the process dies of
    it, and takes what stands behind the datum for nothing. So the bytes are walked first: what the engine refuses is not decoded.
    """
    walk = compile_walker(schema, (), start=frame.HEADER_BYTES)
    parsed = fastavro.parse_schema(json.loads(json.dumps(schema)))  # fastavro marks what it has parsed

    def decode(value: bytes) -> dict[str, Any]:
        walk(value)
        found: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(value[frame.HEADER_BYTES :]), parsed, None)  # type: ignore[assignment]  # every schema of the bus is a record
        return found

    return decode


class Decoder:
    """Decodes with the writer's schema.

    Raises frame.Malformed for bytes without a frame or that do not fit their schema, CatalogueError for unknown ids.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._decoders: dict[int, Decode] = {}

    def decode(self, value: bytes) -> dict[str, Any]:
        schema_id = frame.schema_id(value)
        decode = self._decoders.get(schema_id)
        if decode is None:
            decode = self._decoders[schema_id] = compile_decoder(json.loads(self._catalogue.schema(schema_id)))
        return decode(value)
