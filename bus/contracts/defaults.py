"""Default values: JSON in a schema that stands for a value of the field's type (Avro 1.12, 'Complex Types', 'Records').

A union's default is a value of its first branch. Newer Java versions accept any branch; other readers still take the first,
so a schema that relies on the difference is refused (confluentinc/schema-registry#4112).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Named = Mapping[str, dict[str, Any]]
"""Full name -> plain definition."""
Owner = tuple[str, str]
"""(record, field)."""
_Rest = tuple[str, frozenset[str]]
"""(record, names that a default of it says): what it leaves out, so that the fields' own defaults stand for it."""
MAX_NESTING = 60
"""Values inside values, in one default."""
_LATIN = "\u00ff"
_MAX_FLOAT, _MAX_DOUBLE = float.fromhex("0x1.fffffep127"), float.fromhex("0x1.fffffffffffffp1023")


class Defaults:
    """The defaults of one schema. What is looked at must not change, nor be given up, while this is in use.

    Each value is held against each type once, and each record's rest is followed once, so that the work is at most the product
    of what the schema says, however deep values and types refer to each other.
    """

    def __init__(self, named: Named) -> None:
        self._named = named
        self._known: dict[tuple[int, str | int], str] = {}
        """(value, type) -> reason. By identity: a value is a place in the schema's JSON."""
        self._records: dict[str, tuple[dict[str, Any], list[str]]] = {}
        self._symbols: dict[str, frozenset[str]] = {}

    def misfit(self, default: Any, avro_type: Any, depth: int = 0) -> str:
        """Why `default` is no value of the plain type `avro_type`, as the rest of a sentence; '' when it is one."""
        if isinstance(avro_type, str) and avro_type in _PRIMITIVE:
            fits, words = _PRIMITIVE[avro_type]
            return "" if fits(default) else f"is not {words}"
        if depth > MAX_NESTING:
            return f"holds values inside values, more than {MAX_NESTING}"
        known = avro_type if isinstance(avro_type, str) else avro_type.get("name") if isinstance(avro_type, dict) else None
        key = id(default), known or id(avro_type)
        if key not in self._known:
            self._known[key] = self._look(default, avro_type, depth)
        return self._known[key]

    def _look(self, default: Any, avro_type: Any, depth: int) -> str:
        if isinstance(avro_type, list):
            reason = self.misfit(default, avro_type[0], depth)
            if reason and any(not self.misfit(default, branch, depth) for branch in avro_type[1:]):
                return f"{reason}; a union's default belongs to its first type: put that type first"
            return reason
        definition = self._named[avro_type] if isinstance(avro_type, str) else avro_type
        match definition["type"]:
            case "fixed":
                size = definition["size"]
                fits = isinstance(default, str) and len(default) == size and _latin(default)
                return "" if fits else f"is not a text of {size} characters, one for each byte"
            case "enum":
                fits = isinstance(default, str) and default in self._symbols_of(definition)
                return "" if fits else "is not one of the enum's symbols"
            case "array":
                return self._items(default, definition, depth)
            case "map":
                return self._values(default, definition, depth)
        return self._record(default, definition, depth)

    def _items(self, default: Any, definition: dict[str, Any], depth: int) -> str:
        if not isinstance(default, list):
            return "is not a list"
        found = (self.misfit(item, definition["items"], depth + 1) for item in default)
        return next((f"has an item that {reason}" for reason in found if reason), "")

    def _values(self, default: Any, definition: dict[str, Any], depth: int) -> str:
        if not isinstance(default, dict):
            return "is not an object"
        found = (self.misfit(item, definition["values"], depth + 1) for item in default.values())
        return next((f"has a value that {reason}" for reason in found if reason), "")

    def _record(self, default: Any, definition: dict[str, Any], depth: int) -> str:
        if not isinstance(default, dict):
            return "is not an object"
        fields, required = self._fields_of(definition)
        for name in required:
            if name not in default:
                return f"lacks the field {name!r}, which has no default of its own"
        for name, given in default.items():
            if name in fields and (reason := self.misfit(given, fields[name], depth + 1)):
                return f"has a field {name!r} that {reason}"
        return ""

    def _fields_of(self, definition: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Field -> type, of a record; and the fields without a default."""
        name = definition["name"]
        if name not in self._records:
            fields = definition["fields"]
            required = [f["name"] for f in fields if "default" not in f]
            self._records[name] = {f["name"]: f["type"] for f in fields}, required
        return self._records[name]

    def _symbols_of(self, definition: dict[str, Any]) -> frozenset[str]:
        name = definition["name"]
        if name not in self._symbols:
            self._symbols[name] = frozenset(definition["symbols"])
        return self._symbols[name]

    def endless(self, owned: Mapping[Owner, dict[str, Any]]) -> Owner | None:
        """A field whose default, written out with the defaults of whatever it leaves out, comes to itself again.

        `owned`: every field with a default; each must fit. One search, depth first, for all of them.
        """
        done = set[Owner | _Rest]()
        for start in owned:
            if start in done:
                continue
            path: dict[Owner | _Rest, Iterator[Owner | _Rest]] = {start: self._ahead(start, owned)}
            while path:
                here, ahead = next(reversed(path.items()))
                further = next((one for one in ahead if one not in done), None)
                if further is None:
                    done.add(here)
                    del path[here]
                elif further in path:
                    return _first_owner([*path][[*path].index(further) :])
                else:
                    path[further] = self._ahead(further, owned)
        return None

    def _ahead(self, here: Owner | _Rest, owned: Mapping[Owner, dict[str, Any]]) -> Iterator[Owner | _Rest]:
        record, what = here
        if isinstance(what, str):
            yield from self._left_out(owned[record, what]["default"], owned[record, what]["type"])
            return
        for name in self._fields_of(self._named[record])[0]:
            if name not in what:
                yield record, name

    def _left_out(self, default: Any, avro_type: Any) -> Iterator[_Rest]:
        """What a fitting default says nothing of, in each record inside it."""
        if isinstance(avro_type, list):
            yield from self._left_out(default, avro_type[0])
            return
        definition: Any = self._named.get(avro_type) if isinstance(avro_type, str) else avro_type
        kind = definition["type"] if definition else ""
        if kind in ("array", "map"):
            inner = definition["items" if kind == "array" else "values"]
            for item in default if kind == "array" else default.values():
                yield from self._left_out(item, inner)
        elif kind == "record":
            yield definition["name"], frozenset(default)
            fields = self._fields_of(definition)[0]
            for name, given in default.items():
                if name in fields:
                    yield from self._left_out(given, fields[name])


def _first_owner(circle: list[Owner | _Rest]) -> Owner:
    """Of a circle, in which fields and rests of records take turns."""
    return next((record, what) for record, what in circle if isinstance(what, str))


def _whole(bits: int) -> Callable[[Any], bool]:
    return lambda d: isinstance(d, int) and not isinstance(d, bool) and -(2 ** (bits - 1)) <= d < 2 ** (bits - 1)


def _number(most: float) -> Callable[[Any], bool]:
    return lambda d: isinstance(d, int | float) and not isinstance(d, bool) and -most <= d <= most


def _latin(default: Any) -> bool:
    return isinstance(default, str) and max(default, default="") <= _LATIN


_PRIMITIVE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "null": (lambda d: d is None, "null"),
    "boolean": (lambda d: isinstance(d, bool), "true or false"),
    "int": (_whole(32), "a whole number of 32 bits"),
    "long": (_whole(64), "a whole number of 64 bits"),
    "float": (_number(_MAX_FLOAT), "a number of single precision"),
    "double": (_number(_MAX_DOUBLE), "a number of double precision"),
    "bytes": (_latin, "a text of the characters U+0000 to U+00FF, one for each byte"),
    "string": (lambda d: isinstance(d, str), "a text"),
}
