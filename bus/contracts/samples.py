"""Values of a schema that between them take every way through it: each union branch, each enum symbol, empty lists and full ones.

They are made without chance, so a verdict that rests on them is the same every time.
"""

from __future__ import annotations

from typing import Any

MAX_SAMPLES = 400
"""Of one type. A type with more ways through it than that (an enum of thousands) is tried in part."""
MAX_VALUES = 20_000
"""Of one schema, parts of values included. Types that refer to each other may stand for more values than there are atoms; such a
schema has no samples."""
MAX_BYTES = 4_000_000
"""Of all samples of a schema, encoded. A larger value is not made; where every value is larger there are no samples."""
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
_ATOM_BYTES = 10
"""At most: of each of these, a length, a count, a union's or an enum's index."""
_Sized = tuple[Any, int]
"""A value, and how many bytes it has at most, encoded."""


def samples(plain: Any) -> list[Any]:
    """Values as fastavro takes them; none when the type has no finite value, or too many, or large ones only."""
    try:
        return [value for value, _ in _together(_Samples(plain).of(plain))]
    except _TooMany:
        return []


class _TooMany(Exception):
    """More than MAX_VALUES, or than MAX_BYTES in them."""


class _Samples:
    def __init__(self, plain: Any) -> None:
        self._named = named_types(plain)
        self._inside: list[str] = []
        self._made = self._bytes = 0
        self._fixed: dict[int, bytes] = {}

    def of(self, avro_type: Any) -> list[_Sized]:
        self._count(1)
        if isinstance(avro_type, list):
            return [((_branch(b), v), size + _ATOM_BYTES) for b in avro_type for v, size in self.of(b)][:MAX_SAMPLES]
        if isinstance(avro_type, str):
            if avro_type in _VALUES:
                return [(value, _ATOM_BYTES) for value in _VALUES[avro_type]]
            avro_type = self._named[avro_type]
        match avro_type["type"]:
            case "enum":
                return [(symbol, _ATOM_BYTES) for symbol in avro_type["symbols"][:MAX_SAMPLES]]
            case "fixed":
                return self._of_fixed(avro_type["size"])
            case "array":
                items = _together(self.of(avro_type["items"]))
                return [([], _ATOM_BYTES), *([_array([v for v, _ in items], items)] if items else ())]
            case "map":
                named = {f"key{i}": item for i, item in enumerate(self.of(avro_type["values"]))}
                kept = _together([((key, value), size + 2 * _ATOM_BYTES) for key, (value, size) in named.items()])
                return [({}, _ATOM_BYTES), *([_array(dict(v for v, _ in kept), kept)] if kept else ())]
        return self._record(avro_type)

    def _of_fixed(self, size: int) -> list[_Sized]:
        if size not in self._fixed:
            if self._bytes + size > MAX_BYTES:
                return []
            self._bytes += size
            self._fixed[size] = b"f" * size
        return [(self._fixed[size], size)]

    def _record(self, record: dict[str, Any]) -> list[_Sized]:
        if self._inside.count(record["name"]) > _MAX_INSIDE_ITSELF:
            return []
        self._inside.append(record["name"])
        columns = {f["name"]: self._field(f) for f in record["fields"]}
        self._inside.pop()
        if not all(columns.values()):
            return []
        count = max(map(len, columns.values()), default=1)
        self._count(count * len(columns))
        rows = [{name: values[i] if i < len(values) else values[0] for name, values in columns.items()} for i in range(count)]
        made = [({name: v for name, (v, _) in row.items()}, sum(size for _, size in row.values())) for row in rows]
        return [one for one in made if one[1] <= MAX_BYTES]

    def _count(self, more: int) -> None:
        self._made += more
        if self._made > MAX_VALUES:
            raise _TooMany

    def _field(self, field: dict[str, Any]) -> list[_Sized]:
        found = self.of(field["type"])
        if "default" not in field or not found:
            return found
        made = self._default(field["default"], field["type"])
        return [*found[: MAX_SAMPLES - 1], *([made] if made[1] <= MAX_BYTES else ())]

    def _default(self, default: Any, avro_type: Any) -> _Sized:
        """The value that a fitting default stands for, with the defaults of what it leaves out. Raises _TooMany."""
        self._count(1)
        if isinstance(avro_type, list):
            value, size = self._default(default, avro_type[0])
            return (_branch(avro_type[0]), value), size + _ATOM_BYTES
        definition: Any = self._named.get(avro_type, avro_type) if isinstance(avro_type, str) else avro_type
        match definition if isinstance(definition, str) else definition["type"]:
            case "bytes" | "fixed":
                self._bytes += len(default)
                if self._bytes > MAX_BYTES:
                    raise _TooMany
                return default.encode("latin-1"), len(default) + _ATOM_BYTES
            case "string":
                return default, len(default.encode()) + _ATOM_BYTES
            case "array":
                items = [self._default(item, definition["items"]) for item in default]
                return _array([v for v, _ in items], items)
            case "map":
                values = {key: self._default(item, definition["values"]) for key, item in default.items()}
                keys = sum(len(key.encode()) + _ATOM_BYTES for key in values)
                made, size = _array({key: v for key, (v, _) in values.items()}, list(values.values()))
                return made, size + keys
            case "record":
                given = {f["name"]: (default.get(f["name"], f.get("default")), f["type"]) for f in definition["fields"]}
                parts = {name: self._default(*one) for name, one in given.items()}
                return {name: v for name, (v, _) in parts.items()}, sum(size for _, size in parts.values())
        return default, _ATOM_BYTES


def _together(made: list[_Sized]) -> list[_Sized]:
    """Those that have no more than MAX_BYTES between them; what does not fit is left out."""
    kept, left = [], MAX_BYTES
    for value, size in made:
        if size <= left:
            kept.append((value, size))
            left -= size
    return kept


def _array(made: Any, parts: list[_Sized]) -> _Sized:
    """A list or an object made of these: one block, with its count and its end."""
    return made, sum(size for _, size in parts) + 2 * _ATOM_BYTES


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
