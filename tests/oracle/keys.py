"""The keys that the contracts promise, computed once more from their description."""

from __future__ import annotations

import hashlib
import hmac
import io
import struct
from collections.abc import Mapping
from typing import Any

import fastavro

from bus.avro.dataset import Dataset
from tests.oracle.values import Row, bare


def _keyed(value: bytes, secret: bytes, person: bytes, size: int = 16) -> bytes:
    return hashlib.blake2b(value, key=secret, digest_size=size, person=person).digest()


def event_id(source: Mapping[str, Any]) -> bytes:
    """16 bytes from the position."""
    seed = struct.pack(">QQQI", source["system_id"], source["lsn"], source["xid"], source["ordinal"])
    return hashlib.blake2b(seed + source["db"].encode(), digest_size=16, person=b"bus.event").digest()


def person_key(secret: bytes, pin: str) -> bytes:
    return hmac.new(secret, pin.encode(), hashlib.sha256).digest()[:16]


def agreement_secret(master: bytes, agreement: str) -> bytes:
    return _keyed(agreement.encode(), master, b"bus.agreement", 32)


def pseudonym(secret: bytes, value: bytes) -> bytes:
    return _keyed(value, secret, b"bus.pseudonym")


class Keys:
    """Message keys of one dataset's rows: the person key of the subject, or the row's own where there is none."""

    def __init__(self, dataset: Dataset, secret: bytes) -> None:
        self._secret = secret
        self._head = dataset.name.encode() + b"\0"
        self._pin = dataset.people[0].pin if dataset.people else None
        kinds = dataset.fields
        self._key = [(c, _decimal(kinds[c]), fastavro.parse_schema(bare(kinds[c]))) for c in dataset.primary_key]
        self._people: dict[str, bytes] = {}

    def of(self, row: Row) -> bytes:
        pin = row.get(self._pin) if self._pin else None
        if not pin:
            return self.row_key(row)
        found = self._people.get(pin)
        if found is None:
            found = self._people[pin] = person_key(self._secret, pin)
        return found

    def row_key(self, row: Row) -> bytes:
        out = io.BytesIO()
        for column, decimal, schema in self._key:
            value = row[column]
            if decimal:
                value = value.to_bytes((value + (value < 0)).bit_length() // 8 + 1, "big", signed=True)
            fastavro.schemaless_writer(out, schema, value)
        return _keyed(self._head + out.getvalue(), self._secret, b"bus.row")


def _decimal(kind: Any) -> bool:
    concrete = next(k for k in kind if k != "null") if isinstance(kind, list) else kind
    return isinstance(concrete, dict) and concrete.get("logicalType") == "decimal"
