"""Random Avro record schemas and values of them, and fastavro as the encoder."""

from __future__ import annotations

import io
import itertools
from typing import Any

import fastavro
from hypothesis import strategies as st

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
TEXT = st.text(st.characters(codec="utf-8"), max_size=90)
_counter = itertools.count()


def _named(what: dict[str, Any]) -> dict[str, Any]:
    return what | {"name": f"N{next(_counter)}"}


def types(depth: int = 2) -> st.SearchStrategy[Any]:
    """Any Avro type, nested up to `depth`."""
    plain: st.SearchStrategy[Any] = st.sampled_from(PRIMITIVES)
    enum = st.integers(1, 70).map(lambda n: _named({"type": "enum", "symbols": [f"S{i}" for i in range(n)]}))
    fixed = st.integers(0, 20).map(lambda n: _named({"type": "fixed", "size": n}))
    flat = st.one_of(plain, plain, plain, enum, fixed)
    if depth == 0:
        return flat
    below = types(depth - 1)
    return st.one_of(
        flat,
        flat,
        st.sampled_from([["null", "string"], ["null", "long"], ["null", "boolean"], ["string", "null"]]),
        below.map(lambda t: {"type": "array", "items": t}),
        below.map(lambda t: {"type": "map", "values": t}),
        st.lists(below, min_size=1, max_size=3).map(_union),
        records(depth - 1),
    )


def _union(branches: list[Any]) -> list[Any]:
    """Avro allows one branch of each unnamed type and no union directly in a union."""
    kept: dict[str, Any] = {"null": "null"}
    for branch in branches:
        if not isinstance(branch, list):
            kept.setdefault(branch if isinstance(branch, str) else branch.get("name", branch["type"]), branch)
    return list(kept.values())


def records(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    fields = st.lists(types(depth), min_size=0 if depth < 2 else 1, max_size=6)
    return fields.map(lambda ts: _named({"type": "record", "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(ts)]}))


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values of a schema without references."""
    if isinstance(schema, list):
        return st.one_of([_branch(s) for s in schema])
    kind = schema if isinstance(schema, str) else schema["type"]
    simple: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32, allow_nan=False),
        "double": st.floats(allow_nan=False),
        "bytes": st.binary(max_size=90),
        "string": TEXT,
    }
    if kind in simple:
        return simple[kind]
    if kind == "record":
        return st.fixed_dictionaries({f["name"]: values(f["type"]) for f in schema["fields"]})
    if kind == "enum":
        return st.sampled_from(schema["symbols"])
    if kind == "fixed":
        return st.binary(min_size=schema["size"], max_size=schema["size"])
    if kind == "array":
        return st.lists(values(schema["items"]), max_size=3)
    return st.dictionaries(TEXT, values(schema["values"]), max_size=3)


def _branch(schema: Any) -> st.SearchStrategy[Any]:
    """A union's value; fastavro wants the branch named where it cannot tell from the value."""
    if schema == "null":
        return st.none()
    name = schema if isinstance(schema, str) else schema.get("name", schema["type"])
    return values(schema).map(lambda v: (name, v))


def encode(schema: Any, value: Any) -> bytes:
    """`value` in Avro, by fastavro."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value, strict_allow_default=False)
    return out.getvalue()
