"""Schemas and their ids: the state that the records of the `_schemas` topic (bus.avro.records) add up to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bus.avro import normal, records
from bus.avro.records import CatalogueError, Entry, Reference, key_bytes, value_bytes

__all__ = ["Catalogue", "CatalogueError", "Entry", "Reference", "key_bytes", "value_bytes"]

Identity = tuple[str, str, tuple[Reference, ...]]
"""Two schemas with the same identity have one id: type, text in normal form, references."""


def value_subject(topic: str) -> str:
    """The subject of a topic that carries one schema."""
    return f"{topic}-value"


def record_subject(topic: str, schema: Mapping[str, Any]) -> str:
    """The subject of one of several record types on a topic: '<topic>-<record full name>'."""
    return f"{topic}-{full_name(schema)}"


def full_name(schema: Mapping[str, Any]) -> str:
    return normal.full_name(schema["name"], schema.get("namespace") or "")


def text_of(schema: Any) -> str:
    """A schema as the text that is registered: compact JSON in the schema's own order."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def identity(text: str, schema_type: str = records.AVRO, references: tuple[Reference, ...] = ()) -> Identity:
    """Of a text that is stored, or is about to be."""
    return schema_type, normal.remembered(text), references


class Catalogue:
    """What the `_schemas` topic says, after `apply` of each of its records in order."""

    def __init__(self) -> None:
        self._subjects: dict[str, dict[int, Entry]] = {}
        self._holders: dict[int, dict[tuple[str, int], Entry]] = {}
        """id -> the versions that have it, hidden ones included, the first on top."""
        self._ids: dict[Identity, int] = {}
        self._levels: dict[str | None, str] = {}
        self._modes: dict[str | None, str] = {}
        self._highest = 0

    def copy(self) -> Catalogue:
        """As it stands now, whatever is applied later."""
        made = Catalogue()
        made._subjects = {subject: dict(versions) for subject, versions in self._subjects.items()}
        made._holders = {schema_id: dict(held) for schema_id, held in self._holders.items()}
        made._ids, made._levels, made._modes = dict(self._ids), dict(self._levels), dict(self._modes)
        made._highest = self._highest
        return made

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take in one record. Raises CatalogueError for a SCHEMA record that is not in the layout."""
        about = records.json_object(key)
        match about.get("keytype"):
            case records.SCHEMA_KEY:
                self._apply_schema(about, value)
            case records.DELETE_SUBJECT_KEY if value:
                self._hide(records.json_object(value))
            case records.CONFIG_KEY:
                level = records.json_object(value).get("compatibilityLevel")
                if level is None or level in records.LEVELS:  # as Confluent's, which passes over a record that it cannot read
                    _set(self._levels, about.get("subject"), level)
            case records.MODE_KEY:
                _set(self._modes, about.get("subject"), records.json_object(value).get("mode"))
            case records.NOOP_KEY:
                told = records.json_object(value).get(records.HIGHEST_ID)
                self._highest = max(self._highest, told if isinstance(told, int) else 0)

    def _apply_schema(self, about: dict[str, Any], value: bytes | None) -> None:
        try:
            subject, version = str(about["subject"]), int(about["version"])
            entry = records.entry_of(subject, version, records.json_object(value)) if value else None
        except (KeyError, TypeError, ValueError) as error:
            raise CatalogueError("a SCHEMA record lacks subject, version, id or schema, or contradicts its key") from error
        if entry:
            self.add(entry)
        else:
            self._remove(subject, version)

    def add(self, entry: Entry) -> None:
        """Take in one version. Raises CatalogueError when its id already stands for another schema."""
        same = _identity(entry)
        there = self.holder(entry.id)
        if there and _identity(there) != same:
            raise CatalogueError(f"schema id {entry.id} stands for two different schemas: the schema topic has had two writers")
        old = self.find(entry.subject, entry.version)
        if old and old.id != entry.id:
            self._remove(entry.subject, entry.version)
        self._subjects.setdefault(entry.subject, {})[entry.version] = entry
        self._holders.setdefault(entry.id, {})[entry.subject, entry.version] = entry
        self._ids.setdefault(same, entry.id)
        self._highest = max(self._highest, entry.id)

    def _remove(self, subject: str, version: int) -> None:
        versions = self._subjects.get(subject, {})
        entry = versions.pop(version, None)
        if not versions:
            self._subjects.pop(subject, None)
        if entry is None:
            return
        holders = self._holders[entry.id]
        del holders[subject, version]
        if not holders:
            del self._holders[entry.id]
            if self._ids.get(_identity(entry)) == entry.id:
                del self._ids[_identity(entry)]

    def _hide(self, value: dict[str, Any]) -> None:
        for entry in self.every(str(value.get("subject"))):
            if entry.version <= int(value.get("version", 0)):
                self.add(replace(entry, deleted=True))

    def subjects(self, *, deleted: bool = False) -> list[str]:
        """In name order; with `deleted` also those of which all versions are hidden."""
        return sorted(name for name, found in self._subjects.items() if deleted or not all(e.deleted for e in found.values()))

    def every(self, subject: str) -> list[Entry]:
        """The subject's versions, oldest first, hidden ones included."""
        found = self._subjects.get(subject, {})
        return [found[version] for version in sorted(found)]

    def versions(self, subject: str) -> list[Entry]:
        """The subject's versions, oldest first, without hidden ones."""
        return [entry for entry in self.every(subject) if not entry.deleted]

    def find(self, subject: str, version: int) -> Entry | None:
        """One version, be it hidden."""
        return self._subjects.get(subject, {}).get(version)

    def latest(self, subject: str) -> Entry | None:
        """The subject's newest version that is not hidden, or None."""
        found = self.versions(subject)
        return found[-1] if found else None

    def ids(self) -> dict[str, int]:
        """Subject -> id of its latest version."""
        latest = {subject: self.latest(subject) for subject in self._subjects}
        return {subject: entry.id for subject, entry in latest.items() if entry}

    def count(self) -> int:
        """How many schemas there are, each id once."""
        return len(self._holders)

    def holders(self, schema_id: int) -> list[Entry]:
        """The versions that have an id, hidden ones included."""
        return list(self._holders.get(schema_id, {}).values())

    def holder(self, schema_id: int) -> Entry | None:
        """The first of them: its text is the id's."""
        return next(iter(self._holders.get(schema_id, {}).values()), None)

    def schema(self, schema_id: int) -> str:
        """The schema text of an id, hidden versions included. Raises CatalogueError when nobody registered it."""
        if found := self.holder(schema_id):
            return found.schema
        raise CatalogueError(f"schema id {schema_id} is not in the catalogue")

    def references_to(self, subject: str, version: int) -> Iterator[Entry]:
        """The versions, without hidden ones, that refer to this one."""
        for found in self._subjects.values():
            for entry in found.values():
                if not entry.deleted and any((r.subject, r.version) == (subject, version) for r in entry.references):
                    yield entry

    def level(self, subject: str | None) -> str | None:
        """The compatibility level that a subject has of its own; of None: the default of all, if one was set."""
        return self._levels.get(subject)

    def mode(self, subject: str | None) -> str | None:
        """The mode that a subject has of its own; of None: that of all, if one was set."""
        return self._modes.get(subject)

    @property
    def next_id(self) -> int:
        """Higher than every id ever given."""
        return self._highest + 1

    def next_version(self, subject: str) -> int:
        return max(self._subjects.get(subject, {}), default=0) + 1

    def id_of_identity(self, wanted: Identity) -> int | None:
        return self._ids.get(wanted)

    def id_of(self, schema: Any) -> int | None:
        """The id under which this schema (parsed JSON) is registered for whatever subject, or None."""
        return self._ids.get(identity(text_of(schema)))

    def id_for(self, subject: str, schema: Any) -> int:
        """The id of exactly this schema as the subject's latest version. Raises CatalogueError with the remedy."""
        entry = self.latest(subject)
        if entry is None:
            raise CatalogueError(f"no schema is registered for {subject!r}: run `bus up`, which registers them")
        if _identity(entry) != identity(text_of(schema)):
            raise CatalogueError(
                f"the schema registered for {subject!r} (version {entry.version}) is not the one in use: run `bus up`"
            )
        return entry.id

    def id_among(self, subject: str, schema: Any) -> int:
        """The id of exactly this schema as any version of the subject. Raises CatalogueError with the remedy."""
        wanted = identity(text_of(schema))
        for entry in reversed(self.versions(subject)):
            if _identity(entry) == wanted:
                return entry.id
        raise CatalogueError(f"the schema in use for {subject!r} is not registered: run `bus up` or `bus agreement apply`")

    def propose(self, subject: str, schema: Any) -> Entry | None:
        """The record to write so that `schema` becomes the subject's latest version; None when it already is.

        The same schema keeps its id under every subject, as in Confluent's registry; ids and versions only grow.
        """
        latest = self.latest(subject)
        if latest and _identity(latest) == identity(text_of(schema)):
            return None
        return Entry(subject, self.next_version(subject), self.id_of(schema) or self.next_id, text_of(schema))


def _identity(entry: Entry) -> Identity:
    return identity(entry.schema, entry.schema_type, entry.references)


def _set(into: dict[str | None, str], subject: Any, value: Any) -> None:
    if isinstance(value, str):
        into[subject] = value
    else:
        into.pop(subject, None)
