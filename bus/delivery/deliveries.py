"""Values of agencies' topics as deliveries, with the dataset each is of and the fields it was written with."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bus.avro import derive, frame
from bus.avro.catalogue import Catalogue, CatalogueError, full_name
from bus.avro.dataset import Dataset
from bus.delivery.entitled import Fields
from bus.delivery.served import Outlet, fields
from bus.ledger.decoding import Decode, compile_decoder


class Unreadable(Exception):
    """Deliveries cannot be read, at present or at all; the message says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class _Kind:
    decode: Decode
    name: str
    """Full name of the schema."""
    fields: Fields


class Deliveries:
    """`read_catalogue` reads `_schemas` as it stands now: at the first record, and again for an id not seen yet."""

    def __init__(self, datasets: Mapping[str, Dataset], read_catalogue: Callable[[], Catalogue]) -> None:
        self._datasets, self._read_catalogue = datasets, read_catalogue
        self._catalogue = Catalogue()
        self._kinds: dict[int, _Kind] = {}
        self._names: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()

    def decode(self, outlet: Outlet, value: bytes) -> tuple[dict[str, Any], str, Fields]:
        """(delivery, dataset, fields of its data). Raises Unreadable for what the engine did not write to this agreement."""
        try:
            kind = self._kind(frame.schema_id(value))
            found = kind.decode(value)
        except frame.Malformed:
            raise Unreadable("a record of the topic is no delivery") from None
        except CatalogueError as error:
            raise Unreadable(str(error)) from None
        dataset = self._named(outlet.agreement.id).get(kind.name)
        if dataset is None or found["agreement"] != outlet.agreement.id:
            raise Unreadable("a record of the topic is no delivery under its agreement")
        return found, dataset, kind.fields

    def told(self, outlet: Outlet, value: bytes, key: bytes, lane: int) -> tuple[Mapping[str, Any], str, bytes]:
        """The delivery as the agency may see it now, its dataset, and its key likewise. Raises Unreadable."""
        found, dataset, written = self.decode(outlet, value)
        seen, seen_key = outlet.entitlement.view(found, dataset, written, key, lane)
        return seen, dataset, seen_key

    def _kind(self, schema_id: int) -> _Kind:
        found = self._kinds.get(schema_id)
        if found is not None:
            return found
        with self._lock:
            if self._catalogue.holder(schema_id) is None:
                self._catalogue = self._read_catalogue()
            schema = json.loads(self._catalogue.schema(schema_id))
            made = self._kinds[schema_id] = _Kind(compile_decoder(schema), full_name(schema), fields(schema))
            return made

    def _named(self, agreement: str) -> Mapping[str, str]:
        """Full name of a delivery's schema -> dataset."""
        if agreement not in self._names:
            listed = {full_name(derive.delivery(one, agreement, [])): one.name for one in self._datasets.values()}
            self._names[agreement] = listed
        return self._names[agreement]
