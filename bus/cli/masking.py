"""Decoded events as an operator may see them: personal fields masked, by what the schemas say, and by suspicion elsewhere.

The walk follows the writer's schema. Rows of a dataset show the columns without a `pii` tag. Granted fields of a delivery show
where their dataset's column of that name has none. Of the bus's own records everything is shown but bytes, which are
abbreviated. Anything else, be it a field or a record nobody here knows, is masked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bus.avro.dataset import Dataset
from bus.avro.derive import NAMESPACE

MASK = "***"
KEY_DIGITS = 4
_REGISTER = "register_"
_DATA = re.compile(re.escape(NAMESPACE) + r"\.agency\..+\.([^.]+)\.Data")
_OWN = re.compile(re.escape(NAMESPACE) + r"\.(?:[A-Za-z]+|(?:change|verified|agency)\..+\.(?:Change|Verified|Delivery))")
_JSON_TOPICS = ("bus.agreements", "bus.positions", "bus.lanes", "bus.redriven", "_schemas")
"""Topics whose JSON holds no personal data."""
_HEADERS = re.compile(r"x-[a-z-]+")
_PLACES = re.compile(r"kafka_dlt-original-(partition|offset|timestamp)")
_TEXTS = ("kafka_dlt-original-topic",)


def key_text(key: bytes | None) -> str:
    """The first four hexadecimal digits: enough to see that two keys differ, too little to look anybody up."""
    return "-" if key is None else key[: KEY_DIGITS // 2].hex() + "…"


def headers(found: list[tuple[str, Any]] | None) -> dict[str, str]:
    """The bus's own headers as text, others masked."""
    return {name: _shown(name, value) for name, value in found or ()}


def _shown(name: str, value: Any) -> str:
    if _PLACES.fullmatch(name) and isinstance(value, bytes):
        return str(int.from_bytes(value, "big", signed=True))
    return _header(value) if _HEADERS.fullmatch(name) or name in _TEXTS else MASK


def _header(value: Any) -> str:
    return value.decode("utf-8", "replace")[:100] if isinstance(value, bytes) else MASK


def json_value(topic: str, value: Any) -> Any:
    """A JSON value: as it is from the bus's own topics, with every text masked from others."""
    return value if topic in _JSON_TOPICS else _suspect(value)


class Masker:
    """Masks values of the datasets in `datasets` (name -> Dataset), decoded by fastavro."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        register = next((d for d in datasets.values() if d.register), None)
        self._rows = {f"{NAMESPACE}.{d.domain}.{d.table}": _open(d) for d in datasets.values()}
        self._granted = {f"{d.domain}_{d.table}": _open(d) for d in datasets.values()}
        self._register = frozenset(_REGISTER + name for name in _open(register)) if register else frozenset[str]()

    def mask(self, value: Any, schema: Any) -> Any:
        """`value` as decoded by the writer's `schema` (parsed JSON), masked, with bytes as hexadecimal text."""
        return self._walk(value, schema, {}, shown=True)

    def _walk(self, value: Any, schema: Any, named: dict[str, Any], shown: bool) -> Any:
        if isinstance(schema, list):
            return None if value is None else self._walk(value, _branch(schema, value), named, shown)
        if isinstance(schema, str):
            return self._walk(value, named[schema], named, shown) if schema in named else _leaf(value, shown)
        kind = schema["type"]
        if kind == "array":
            return [self._walk(item, schema["items"], named, shown) for item in value]
        if kind == "record":
            return self._record(value, schema, named, shown)
        if isinstance(kind, dict | list):
            return self._walk(value, kind, named, shown)
        if kind in ("fixed", "enum"):
            named[_full_name(schema)] = schema
        return _leaf(value, shown and kind != "map")

    def _record(self, value: dict[str, Any], schema: dict[str, Any], named: dict[str, Any], shown: bool) -> dict[str, Any]:
        name = _full_name(schema)
        named[name] = schema
        fields = {f["name"]: f["type"] for f in schema["fields"]}
        allowed = self._allowed(name, fields) if shown else frozenset[str]()
        return {field: self._walk(value[field], fields[field], named, field in allowed) for field in fields}

    def _allowed(self, name: str, fields: Mapping[str, Any]) -> frozenset[str]:
        if name in self._rows:
            return self._rows[name]
        if granted := _DATA.fullmatch(name):
            return self._granted.get(granted[1], frozenset()) | self._register
        return frozenset(fields) if _OWN.fullmatch(name) else frozenset()


def _open(dataset: Dataset) -> frozenset[str]:
    return frozenset(dataset.fields) - dataset.personal()


def _full_name(schema: Mapping[str, Any]) -> str:
    name, namespace = str(schema["name"]), schema.get("namespace")
    return f"{namespace}.{name}" if namespace and "." not in name else name


def _branch(union: list[Any], value: Any) -> Any:
    """The union's branch that holds `value`; where it is not plain which, one under which everything is masked."""
    others = [branch for branch in union if branch != "null"]
    if len(others) == 1:
        return others[0]
    return (
        {"type": "record", "name": "Unknown", "fields": [{"name": n, "type": "string"} for n in value]}
        if isinstance(value, dict)
        else "bytes"
    )


def _leaf(value: Any, shown: bool) -> Any:
    if value is None:
        return None
    if not shown or isinstance(value, dict | list):
        return MASK
    if isinstance(value, bytes):
        return key_text(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _suspect(value: Any) -> Any:
    if isinstance(value, dict):
        return {name if name.isidentifier() else MASK: _suspect(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_suspect(item) for item in value]
    return value if value is None or isinstance(value, bool) else MASK
