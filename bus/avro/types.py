"""Questions about Avro types: which are nullable, which names stand for what, which take no bytes at all."""

from __future__ import annotations

from typing import Any

from bus.avro.dataset import Schema, SchemaError

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
NAMED = ("record", "error", "enum", "fixed")


def kind(avro_type: Any) -> str:
    """'union', a primitive or complex type's name, or the name that a reference names."""
    if isinstance(avro_type, list):
        return "union"
    while isinstance(avro_type, dict):
        inner = avro_type["type"]
        if isinstance(inner, list):
            return "union"
        avro_type = inner
    return str(avro_type)


def logical(avro_type: Any) -> str:
    """The logical type, or ''."""
    return str(avro_type.get("logicalType", "")) if isinstance(avro_type, dict) else ""


def split_null(avro_type: Any) -> tuple[Any, bool]:
    """(the type without null, whether null was there). A union of more than null and one type is returned as it is."""
    if isinstance(avro_type, list) and len(avro_type) == 2 and avro_type[0] == "null":
        return avro_type[1], True
    return avro_type, False


class Names:
    """Named types of a schema, by full name (Avro 1.12, 'Names')."""

    def __init__(self, schema: Any) -> None:
        self._found: dict[str, tuple[Schema, str]] = {}
        self._collect(schema, "")

    def resolve(self, avro_type: Any, namespace: str) -> tuple[Any, str]:
        """A definition for a reference (anything else as it is), and the namespace that holds inside it.

        Raises SchemaError for a name that the schema does not define.
        """
        while isinstance(avro_type, dict) and isinstance(avro_type["type"], dict | list):
            avro_type = avro_type["type"]
        if isinstance(avro_type, str) and avro_type not in PRIMITIVES:
            found = self._found.get(qualified(avro_type, namespace)) or self._found.get(avro_type)
            if found is None:
                raise SchemaError(f"the schema refers to {avro_type!r} but does not define it")
            return found
        if isinstance(avro_type, dict) and avro_type["type"] in NAMED:
            return avro_type, self._inside(avro_type, namespace)
        return avro_type, namespace

    def name_of(self, definition: Schema, namespace: str) -> str:
        """Full name of a definition that stands where `namespace` holds."""
        return qualified(definition["name"], definition.get("namespace", namespace))

    def takes_no_bytes(self, avro_type: Any, namespace: str, seen: tuple[str, ...] = ()) -> bool:
        """Whether every value of the type is encoded as nothing: null, empty fixed, records of such."""
        definition, inside = self.resolve(avro_type, namespace)
        what = kind(definition)
        if what in ("record", "error"):
            name = definition["name"]
            return name not in seen and all(self.takes_no_bytes(f["type"], inside, (*seen, name)) for f in definition["fields"])
        return what == "null" or (what == "fixed" and definition["size"] == 0)

    def _inside(self, definition: Schema, namespace: str) -> str:
        full = qualified(definition["name"], definition.get("namespace", namespace))
        return full.rpartition(".")[0]

    def _collect(self, schema: Any, namespace: str) -> None:
        if isinstance(schema, list):
            for branch in schema:
                self._collect(branch, namespace)
        if not isinstance(schema, dict):
            return
        what = schema["type"]
        if what in NAMED:
            inside = self._inside(schema, namespace)
            self._found[qualified(schema["name"], schema.get("namespace", namespace))] = schema, inside
            for field in schema.get("fields", ()):
                self._collect(field["type"], inside)
        elif what in ("array", "map"):
            self._collect(schema["items" if what == "array" else "values"], namespace)
        else:
            self._collect(what, namespace)


def qualified(name: str, namespace: str | None) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"
