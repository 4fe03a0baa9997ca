"""What makes two schema texts the same schema: everything that Avro reads in them, whichever way it is written.

Keys in another order, white space, a primitive type as "int" or {"type": "int"}, and a name with its namespace apart or before it
are the same schema. Documentation, defaults, aliases and foreign properties are part of it, as in Confluent's registry.
"""

from __future__ import annotations

import functools
import json
from typing import Any

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
NAMED = frozenset({"record", "error", "enum", "fixed"})
_MEMORY = 4_096
"""Texts whose identity is remembered; a bus has some hundreds."""


def identity(text: str) -> str:
    """Equal for two texts exactly when they are the same schema. Of what is not an Avro schema: its JSON, or the text itself."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    try:
        return json.dumps(normal(found), sort_keys=True, separators=(",", ":"))
    except (TypeError, KeyError, AttributeError):
        return json.dumps(found, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        return text


remembered = functools.lru_cache(_MEMORY)(identity)
"""The same, for texts that are stored: there are few, and they are compared again and again."""


def text_of(schema: Any) -> str:
    """The normal form as text: what is stored when a client asks for `normalize`."""
    return json.dumps(normal(schema), ensure_ascii=False, separators=(",", ":"))


def full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def split(schema: dict[str, Any], enclosing: str) -> tuple[str, str]:
    """(short name, namespace) of a named type's definition within an enclosing namespace ('' for none)."""
    name = schema["name"]
    if "." in name:
        space, _, short = name.rpartition(".")
        return short, space
    return name, schema.get("namespace", enclosing) or ""


def normal(schema: Any, enclosing: str = "") -> Any:
    """One way to write a parsed schema. Raises TypeError, KeyError or AttributeError for what is no schema, RecursionError."""
    if isinstance(schema, str):
        return schema if schema in PRIMITIVES else full_name(schema, enclosing)
    if isinstance(schema, list):
        return [normal(one, enclosing) for one in schema]
    kind = schema["type"]
    if len(schema) == 1:  # {"type": X} is X
        return normal(kind, enclosing)
    if isinstance(kind, str) and kind in NAMED:
        return _definition(schema, enclosing)
    rest = {key: value for key, value in schema.items() if key not in ("type", "items", "values")}
    made = {"type": kind if kind in ("array", "map") else normal(kind, enclosing)} if isinstance(kind, str) else {}
    made = made or {"type": normal(kind, enclosing)}
    return made | {key: normal(schema[key], enclosing) for key in ("items", "values") if key in schema} | _sorted(rest)


def _definition(schema: dict[str, Any], enclosing: str) -> dict[str, Any]:
    short, space = split(schema, enclosing)
    made: dict[str, Any] = {"type": schema["type"], "name": short}
    if space or enclosing:
        made["namespace"] = space
    rest = {key: value for key, value in schema.items() if key not in ("type", "name", "namespace", "fields")}
    if "fields" in schema:
        made["fields"] = [_field(one, space) for one in schema["fields"]]
    return made | _sorted(rest)


def _field(field: dict[str, Any], space: str) -> dict[str, Any]:
    rest = {key: value for key, value in field.items() if key not in ("name", "type")}
    return {"name": field["name"], "type": normal(field["type"], space)} | _sorted(rest)


def _sorted(rest: dict[str, Any]) -> dict[str, Any]:
    return {key: rest[key] for key in sorted(rest)}
