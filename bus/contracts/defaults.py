"""Default values: JSON in a schema that stands for a value of the field's type (Avro 1.12, 'Complex Types', 'Records').

A union's default is a value of its first branch. Newer Java versions accept any branch; other readers still take the first,
so a schema that relies on the difference is refused (confluentinc/schema-registry#4112).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Named = Mapping[str, dict[str, Any]]
"""Full name -> plain definition."""
_LATIN = 255


def misfit(default: Any, avro_type: Any, named: Named) -> str:
    """Why `default` is no value of the plain type `avro_type`, as the rest of a sentence; '' when it is one."""
    if isinstance(avro_type, list):
        reason = misfit(default, avro_type[0], named)
        if reason and any(not misfit(default, branch, named) for branch in avro_type[1:]):
            return f"{reason}; a union's default belongs to its first type: put that type first"
        return reason
    if isinstance(avro_type, str) and avro_type in _PRIMITIVE:
        fits, words = _PRIMITIVE[avro_type]
        return "" if fits(default) else f"is not {words}"
    definition = named[avro_type] if isinstance(avro_type, str) else avro_type
    return _COMPLEX[definition["type"]](default, definition, named)


Owner = tuple[str, str]
"""(record, field)."""


def endless(start: Owner, owned: Mapping[Owner, dict[str, Any]], named: Named) -> bool:
    """Whether writing out the default of `start`, with the defaults of whatever it leaves out, comes to `start` again.

    `owned`: every field with a default.
    """
    ahead, seen = [start], set[Owner]()
    while ahead:
        field = owned[ahead.pop()]
        for owner in _left_out(field["default"], field["type"], named):
            if owner == start:
                return True
            if owner not in seen:
                seen.add(owner)
                ahead.append(owner)
    return False


def _left_out(default: Any, avro_type: Any, named: Named) -> Iterator[Owner]:
    """The fields that a fitting default says nothing of, so that their own defaults stand for them."""
    if isinstance(avro_type, list):
        yield from _left_out(default, avro_type[0], named)
        return
    definition: Any = named.get(avro_type) if isinstance(avro_type, str) else avro_type
    kind = definition["type"] if definition else ""
    if kind in ("array", "map"):
        inner = definition["items" if kind == "array" else "values"]
        for item in default if kind == "array" else default.values():
            yield from _left_out(item, inner, named)
    elif kind == "record":
        for field in definition["fields"]:
            if field["name"] in default:
                yield from _left_out(default[field["name"]], field["type"], named)
            else:
                yield definition["name"], field["name"]


def value(default: Any, avro_type: Any, named: Named) -> Any:
    """The value that a fitting default stands for, as fastavro takes it."""
    if isinstance(avro_type, list):
        return value(default, avro_type[0], named)
    definition: Any = named.get(avro_type, avro_type) if isinstance(avro_type, str) else avro_type
    kind = definition if isinstance(definition, str) else definition["type"]
    if kind in ("bytes", "fixed"):
        return default.encode("latin-1")
    if kind == "array":
        return [value(item, definition["items"], named) for item in default]
    if kind == "map":
        return {key: value(item, definition["values"], named) for key, item in default.items()}
    if kind == "record":
        return {
            f["name"]: value(default[f["name"]] if f["name"] in default else f["default"], f["type"], named)
            for f in definition["fields"]
        }
    return default


def _whole(bits: int) -> Callable[[Any], bool]:
    return lambda d: isinstance(d, int) and not isinstance(d, bool) and -(2 ** (bits - 1)) <= d < 2 ** (bits - 1)


def _number(default: Any) -> bool:
    return isinstance(default, int | float) and not isinstance(default, bool)


def _latin(default: Any) -> bool:
    return isinstance(default, str) and all(ord(c) <= _LATIN for c in default)


_PRIMITIVE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "null": (lambda d: d is None, "null"),
    "boolean": (lambda d: isinstance(d, bool), "true or false"),
    "int": (_whole(32), "a whole number of 32 bits"),
    "long": (_whole(64), "a whole number of 64 bits"),
    "float": (_number, "a number"),
    "double": (_number, "a number"),
    "bytes": (_latin, "a text of the characters U+0000 to U+00FF, one for each byte"),
    "string": (lambda d: isinstance(d, str), "a text"),
}


def _fixed(default: Any, definition: dict[str, Any], _: Named) -> str:
    size = definition["size"]
    return "" if _latin(default) and len(default) == size else f"is not a text of {size} characters, one for each byte"


def _enum(default: Any, definition: dict[str, Any], _: Named) -> str:
    return "" if default in definition["symbols"] else "is not one of the enum's symbols"


def _array(default: Any, definition: dict[str, Any], named: Named) -> str:
    if not isinstance(default, list):
        return "is not a list"
    return next((f"has an item that {r}" for item in default if (r := misfit(item, definition["items"], named))), "")


def _map(default: Any, definition: dict[str, Any], named: Named) -> str:
    if not isinstance(default, dict):
        return "is not an object"
    return next((f"has a value that {r}" for item in default.values() if (r := misfit(item, definition["values"], named))), "")


def _record(default: Any, definition: dict[str, Any], named: Named) -> str:
    if not isinstance(default, dict):
        return "is not an object"
    for field in definition["fields"]:
        name = field["name"]
        if name in default:
            if reason := misfit(default[name], field["type"], named):
                return f"has a field {name!r} that {reason}"
        elif "default" not in field:
            return f"lacks the field {name!r}, which has no default of its own"
    return ""


_COMPLEX: dict[str, Callable[[Any, dict[str, Any], Named], str]] = {
    "fixed": _fixed,
    "enum": _enum,
    "array": _array,
    "map": _map,
    "record": _record,
}
