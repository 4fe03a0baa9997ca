"""Schemas and their ids, as records of the `_schemas` topic in Confluent's layout, and the state that they add up to.

Key    {"keytype":"SCHEMA","subject":S,"version":N,"magic":1}
Value  {"subject":S,"version":N,"id":I,"schema":"<JSON text>","deleted":false}, with "schemaType" when it is not AVRO.
`deleted` hides a version but keeps its id readable; an empty value removes the version. Other key types (CONFIG, MODE, NOOP, …)
are somebody else's records and are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA_KEY = "SCHEMA"
DELETE_SUBJECT_KEY = "DELETE_SUBJECT"


class CatalogueError(ValueError):
    """A subject or schema is missing, or a `_schemas` record is unreadable; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one subject. `schema` is the JSON text as registered."""

    subject: str
    version: int
    id: int
    schema: str
    deleted: bool = False
    schema_type: str = "AVRO"


def value_subject(topic: str) -> str:
    """The subject of a topic that carries one schema."""
    return f"{topic}-value"


def record_subject(topic: str, schema: Mapping[str, Any]) -> str:
    """The subject of one of several record types on a topic: '<topic>-<record full name>'."""
    return f"{topic}-{full_name(schema)}"


def full_name(schema: Mapping[str, Any]) -> str:
    name, namespace = schema["name"], schema.get("namespace")
    return f"{namespace}.{name}" if namespace and "." not in name else name


def text_of(schema: Any) -> str:
    """A schema as the text that is registered: compact JSON in the schema's own order."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def key_bytes(subject: str, version: int) -> bytes:
    return _compact({"keytype": SCHEMA_KEY, "subject": subject, "version": version, "magic": 1})


def value_bytes(entry: Entry) -> bytes:
    kind = {} if entry.schema_type == "AVRO" else {"schemaType": entry.schema_type}
    head = {"subject": entry.subject, "version": entry.version, "id": entry.id}
    return _compact({**head, **kind, "schema": entry.schema, "deleted": entry.deleted})


class Catalogue:
    """What the `_schemas` topic says, after `apply` of each of its records in order."""

    def __init__(self) -> None:
        self._subjects: dict[str, dict[int, Entry]] = {}
        self._texts: dict[int, str] = {}
        self._ids: dict[str, int] = {}

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take in one record. Raises CatalogueError for a SCHEMA record that is not in the layout above."""
        about = _object(key)
        if about.get("keytype") == DELETE_SUBJECT_KEY and value:
            self._hide(_object(value))
        if about.get("keytype") != SCHEMA_KEY:
            return
        try:
            subject, version = str(about["subject"]), int(about["version"])
            if not value:
                self._subjects.get(subject, {}).pop(version, None)
                return
            entry = _entry(subject, version, _object(value))
        except (KeyError, TypeError, ValueError) as error:
            raise CatalogueError("a SCHEMA record lacks subject, version, id or schema, or contradicts its key") from error
        self.add(entry)

    def add(self, entry: Entry) -> None:
        """Take in one version. Raises CatalogueError when its id already stands for another schema."""
        if entry.id in self._texts and _canonical(self._texts[entry.id]) != _canonical(entry.schema):
            raise CatalogueError(f"schema id {entry.id} stands for two different schemas: the schema topic has had two writers")
        self._subjects.setdefault(entry.subject, {})[entry.version] = entry
        self._texts[entry.id] = entry.schema
        self._ids.setdefault(_canonical(entry.schema), entry.id)

    def versions(self, subject: str) -> list[Entry]:
        """The subject's versions, oldest first, without hidden ones."""
        found = self._subjects.get(subject, {})
        return [found[v] for v in sorted(found) if not found[v].deleted]

    def latest(self, subject: str) -> Entry | None:
        """The subject's newest version that is not hidden, or None."""
        found = self.versions(subject)
        return found[-1] if found else None

    def ids(self) -> dict[str, int]:
        """Subject -> id of its latest version."""
        latest = {subject: self.latest(subject) for subject in self._subjects}
        return {subject: entry.id for subject, entry in latest.items() if entry}

    def schema(self, schema_id: int) -> str:
        """The schema text of an id, hidden versions included. Raises CatalogueError when nobody registered it."""
        try:
            return self._texts[schema_id]
        except KeyError:
            raise CatalogueError(f"schema id {schema_id} is not in the catalogue") from None

    def id_of(self, schema: Any) -> int | None:
        """The id under which this schema (parsed JSON) is registered for whatever subject, or None."""
        return self._ids.get(_canonical(text_of(schema)))

    def id_for(self, subject: str, schema: Any) -> int:
        """The id of exactly this schema as the subject's latest version. Raises CatalogueError with the remedy."""
        entry = self.latest(subject)
        if entry is None:
            raise CatalogueError(f"no schema is registered for {subject!r}: run `bus up`, which registers them")
        if _canonical(entry.schema) != _canonical(text_of(schema)):
            raise CatalogueError(
                f"the schema registered for {subject!r} (version {entry.version}) is not the one in use: run `bus up`"
            )
        return entry.id

    def id_among(self, subject: str, schema: Any) -> int:
        """The id of exactly this schema as any version of the subject. Raises CatalogueError with the remedy."""
        wanted = _canonical(text_of(schema))
        for entry in reversed(self.versions(subject)):
            if _canonical(entry.schema) == wanted:
                return entry.id
        raise CatalogueError(f"the schema in use for {subject!r} is not registered: run `bus up` or `bus agreement apply`")

    def propose(self, subject: str, schema: Any) -> Entry | None:
        """The record to write so that `schema` becomes the subject's latest version; None when it already is.

        The same schema keeps its id under every subject, as in Confluent's registry; ids and versions only grow.
        """
        latest = self.latest(subject)
        if latest and _canonical(latest.schema) == _canonical(text_of(schema)):
            return None
        version = max(self._subjects.get(subject, {0: None}), default=0) + 1
        schema_id = self.id_of(schema) or max(self._texts, default=0) + 1
        return Entry(subject, version, schema_id, text_of(schema))

    def _hide(self, value: dict[str, Any]) -> None:
        versions = self._subjects.get(str(value.get("subject")), {})
        for version, e in versions.items():
            if version <= int(value.get("version", 0)):
                versions[version] = Entry(e.subject, e.version, e.id, e.schema, True, e.schema_type)


def _entry(subject: str, version: int, value: dict[str, Any]) -> Entry:
    if (str(value["subject"]), int(value["version"])) != (subject, version):
        raise ValueError
    deleted, kind = bool(value.get("deleted", False)), str(value.get("schemaType", "AVRO"))
    return Entry(subject, version, int(value["id"]), str(value["schema"]), deleted, kind)


def _object(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError as error:
        raise CatalogueError("a record of the schema topic is not JSON") from error
    return found if isinstance(found, dict) else {}


def _canonical(text: str) -> str:
    """What makes two schema texts the same: everything but the order of keys and white space."""
    try:
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    except ValueError:
        return text


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
