"""The records of the `_schemas` topic, byte for byte in Confluent's layout, and what they hold as values.

Key              {"keytype":"SCHEMA","subject":S,"version":N,"magic":1}
Value            {"subject":S,"version":N,"id":I,"schema":"<JSON text>","deleted":false}, with "schemaType" when it is not
                 AVRO and "references" when there are any. `deleted` hides a version but keeps its id readable; an empty value
                 removes it.
DELETE_SUBJECT   {"subject":S,"version":N} hides all versions up to N.
CONFIG, MODE     {"subject":S,"compatibilityLevel":L}, {"subject":S,"mode":M}; the subject is null for the default of all.
NOOP             other registries write nothing in it, and pass over what is in it. Ours: {"highestId":I}, so that an id is never
                 given again when the version that had it was removed.
Keys are compared as bytes when the topic is compacted, so the order of their fields matters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SCHEMA_KEY = "SCHEMA"
DELETE_SUBJECT_KEY = "DELETE_SUBJECT"
CONFIG_KEY = "CONFIG"
MODE_KEY = "MODE"
NOOP_KEY = "NOOP"
HIGHEST_ID = "highestId"
AVRO = "AVRO"


class CatalogueError(ValueError):
    """A subject or schema is missing, or a `_schemas` record is unreadable; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`name` is the full name of a type that a schema uses and that this version of another subject defines."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one subject. `schema` is the JSON text as registered."""

    subject: str
    version: int
    id: int
    schema: str
    deleted: bool = False
    schema_type: str = AVRO
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One record to write; no value removes what stands under the key."""

    key: bytes
    value: bytes | None


LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")


def key_bytes(subject: str, version: int) -> bytes:
    return compact({"keytype": SCHEMA_KEY, "subject": subject, "version": version, "magic": 1})


def value_bytes(entry: Entry) -> bytes:
    head = {"subject": entry.subject, "version": entry.version, "id": entry.id}
    kind = {} if entry.schema_type == AVRO else {"schemaType": entry.schema_type}
    references = {"references": references_json(entry.references)} if entry.references else {}
    return compact({**head, **kind, **references, "schema": entry.schema, "deleted": entry.deleted})


def schema_record(entry: Entry) -> Record:
    return Record(key_bytes(entry.subject, entry.version), value_bytes(entry))


def removal(subject: str, version: int) -> Record:
    return Record(key_bytes(subject, version), None)


def subject_deletion(subject: str, up_to: int) -> Record:
    return Record(_key(DELETE_SUBJECT_KEY, subject), compact({"subject": subject, "version": up_to}))


def level_record(subject: str | None, level: str | None) -> Record:
    """The compatibility level of a subject, or of all that have none; None takes it away."""
    return Record(_key(CONFIG_KEY, subject), _about(subject, "compatibilityLevel", level))


def mode_record(subject: str | None, mode: str | None) -> Record:
    return Record(_key(MODE_KEY, subject), _about(subject, "mode", mode))


def highest_record(highest: int) -> Record:
    return Record(compact({"keytype": NOOP_KEY, "magic": 0}), compact({HIGHEST_ID: highest}))


def references_json(references: tuple[Reference, ...]) -> list[dict[str, Any]]:
    return [{"name": one.name, "subject": one.subject, "version": one.version} for one in references]


def references_of(listed: Any) -> tuple[Reference, ...]:
    """Raises KeyError, TypeError or ValueError for what is no list of references."""
    return tuple(Reference(str(one["name"]), str(one["subject"]), int(one["version"])) for one in listed or ())


def entry_of(subject: str, version: int, value: dict[str, Any]) -> Entry:
    """Raises KeyError, TypeError or ValueError for a value that is not in the layout or contradicts its key."""
    if (str(value["subject"]), int(value["version"])) != (subject, version):
        raise ValueError
    deleted, kind = bool(value.get("deleted", False)), str(value.get("schemaType") or AVRO)
    references = references_of(value.get("references"))
    return Entry(subject, version, int(value["id"]), str(value["schema"]), deleted, kind, references)


def json_object(data: bytes | None) -> dict[str, Any]:
    """What a key or value says; {} where it says nothing. Raises CatalogueError."""
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise CatalogueError("a record of the schema topic is not JSON") from error
    return found if isinstance(found, dict) else {}


def compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _key(kind: str, subject: str | None) -> bytes:
    return compact({"keytype": kind, "subject": subject, "magic": 0})


def _about(subject: str | None, name: str, value: str | None) -> bytes | None:
    if value is None:
        return None
    return compact({"subject": subject, name: value} if subject is not None else {name: value})
