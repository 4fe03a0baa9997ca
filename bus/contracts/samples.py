"""Values of a schema that between them take every way through it: each union branch, each enum symbol, empty lists and full ones.

They are made without chance, so a verdict that rests on them is the same every time.
"""

from __future__ import annotations

from typing import Any

from bus.contracts import defaults

MAX_SAMPLES = 400
"""Of one type. A type with more ways through it than that (an enum of thousands) is tried in part."""
MAX_VALUES = 20_000
"""Of one schema, parts of values included. Types that refer to each other may stand for more values than there are atoms; such a
schema has no samples."""
_MAX_INSIDE_ITSELF = 1
"""How often a recursive type stands inside itself before its samples avoid it."""
_VALUES: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True, False],
    "int": [0, 2**31 - 1, -(2**31)],
    "long": [0, 2**63 - 1, -(2**63)],
    "float": [0.0, -1.5],
    "double": [0.0, -1.5],
    "bytes": [b"", b"bytes"],
    "string": ["", "Nguyễn"],
}


def samples(plain: Any) -> list[Any]:
    """Values as fastavro takes them; none when the type has no finite value, or too many."""
    try:
        return _Samples(plain).of(plain)
    except _TooMany:
        return []


class _TooMany(Exception):
    """More than MAX_VALUES."""


class _Samples:
    def __init__(self, plain: Any) -> None:
        self._named = named_types(plain)
        self._inside: list[str] = []
        self._made = 0

    def of(self, avro_type: Any) -> list[Any]:
        self._count(1)
        if isinstance(avro_type, list):
            return [(_branch(b), v) for b in avro_type for v in self.of(b)][:MAX_SAMPLES]
        if isinstance(avro_type, str):
            if avro_type in _VALUES:
                return _VALUES[avro_type]
            avro_type = self._named[avro_type]
        match avro_type["type"]:
            case "enum":
                return list(avro_type["symbols"][:MAX_SAMPLES])
            case "fixed":
                return [b"f" * avro_type["size"]]
            case "array":
                return [[], items] if (items := self.of(avro_type["items"])) else [[]]
            case "map":
                items = self.of(avro_type["values"])
                return [{}, {f"key{i}": item for i, item in enumerate(items)}] if items else [{}]
        return self._record(avro_type)

    def _record(self, record: dict[str, Any]) -> list[Any]:
        if self._inside.count(record["name"]) > _MAX_INSIDE_ITSELF:
            return []
        self._inside.append(record["name"])
        columns = {f["name"]: self._field(f) for f in record["fields"]}
        self._inside.pop()
        if not all(columns.values()):
            return []
        count = max(map(len, columns.values()), default=1)
        self._count(count * len(columns))
        return [{name: values[i] if i < len(values) else values[0] for name, values in columns.items()} for i in range(count)]

    def _count(self, more: int) -> None:
        self._made += more
        if self._made > MAX_VALUES:
            raise _TooMany

    def _field(self, field: dict[str, Any]) -> list[Any]:
        found = self.of(field["type"])
        if "default" not in field or not found:
            return found
        made = defaults.value(field["default"], field["type"], self._named)
        first = field["type"][0] if isinstance(field["type"], list) else None
        return [*found[: MAX_SAMPLES - 1], made if first is None else (_branch(first), made)]


def named_types(plain: Any) -> dict[str, dict[str, Any]]:
    """Full name -> definition, of a plain schema."""
    found: dict[str, dict[str, Any]] = {}
    ahead = [plain]
    while ahead:
        one = ahead.pop()
        if isinstance(one, list):
            ahead.extend(one)
        elif isinstance(one, dict):
            if "name" in one:
                found[one["name"]] = one
            ahead.extend(f["type"] for f in one.get("fields", ()))
            ahead.extend(one[key] for key in ("items", "values") if key in one)
    return found


def _branch(branch: Any) -> str:
    """What fastavro calls a union's branch."""
    if isinstance(branch, str):
        return branch
    return str(branch.get("name", branch["type"]))
