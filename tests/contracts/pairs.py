"""Random pairs of schemas that resemble each other: one is the other after a few changes, good and bad ones."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
NAMES = ("A", "B", "C", "n.A", "n.m.B")
FIELDS = ("a", "b", "c", "d")
SYMBOLS = ("P", "Q", "R", "S")
DEFAULTS: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True],
    "int": [0, 7],
    "long": [1],
    "float": [1, 0.5],
    "double": [0.5],
    "bytes": ["", "ÿ"],
    "string": ["", "x"],
    "array": [[]],
    "map": [{}],
}
ODD: list[Any] = [None, 0, 2**40, "x", [], {}, True, 0.5]


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    """A record of few names, so that changed schemas meet themselves again."""
    return _Schemas(draw).record(2)


class _Schemas:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._used: set[str] = set()

    def _pick(self, options: Any) -> Any:
        return self._draw(st.sampled_from(options))

    def _name(self) -> str | None:
        free = [n for n in NAMES if n not in self._used]
        if not free:
            return None
        name: str = self._pick(free)
        self._used.add(name)
        return name

    def type(self, depth: int, in_union: bool = False) -> Any:
        kinds = ["primitive"] * 3 + ["enum", "fixed", "reference"]
        if depth:
            kinds += ["array", "map", "record"] + ([] if in_union else ["union"] * 2)
        kind = self._pick(kinds)
        if kind == "reference" and self._used:
            return self._pick(sorted(self._used))
        if kind in ("enum", "fixed", "record"):
            return self._named(kind, depth)
        if kind == "array":
            return {"type": "array", "items": self.type(depth - 1)}
        if kind == "map":
            return {"type": "map", "values": self.type(depth - 1)}
        if kind == "union":
            return self._union(depth)
        return self._pick(PRIMITIVES)

    def _named(self, kind: str, depth: int) -> Any:
        if kind == "record":
            return self.record(depth - 1)
        name = self._name()
        if name is None:
            return self._pick(PRIMITIVES)
        if kind == "fixed":
            return {"type": "fixed", "name": name, "size": self._draw(st.integers(1, 3))}
        symbols = self._draw(st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=3, unique=True))
        made = {"type": "enum", "name": name, "symbols": symbols}
        return made | {"default": symbols[0]} if self._draw(st.booleans()) else made

    def _union(self, depth: int) -> Any:
        kept: dict[str, Any] = {}
        for _ in range(self._draw(st.integers(1, 3))):
            branch = self.type(depth - 1, in_union=True)
            kept.setdefault(branch if isinstance(branch, str) else branch.get("name", branch["type"]), branch)
        return list(kept.values())

    def record(self, depth: int) -> Any:
        name = self._name()
        if name is None:
            return "string"
        fields = []
        for field in self._draw(st.lists(st.sampled_from(FIELDS), max_size=3, unique=True)):
            made = {"name": field, "type": self.type(depth)}
            given: bool = self._draw(st.booleans())
            if given and (fitting := _fitting(made["type"])):
                made["default"] = self._pick(fitting)
            fields.append(made)
        return {"type": "record", "name": name, "fields": fields}


def _fitting(avro_type: Any) -> list[Any]:
    if isinstance(avro_type, list):
        return _fitting(avro_type[0])
    if isinstance(avro_type, dict) and avro_type["type"] == "enum":
        return list(avro_type["symbols"])
    return DEFAULTS.get(avro_type if isinstance(avro_type, str) else avro_type["type"], [])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """(reader, writer). Some are no valid schemas."""
    first = draw(schemas())
    second = copy.deepcopy(first)
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, second)
    return (first, second) if draw(st.booleans()) else (second, first)


def nodes(schema: Any) -> list[dict[str, Any]]:
    """Every object in it: definitions and fields."""
    found: list[dict[str, Any]] = []
    ahead = [schema]
    while ahead:
        one = ahead.pop()
        if isinstance(one, list):
            ahead.extend(one)
        elif isinstance(one, dict):
            found.append(one)
            ahead.extend(v for k, v in one.items() if k in ("type", "items", "values", "fields"))
    return found


def _change(draw: st.DrawFn, schema: Any) -> None:
    found = nodes(schema)
    if not found:
        return
    node = draw(st.sampled_from(found))
    if "fields" in node:
        _change_record(draw, node)
    elif "symbols" in node:
        node["symbols"] = draw(st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=4, unique=True))
        node.pop("default", None)
        if draw(st.booleans()):
            node["default"] = draw(st.sampled_from(SYMBOLS))
    elif "size" in node:
        node["size"] = draw(st.integers(1, 3))
    elif "name" in node:
        _change_field(draw, node)


def _change_record(draw: st.DrawFn, record: dict[str, Any]) -> None:
    what = draw(st.sampled_from(["add", "remove", "rename", "alias", "order"]))
    fields = record["fields"]
    if what == "add":
        made = {"name": draw(st.sampled_from(FIELDS)), "type": draw(st.sampled_from(PRIMITIVES))}
        if draw(st.booleans()):
            made["default"] = draw(st.sampled_from(DEFAULTS[made["type"]]))
        fields.append(made)
    elif what == "remove" and fields:
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    elif what == "order":
        fields.reverse()
    elif what == "rename":
        record["name"] = draw(st.sampled_from(NAMES))
    else:
        record["aliases"] = [draw(st.sampled_from(NAMES))]


def _change_field(draw: st.DrawFn, field: dict[str, Any]) -> None:
    what = draw(st.sampled_from(["type", "widen", "narrow", "default", "odd", "rename", "alias"]))
    if what == "type":
        field["type"] = draw(st.sampled_from(PRIMITIVES))
        field.pop("default", None)
    elif what == "widen" and not isinstance(field["type"], list):
        field["type"] = draw(st.permutations(["null", field["type"]])) if field["type"] != "null" else ["null", "int"]
        field.pop("default", None)
    elif what == "narrow" and isinstance(field["type"], list):
        field["type"] = draw(st.sampled_from(field["type"]))
        field.pop("default", None)
    elif what == "default":
        field.pop("default", None)
    elif what == "odd":
        field["default"] = draw(st.sampled_from(ODD))
    elif what == "rename":
        field["name"] = draw(st.sampled_from(FIELDS))
    elif what == "alias":
        field["aliases"] = [draw(st.sampled_from(FIELDS))]
