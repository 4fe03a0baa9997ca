"""Values that were written under an earlier schema of their topic, as values of today's.

Avro's schema resolution, for the few records that wait in a topic while a new schema is released: each is decoded and encoded
again, tens of microseconds a record. Whatever a logical type stands for is taken over as it lies, so that nothing is lost in
between; where the same field has another logical type now, the value is not resolved, for its bytes would mean something else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro

from bus.avro import frame
from bus.avro.catalogue import Catalogue
from bus.avro.frame import HEADER_BYTES, Malformed
from bus.avro.walker import compile_walker
from bus.core.outcome import DeadCode

Resolve = Callable[[bytes], bytes]
"""resolve(framed value) -> the same under today's schema. Raises Malformed: UNKNOWN_SCHEMA, OLD_SCHEMA, or as a walker does."""
_KEPT = ("type", "name", "namespace", "fields", "items", "values", "symbols", "default", "aliases", "size")
_LOGIC = ("logicalType", "precision", "scale")
Logic = dict[tuple[str, ...], set[tuple[Any, ...]]]


def compile_older(subject: str, today: Any, today_id: int, found: Catalogue) -> Resolve:
    """For the values of a subject's topic. `today`: its schema in use, as parsed JSON; `today_id`: its id."""
    texts = {entry.id: entry.schema for entry in found.every(subject) if entry.id != today_id}
    made: dict[int, Resolve | None] = {}
    header = frame.header(today_id)

    def resolve(value: bytes) -> bytes:
        number = frame.schema_id(value)
        if number not in texts:
            raise Malformed(DeadCode.UNKNOWN_SCHEMA)
        if number not in made:
            made[number] = _compile(texts[number], today, header)
        one = made[number]
        if one is None:
            raise Malformed(DeadCode.OLD_SCHEMA)
        return one(value)

    return resolve


def _compile(text: str, today: Any, header: bytes) -> Resolve | None:
    """None where no value of the old schema can be one of today's."""
    try:
        old = json.loads(text)
        if not _means_the_same(old, today):
            return None
        walk = compile_walker(old, (), start=HEADER_BYTES)
        writer, reader = (fastavro.parse_schema(_plain(schema)) for schema in (old, today))
    except Exception:  # whatever somebody registered: a schema that cannot be compiled resolves nothing
        return None

    def resolve(value: bytes) -> bytes:
        walk(value)
        try:
            found: Any = fastavro.schemaless_reader(io.BytesIO(value[HEADER_BYTES:]), writer, reader)
            out = io.BytesIO()
            fastavro.schemaless_writer(out, reader, found)
        except Exception:  # fastavro says "cannot be resolved" in many ways
            raise Malformed(DeadCode.OLD_SCHEMA) from None
        return header + out.getvalue()

    return resolve


def _plain(schema: Any) -> Any:
    """The schema without what gives bytes a meaning."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value for key, value in schema.items() if key in _KEPT}
    for key in ("type", "items", "values"):
        if key in made:
            made[key] = _plain(made[key])
    if "fields" in made:
        made["fields"] = [_plain(one) for one in made["fields"]]
    return made


def _means_the_same(old: Any, today: Any) -> bool:
    """Whether what is in both schemas stands for the same in both. A value may take any branch of a union that holds it, so
    branches of another meaning beside the right one are one too many."""
    before, now = _logic(old), _logic(today)
    return all(before[path] == now[path] for path in before.keys() & now.keys())


def _logic(schema: Any, path: tuple[str, ...] = (), into: Logic | None = None) -> Logic:
    """Path -> the logical types that a value there can have, () for none. A field is there under its aliases too: it reads what
    was written under them. A type's name stands for itself: it is looked at where it is defined."""
    found: Logic = {} if into is None else into
    if isinstance(schema, list):
        for one in schema:
            _logic(one, path, found)
    elif isinstance(schema, dict):
        kind = schema["type"]
        if kind == "record":
            for one in schema["fields"]:
                for name in (one["name"], *one.get("aliases", ())):
                    _logic(one["type"], (*path, name), found)
        elif kind in ("array", "map"):
            _logic(schema["items" if kind == "array" else "values"], (*path, "[]"), found)
        elif isinstance(kind, list | dict):
            _logic(kind, path, found)
        else:
            said = tuple(schema[key] for key in _LOGIC if key in schema)
            found.setdefault(path, set()).add(said)
    elif schema != "null":
        found.setdefault(path, set()).add(())
    return found
