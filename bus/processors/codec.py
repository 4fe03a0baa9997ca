"""The bus's Avro as a Faust codec: Confluent's frame in, a plain dictionary out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faust.serializers import codecs

from bus import telemetry
from bus.avro import frame
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.ledger.decoding import Decoder
from bus.registry.log import RegistryError

AVRO = "bus-avro"
"""The codec's name, for `app.topic(..., value_serializer=AVRO)`."""
_MAX_UNKNOWN = 1_000


class AvroCodec(codecs.Codec):
    """Decodes with the writer's schema, by the id in the frame; what cannot be decoded comes as None, and is counted.

    An exception here would end the agent, so only an unreadable `_schemas` (RegistryError) is one. Encoding is refused:
    only the engine writes the bus's topics. `read_catalogue` reads `_schemas` as it stands now; it is called at the first
    record and once for each id not seen yet.
    """

    def __init__(self, read_catalogue: Callable[[], Catalogue], children: tuple[Any, ...] | None = None) -> None:
        super().__init__(children=children, read_catalogue=read_catalogue)
        self._read_catalogue = read_catalogue
        self._decoder = Decoder(Catalogue())
        self._unknown: set[int] = set()
        self._unreadable = telemetry.counter("bus_processor_unreadable_total")  # at once, so that it is shown from 0 on

    def _loads(self, s: bytes) -> dict[str, Any] | None:
        try:
            return self._decode(s)
        except RegistryError:
            raise
        except Exception:  # fastavro raises whatever bad bytes lead it to, and its text may quote them
            self._unreadable.inc()
            return None

    def _decode(self, value: bytes) -> dict[str, Any]:
        try:
            return self._decoder.decode(value)
        except CatalogueError:
            schema_id = frame.schema_id(value)
            if schema_id in self._unknown or len(self._unknown) >= _MAX_UNKNOWN:
                raise
        self._decoder = Decoder(self._read_catalogue())
        try:
            return self._decoder.decode(value)
        except CatalogueError:
            self._unknown.add(schema_id)
            raise

    def _dumps(self, s: Any) -> bytes:  # noqa: ARG002  # the name is Faust's
        raise TypeError("a processor's own topics carry JSON or its own format; the bus's Avro is written by the engine alone")
