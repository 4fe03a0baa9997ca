"""What a registry answers to a request that changes something: the records to write and the answer, or a refusal.

Pure: from the catalogue as it stands. Error codes and their order are Confluent's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bus.avro import catalogue, normal, records
from bus.avro.catalogue import Catalogue
from bus.avro.records import AVRO, Entry, Reference
from bus.contracts import bounded, compatibility
from bus.contracts.compatibility import Level, Parsed
from bus.contracts.parsing import InvalidSchema
from bus.registry.answers import Decision, Refused

LEVELS = records.LEVELS
DEFAULT_LEVEL = "BACKWARD"
MODES = ("READWRITE", "READONLY")
"""IMPORT, by which a client chooses ids itself, is not offered: `bus up` and the topic are the ways to move."""
DEFAULT_MODE = "READWRITE"
MOST_NAME = 512
"""Characters of a subject's name."""
MOST_SCHEMA = 200_000
"""Characters of a schema that a request brings; a dataset's own has some thousands."""
MOST_CALLS = 4_000_000
"""Calls that checking a schema may take, and as many a comparison with earlier versions: some seconds; a dataset's schema takes
some ten thousand."""
_MOST_REFERENCES = 100
_MOST_CHAIN = 20
"""References of references, so deep."""


Sees = Callable[[str], bool]
"""Whether there is a subject, for who asks."""


def _everything(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Given:
    """A schema as a client gives it."""

    text: str
    references: tuple[Reference, ...]

    def identity(self) -> catalogue.Identity:
        """Not remembered: anybody may ask about any number of texts."""
        return AVRO, normal.identity(self.text), self.references


def given(body: Any, *, normalized: bool) -> Given:
    """A request's schema. Keys that are not known here are ignored, for clients send what newer registries take."""
    if not isinstance(body, dict) or not isinstance(body.get("schema"), str) or not body["schema"].strip():
        raise Refused(422, 42201, 'Empty schema: the body must be an object with the schema as text under "schema"')
    kind = body.get("schemaType") or AVRO
    if kind != AVRO:
        raise Refused(422, 42201, f"Invalid schema type {kind!r}: this registry takes AVRO only")
    try:
        references = records.references_of(body.get("references"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Refused(422, 42201, "Invalid references: each needs name, subject and version") from None
    if len(references) > _MOST_REFERENCES:
        raise Refused(422, 42201, f"Invalid references: more than {_MOST_REFERENCES}")
    text = body["schema"].strip()
    if len(text) > MOST_SCHEMA:
        raise Refused(422, 42201, f"Invalid schema: longer than {MOST_SCHEMA:,} characters")
    if text in normal.PRIMITIVES:  # some clients send these bare
        text = json.dumps(text)
    if normalized:
        # parsing says what is wrong with it
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            text = normal.text_of(json.loads(text))
    return Given(text, references)


def resolve(found: Catalogue, wanted: Given, sees: Sees = _everything) -> Parsed:
    """The schema, checked and ready to be compared. `sees`: which subjects there are for who gives it; what a stored schema
    refers to was decided when it was stored. Raises Refused."""
    referenced = _referenced(found, wanted.references, sees)
    try:
        with bounded.calls(MOST_CALLS):
            return compatibility.parse(wanted.text, referenced)
    except InvalidSchema as error:
        raise Refused(422, 42201, f"Invalid schema: {error}") from None
    except bounded.TooMuchWork:
        text = "Invalid schema: checking it takes too much work (large defaults, or many references)"
        raise Refused(422, 42201, text) from None


def _referenced(found: Catalogue, references: Sequence[Reference], sees: Sees) -> list[str]:
    """The texts that a schema refers to, each once and after those that it refers to itself. Raises Refused."""
    listed: dict[tuple[str, int], str] = {}

    def take(references: Sequence[Reference], depth: int) -> None:
        if depth > _MOST_CHAIN or len(listed) > _MOST_REFERENCES:
            raise Refused(422, 42201, f"Invalid references: a chain of more than {_MOST_CHAIN}, or more than {_MOST_REFERENCES}")
        for one in references:
            entry = found.find(one.subject, one.version)
            if entry is None or (depth == 0 and not sees(one.subject)):
                raise Refused(422, 42201, f"Invalid reference: no version {one.version} of subject '{one.subject}'")
            if (entry.subject, entry.version) not in listed:
                take(entry.references, depth + 1)
                listed[entry.subject, entry.version] = entry.schema

    take(references, 0)
    return list(listed.values())


def register(found: Catalogue, subject: str, wanted: Given) -> Decision:
    """A schema becomes the subject's next version, unless it is one already."""
    _require_name(subject)
    _require_writable(found, subject)
    resolved = resolve(found, wanted)
    if there := _same(found.versions(subject), wanted):
        return Decision({"id": there.id})
    if reasons := incompatible(found, subject, resolved):
        raise Refused(
            409,
            409,
            f'Schema being registered is incompatible with an earlier schema for subject "{subject}": {"; ".join(reasons)}',
        )
    schema_id = found.id_of_identity(wanted.identity()) or found.next_id
    entry = Entry(subject, found.next_version(subject), schema_id, wanted.text, references=wanted.references)
    return Decision({"id": schema_id}, (records.schema_record(entry),))


def lookup(found: Catalogue, subject: str, wanted: Given, *, deleted: bool, sees: Sees = _everything) -> Entry:
    """The version of a subject that a schema is. `sees` as for `resolve`. Raises Refused."""
    versions = require_versions(found, subject, deleted=deleted)
    resolve(found, wanted, sees)
    if there := _same(versions, wanted):
        return there
    raise Refused(404, 40403, "Schema not found")


def _same(versions: Sequence[Entry], wanted: Given) -> Entry | None:
    identity = wanted.identity()
    for entry in reversed(versions):
        if catalogue.identity(entry.schema, entry.schema_type, entry.references) == identity:
            return entry
    return None


def level_of(found: Catalogue, subject: str) -> str:
    return found.level(subject) or found.level(None) or DEFAULT_LEVEL


def incompatible(found: Catalogue, subject: str, wanted: Parsed, only: Entry | None = None) -> list[str]:
    """Why a schema may not follow the subject's versions, or the one named; empty: it may. The newest first."""
    level = Level(level_of(found, subject))
    if level is Level.NONE:
        return []
    versions = [only] if only else found.versions(subject)[0 if level.transitive else -1 :]
    foreign = [f"version {entry.version} is {entry.schema_type}, not AVRO" for entry in versions if entry.schema_type != AVRO]
    if foreign:
        return foreign
    earlier = {entry.version: resolve(found, Given(entry.schema, entry.references)) for entry in versions}
    try:
        with bounded.calls(MOST_CALLS):
            return [str(problem) for problem in compatibility.check(level, wanted, earlier)]
    except (bounded.TooMuchWork, RecursionError):
        text = "Invalid schema: comparing it with earlier versions takes too much work (large unions, or many types inside types)"
        raise Refused(422, 42201, text) from None


def require_versions(found: Catalogue, subject: str, *, deleted: bool = False) -> list[Entry]:
    """Raises Refused when the subject has none that may be seen."""
    versions = found.every(subject) if deleted else found.versions(subject)
    if not versions:
        raise Refused(404, 40401, f"Subject '{subject}' not found.")
    return versions


def require_version(found: Catalogue, subject: str, asked: str, *, deleted: bool = False) -> Entry:
    """One version; 'latest' and -1 are the newest that is not hidden. Raises Refused."""
    number = version_number(asked)
    versions = require_versions(found, subject, deleted=deleted)
    if number == -1:
        return found.latest(subject) or versions[-1]
    for entry in versions:
        if entry.version == number:
            return entry
    raise Refused(404, 40402, f"Version {number} not found.")


def version_number(asked: str) -> int:
    """-1 for the latest. Raises Refused."""
    if asked in ("latest", "-1"):
        return -1
    if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked[:11]) < 2**31:
        raise Refused(
            422, 42202, f"The specified version '{asked[:20]}' is not a valid version id. "
            'Allowed values are between [1, 2^31-1] and the string "latest"',
        )  # fmt: skip
    return int(asked)


def delete_subject(found: Catalogue, subject: str, *, permanent: bool) -> Decision:
    """Hide all versions, or remove all hidden ones; the answer lists them."""
    _require_writable(found, subject)
    every = found.every(subject)
    if not every:
        raise Refused(404, 40401, f"Subject '{subject}' not found.")
    live = [entry for entry in every if not entry.deleted]
    if permanent:
        if live:
            raise Refused(404, 40405, f"Subject '{subject}' was not deleted first before being permanently deleted")
        return _remove(found, every, [entry.version for entry in every])
    if not live:
        raise Refused(404, 40404, f"Subject '{subject}' was soft deleted. Set permanent=true to delete permanently")
    _require_no_references(found, live)
    written = [records.subject_deletion(subject, live[-1].version)]
    written += [records.mode_record(subject, None)] if found.mode(subject) else []
    written += [records.level_record(subject, None)] if found.level(subject) else []
    return Decision([entry.version for entry in live], tuple(written))


def delete_version(found: Catalogue, subject: str, asked: str, *, permanent: bool) -> Decision:
    """Hide one version, or remove a hidden one; the answer is its number."""
    _require_writable(found, subject)
    entry = require_version(found, subject, asked, deleted=True)
    if permanent:
        if not entry.deleted:
            text = f"Subject '{subject}' Version {entry.version} was not deleted first before being permanently deleted"
            raise Refused(404, 40407, text)
        return _remove(found, [entry], entry.version)
    if entry.deleted:
        text = f"Subject '{subject}' Version {entry.version} was soft deleted. Set permanent=true to delete permanently"
        raise Refused(404, 40406, text)
    _require_no_references(found, [entry])
    return Decision(entry.version, (records.schema_record(replace(entry, deleted=True)),))


def _remove(found: Catalogue, entries: Sequence[Entry], answer: Any) -> Decision:
    """The highest id is kept beside, or the next schema would be given one that old messages carry."""
    _require_no_references(found, entries)
    kept = records.highest_record(found.next_id - 1)
    return Decision(answer, (kept, *(records.removal(entry.subject, entry.version) for entry in entries)))


def _require_no_references(found: Catalogue, entries: Sequence[Entry]) -> None:
    for entry in entries:
        if user := next(found.references_to(entry.subject, entry.version), None):
            text = f"One or more references exist to version {entry.version} of '{entry.subject}', from '{user.subject}'"
            raise Refused(422, 42206, text)


def set_level(found: Catalogue, subject: str | None, body: Any) -> Decision:
    level = str(body.get("compatibility") or "").upper() if isinstance(body, dict) else ""
    if level not in LEVELS:
        raise Refused(422, 42203, f"Invalid compatibility level. Valid values are {', '.join(LEVELS).lower()}")
    if subject is not None:
        _require_name(subject)
    written = () if found.level(subject) == level else (records.level_record(subject, level),)
    return Decision({"compatibility": level}, written)


def clear_level(found: Catalogue, subject: str | None) -> Decision:
    level = found.level(subject)
    if level is None:
        if subject is None:
            return Decision({"compatibilityLevel": DEFAULT_LEVEL})
        raise no_level(subject)
    return Decision({"compatibilityLevel": level}, (records.level_record(subject, None),))


def set_mode(found: Catalogue, subject: str | None, body: Any) -> Decision:
    mode = str(body.get("mode") or "").upper() if isinstance(body, dict) else ""
    if mode not in MODES:
        raise Refused(422, 42204, f"Invalid mode. Valid values are {', '.join(MODES)}")
    if subject is not None:
        _require_name(subject)
    written = () if found.mode(subject) == mode else (records.mode_record(subject, mode),)
    return Decision({"mode": mode}, written)


def clear_mode(found: Catalogue, subject: str | None) -> Decision:
    mode = found.mode(subject)
    if mode is None:
        if subject is None:
            return Decision({"mode": DEFAULT_MODE})
        raise no_mode(subject)
    return Decision({"mode": mode}, (records.mode_record(subject, None),))


def no_level(subject: str) -> Refused:
    return Refused(404, 40408, f"Subject '{subject}' does not have subject-level compatibility configured")


def no_mode(subject: str) -> Refused:
    return Refused(404, 40409, f"Subject '{subject}' does not have subject-level mode configured")


def _require_name(subject: str) -> None:
    if not subject.strip() or len(subject) > MOST_NAME or not subject.isprintable():
        raise Refused(422, 42208, f"The specified subject is not valid: printable characters, 1 to {MOST_NAME} of them")


def _require_writable(found: Catalogue, subject: str) -> None:
    mode = found.mode(subject) or found.mode(None) or DEFAULT_MODE
    if mode != DEFAULT_MODE:
        raise Refused(422, 42205, f"Subject '{subject}' is in {mode} mode: it cannot be changed")
