"""A schema as somebody hands it in, checked against the Avro 1.12 specification and brought to one plain form.

The plain form is JSON that the Apache `avro` package and fastavro both read in the same sense: full names everywhere, named types
defined where they first stand (those of referenced schemas too), nothing but what decides how bytes are read. Two departures
from the text: an `error` is a record, and every name stands under the namespace `ROOT`, for neither package keeps a type without
namespace apart once it stands inside a type that has one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bus.avro.dataset import SchemaError
from bus.avro.types import PRIMITIVES, qualified
from bus.contracts.defaults import Defaults

ROOT = "_root"
MAX_DEPTH = 60
"""Types inside types. Deeper schemas are refused: both packages recurse."""
MAX_TYPES = 5_000
MAX_SYMBOLS = 5_000
MAX_FIXED = 1_000_000
"""Bytes. Values of a fixed are written to prove a verdict."""
MAX_BRANCHES = 64
"""Of a union: which type reads which is tried pair by pair."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ORDERS = ("ascending", "descending", "ignore")


class InvalidSchema(SchemaError):
    """A text that is no Avro schema. `place`: JSON pointer into it; `reason`: what is wrong there and what would be right."""

    def __init__(self, place: str, reason: str) -> None:
        self.place = place or "/"
        self.reason = reason
        super().__init__(f"invalid schema at {self.place}: {reason}")


@dataclass(frozen=True, slots=True)
class Parsed:
    """`plain`: the plain form, self-contained."""

    plain: Any


def parse(schema: Any, references: Sequence[Any] = ()) -> Parsed:
    """`schema` as JSON text or parsed JSON; `references`: schemas whose named types it may use, each after those it uses itself.

    Raises InvalidSchema with the first thing that is wrong; a wrong reference has the place 'references/<index>…'.
    """
    reading = _Reading()
    try:
        for index, reference in enumerate(references):
            reading.type(_json(reference), "", f"references/{index}", 0)
        read = reading.type(_json(schema), "", "", 0)
        reading.check_defaults()
        return Parsed(_Inlining(reading.found).type(read))
    except RecursionError:  # in JSON that is no part of a type
        raise InvalidSchema("", f"types inside types: more than {MAX_DEPTH}") from None


def shown(name: str) -> str:
    """A name of the plain form as its author wrote it; also for texts that hold such names."""
    return name.replace(f"{ROOT}.", "")


def _json(schema: Any) -> Any:
    if isinstance(schema, str) and schema.strip() in PRIMITIVES:
        return schema.strip()  # what some clients send for a primitive schema
    try:
        found = json.loads(schema, parse_constant=_no_constant) if isinstance(schema, str) else schema
    except ValueError as error:
        raise InvalidSchema("", f"not JSON: {error}") from None
    if reason := unwritable(found):
        raise InvalidSchema("", reason)
    return found


def unwritable(found: Any) -> str:
    """Why parsed JSON cannot be written down for others, though Python has read it; '' when it can. Raises RecursionError."""
    try:
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair, which is no character"
    except ValueError:
        return "it holds NaN or Infinity, or a number so large that it is read as that: none is a JSON number"
    return ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


class _Reading:
    """One pass over the schemas; `found` has their named types by full name, as they are read."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._types = 0
        self._defaults: list[tuple[str, str, dict[str, Any]]] = []
        """(place, name of the record, field) of each default: they are checked when every type is known."""

    def check_defaults(self) -> None:
        looking = Defaults(self.found)
        for place, _, field in self._defaults:
            if reason := looking.misfit(field["default"], field["type"]):
                raise InvalidSchema(place, f"the default of field {field['name']!r} {reason}")
        owned = {(record, field["name"]): field for _, record, field in self._defaults}
        if owner := looking.endless(owned):
            place = next(place for place, record, field in self._defaults if (record, field["name"]) == owner)
            raise InvalidSchema(place, f"the default of field {owner[1]!r} contains itself without end")

    def type(self, schema: Any, space: str, place: str, depth: int) -> Any:
        """The plain form, with full names for named types that are defined elsewhere."""
        self._types += 1
        if depth > MAX_DEPTH or self._types > MAX_TYPES:
            raise InvalidSchema(place, f"types inside types: more than {MAX_DEPTH}, or more than {MAX_TYPES:,} types")
        if isinstance(schema, list):
            return self._union(schema, space, place, depth)
        if isinstance(schema, str):
            return self._named(schema, space, place)
        if not isinstance(schema, dict):
            raise InvalidSchema(place, "a type is a name, an object or a list of types (a union)")
        what = schema.get("type")
        if what in ("record", "error"):
            return self._record(schema, space, place, depth)
        if what == "enum":
            return self._enum(schema, space, place)
        if what == "fixed":
            return self._fixed(schema, space, place)
        if what == "array":
            return {"type": "array", "items": self._inner(schema, "items", space, place, depth)}
        if what == "map":
            return {"type": "map", "values": self._inner(schema, "values", space, place, depth)}
        if what is None:
            raise InvalidSchema(place, "'type' is missing")
        return self.type(what, space, f"{place}/type", depth + 1)

    def _inner(self, schema: dict[str, Any], key: str, space: str, place: str, depth: int) -> Any:
        if key not in schema:
            raise InvalidSchema(place, f"'{key}' is missing")
        return self.type(schema[key], space, f"{place}/{key}", depth + 1)

    def _named(self, name: str, space: str, place: str) -> Any:
        if name in PRIMITIVES:
            return name
        if (full := _full(name, space)) in self.found:
            return full
        raise InvalidSchema(place, f"unknown type {name!r}: define it, or add the schema that does to the references")

    def _union(self, schema: list[Any], space: str, place: str, depth: int) -> Any:
        branches = []
        kinds: set[str] = set()
        for index, one in enumerate(schema):
            here = f"{place}/{index}"
            branch = self.type(one, space, here, depth + 1)
            if isinstance(branch, list):
                raise InvalidSchema(here, "a union stands directly inside a union: list its types here")
            what = branch if isinstance(branch, str) else branch.get("name", branch["type"])
            if what in kinds:
                raise InvalidSchema(here, f"{shown(what)!r} stands twice in this union: a reader could not tell them apart")
            kinds.add(what)
            branches.append(branch)
        if len(branches) > MAX_BRANCHES:
            raise InvalidSchema(place, f"a union of more than {MAX_BRANCHES} types")
        if not branches:
            raise InvalidSchema(place, "a union of nothing: list at least one type")
        return branches

    def _record(self, schema: dict[str, Any], space: str, place: str, depth: int) -> Any:
        made, inside = self._define(schema, space, place, "record")
        listed = schema.get("fields")
        if not isinstance(listed, list):
            raise InvalidSchema(place, "a record needs 'fields', a list")
        made["fields"] = fields = []
        known: set[str] = set()
        for index, field in enumerate(listed):
            here = f"{place}/fields/{index}"
            fields.append(self._field(field, made["name"], inside, here, depth))
            if fields[-1]["name"] in known:
                raise InvalidSchema(here, f"the record has a field {fields[-1]['name']!r} already")
            known.add(fields[-1]["name"])
        return made

    def _field(self, field: Any, record: str, space: str, place: str, depth: int) -> dict[str, Any]:
        if not isinstance(field, dict) or "type" not in field:
            raise InvalidSchema(place, "a field is an object with 'name' and 'type'")
        made: dict[str, Any] = {"name": _name(field.get("name"), f"{place}/name")}
        made["type"] = self.type(field["type"], space, f"{place}/type", depth + 1)
        if field.get("order", "ascending") not in _ORDERS:
            raise InvalidSchema(f"{place}/order", f"'order' is one of {', '.join(_ORDERS)}")
        if aliases := _aliases(field, place):
            made["aliases"] = [_name(a, f"{place}/aliases") for a in aliases]
        if "default" in field:
            made["default"] = field["default"]
            self._defaults.append((f"{place}/default", record, made))
        return made

    def _enum(self, schema: dict[str, Any], space: str, place: str) -> Any:
        made, _ = self._define(schema, space, place, "enum")
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise InvalidSchema(place, "an enum needs 'symbols', a list of at least one name")
        if len(symbols) > MAX_SYMBOLS:
            raise InvalidSchema(f"{place}/symbols", f"more than {MAX_SYMBOLS:,} symbols")
        made["symbols"] = [_name(s, f"{place}/symbols/{i}") for i, s in enumerate(symbols)]
        if twice := sorted(symbol for symbol, count in Counter(symbols).items() if count > 1):
            raise InvalidSchema(f"{place}/symbols", f"the symbol {twice[0]!r} stands twice")
        if schema.get("default") is not None:
            if schema["default"] not in symbols:
                raise InvalidSchema(f"{place}/default", "the enum's default is not one of its symbols")
            made["default"] = schema["default"]
        return made

    def _fixed(self, schema: dict[str, Any], space: str, place: str) -> Any:
        made, _ = self._define(schema, space, place, "fixed")
        size = schema.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidSchema(place, "a fixed needs 'size', a whole number of bytes")
        if size > MAX_FIXED:
            raise InvalidSchema(
                f"{place}/size", f"a fixed of more than {MAX_FIXED:,} bytes: use bytes, whose values are as long as they are"
            )
        made["size"] = size
        return made

    def _define(self, schema: dict[str, Any], space: str, place: str, kind: str) -> tuple[dict[str, Any], str]:
        """The definition's beginning, known by its name from here on; and the namespace that holds inside it."""
        name, given = schema.get("name"), schema.get("namespace")
        if not isinstance(name, str) or not isinstance(given, str | None):
            raise InvalidSchema(place, f"the name of this {kind} is missing, or it or the namespace is no text")
        full = qualified(name, space if given is None else given)
        for part in full.split("."):
            _name(part, f"{place}/name")
        if name in PRIMITIVES:
            raise InvalidSchema(f"{place}/name", f"{name!r} is the name of a primitive type")
        inside = full.rpartition(".")[0]
        key = _full(full, "")
        if key in self.found:
            raise InvalidSchema(f"{place}/name", f"the name {full!r} is defined twice")
        made: dict[str, Any] = {"type": kind, "name": key}
        if aliases := _aliases(schema, place):
            made["aliases"] = [_full(a, inside) for a in aliases]
        self.found[key] = made
        return made, inside


class _Inlining:
    """Puts the definition of each named type where it is first used, so that a schema with references stands alone."""

    def __init__(self, found: dict[str, dict[str, Any]]) -> None:
        self._found = found
        self._defined: set[str] = set()

    def type(self, schema: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise InvalidSchema("", f"types inside types, those of references among them: more than {MAX_DEPTH}")
        if isinstance(schema, list):
            return [self.type(s, depth + 1) for s in schema]
        if isinstance(schema, str):
            if schema in PRIMITIVES or schema in self._defined:
                return schema
            schema = self._found[schema]
        if (name := schema.get("name")) in self._defined:
            return name
        if name:
            self._defined.add(name)
        made = dict(schema)
        if "fields" in made:
            made["fields"] = [f | {"type": self.type(f["type"], depth + 1)} for f in made["fields"]]
        for key in ("items", "values"):
            if key in made:
                made[key] = self.type(made[key], depth + 1)
        return made


def _full(name: str, space: str) -> str:
    return f"{ROOT}.{qualified(name, space)}"


def _name(name: Any, place: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSchema(place, f"{name!r} is no Avro name: letters a-z, digits and underscores, not beginning with a digit")
    return name


def _aliases(schema: dict[str, Any], place: str) -> list[str]:
    found = schema.get("aliases", [])
    if not isinstance(found, list) or not all(isinstance(a, str) for a in found):
        raise InvalidSchema(f"{place}/aliases", "'aliases' is a list of names")
    return found
