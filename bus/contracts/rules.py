"""What a row schema must say before its dataset may be shared: the rules that `bus schema check` holds each file against.

That it is Avro at all is `parsing`'s matter, and what makes it a dataset `bus.avro.dataset`'s; both are asked first. Decree
356/2025 (of Law 91/2025) divides personal data into basic and sensitive; which field is which a person must say, in `pii`. Where
a field's name speaks for itself and the tag is missing or too weak, that is a problem here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.avro.dataset import Dataset, Schema, SchemaError, dataset_of, shaped
from bus.avro.derive import NAMESPACE
from bus.contracts.parsing import InvalidSchema, parse, unwritable
from bus.core.matching import COMPARE

PII = ("basic", "sensitive")
_DEEP = "values inside values, deeper than anybody reads"
_COLUMN = re.compile(r"[a-z][a-z0-9_]*")
_MAX_NAME = 63
"""PostgreSQL's longest name."""
_RECORD_KEYS = ("type", "name", "namespace", "doc", "primary_key", "people", "register", "fields")
_FIELD_KEYS = ("name", "type", "doc", "default", "pii", "compare", "aliases")
_PLAIN = ("boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL = {
    "date": "int",
    "timestamp-micros": "long",
    "local-timestamp-micros": "long",
    "uuid": "string",
    "decimal": "bytes",
}
"""Logical type -> the type that it stands on, as ARCHITECTURE.md lists them."""
_TYPES = f"{', '.join(_PLAIN)}, {', '.join(f'{base}/{name}' for name, base in LOGICAL.items())}"
_BASIC_WORDS = {"pin", "phone", "mobile", "email", "birthday", "birth", "sex", "gender", "passport", "nationality"}
_SENSITIVE_WORDS = {
    "ethnicity", "ethnic", "religion", "religious", "political", "health", "disease", "diagnosis", "disability", "blood",
    "genetic", "biometric", "fingerprint", "iris", "criminal", "conviction", "sexual", "salary", "income", "credit", "weight",
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in one file; `field` is '' where the schema as a whole is meant."""

    file: str
    field: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        at = f"{self.file}: {self.field}" if self.field else self.file
        return f"{at}: {self.reason}\n    {self.remedy}"


def check(texts: Mapping[Path, str]) -> tuple[dict[str, Dataset], list[Problem]]:
    """File (<domain>/<table>.avsc) -> its text: the datasets that could be read, by name, and every problem of every file.

    `texts` holds all schemas, for people are checked against the register among them.
    """
    found: dict[str, Dataset] = {}
    problems: list[Problem] = []
    for path, text in texts.items():
        one = _read(path, text, problems)
        if one:
            found[one.name] = one
    registers = [d for d in found.values() if d.register]
    if len(registers) != 1:
        names = ", ".join(d.name for d in registers) or "none"
        reason = f"exactly one schema is the population register, found {names}"
        problems.append(Problem(str(next(iter(texts), "schemas")), "", reason, 'keep "register": true in one file'))
    files = {f"{path.parent.name}.{path.stem}": str(path) for path in texts}
    for one in found.values():
        _people(one, registers[0] if len(registers) == 1 else None, files[one.name], problems)
    return found, sorted(problems)


def _read(path: Path, text: str, problems: list[Problem]) -> Dataset | None:
    def wrong(field: str, reason: str, remedy: str) -> None:
        problems.append(Problem(str(path), field, reason, remedy))

    try:
        row = json.loads(text)
    except ValueError as error:
        wrong("", f"not JSON: {error}", "write one JSON object")
        return None
    except RecursionError:
        wrong("", _DEEP, "write one JSON object")
        return None
    if problem := unsound(row):
        wrong(*problem)
        return None
    _record(path, row, wrong)
    for field in row["fields"]:
        _field(field, row, wrong)
    try:
        return dataset_of(row, path.parent.name, path.stem, str(path))
    except SchemaError as error:
        wrong("", str(error).removeprefix(f"{path}: "), "name columns that the record has")
    return None


def _said(doc: Any) -> bool:
    return isinstance(doc, str) and bool(doc.strip())


def unsound(row: Any) -> tuple[str, str, str] | None:
    """(field, reason, remedy) where parsed JSON is no schema of a row, so that nothing else can be said of it."""
    if not isinstance(row, dict) or row.get("type") != "record" or not isinstance(row.get("fields"), list):
        return "", "not a record with fields", 'write {"type": "record", "name": …, "fields": […]}'
    for name, part in (*((_name_of(f), f) for f in row["fields"]), ("", row)):
        if reason := _unwritable(part):
            return name, reason, "write what every JSON reader takes"
    try:
        parse(row)
    except InvalidSchema as error:
        return _field_at(row, error.place), f"not Avro, at {error.place}: {error.reason}", "mend that place"
    if not shaped(row):
        example = '{"role": "child", "pin": "child_pin", "match": {"full_name": "child_name"}}'
        return "", "'people' or 'primary_key' is not as it must be", f'write "primary_key": ["id"], "people": [{example}]'
    return None


def _unwritable(part: Any) -> str:
    try:
        return unwritable(part)
    except RecursionError:
        return _DEEP


def _name_of(field: Any) -> str:
    """'' for what cannot be printed either."""
    name = field.get("name") if isinstance(field, dict) else None
    return name if isinstance(name, str) and not unwritable(name) else ""


def _field_at(row: Schema, place: str) -> str:
    found = re.match(r"/fields/(\d+)", place)
    field = row["fields"][int(found[1])] if found else {}
    return str(field.get("name", "")) if isinstance(field, dict) else ""


def _record(path: Path, row: Schema, wrong: Any) -> None:
    for key in row:
        if key not in _RECORD_KEYS:
            wrong("", f"nobody reads the key {key!r}", f"known are {', '.join(_RECORD_KEYS)}")
    if not _said(row.get("doc")):
        wrong("", "the record has no doc", "say in one sentence what one row stands for")
    if row.get("namespace") != (wanted := f"{NAMESPACE}.{path.parent.name}"):
        wrong("", "the namespace does not follow from the folder", f'write "namespace": "{wanted}"')
    fields = {f["name"]: f for f in row["fields"]}
    for name in row.get("primary_key", ()):
        if name in fields and (isinstance(fields[name]["type"], list) or "default" in fields[name]):
            wrong(name, "a column of the primary key is never null and has no default", "drop null and default")
    pins = {p["pin"] for p in row.get("people", ())}
    for name in fields:
        if (name == "pin" or name.endswith("_pin")) and not row.get("register") and name not in pins:
            wrong(name, "looks like somebody's PIN, but no role in 'people' has it", "add the role, or rename the column")


def _field(field: Schema, row: Schema, wrong: Any) -> None:
    name = field["name"]
    for key in field:
        if key not in _FIELD_KEYS:
            wrong(name, f"nobody reads the key {key!r}", f"known are {', '.join(_FIELD_KEYS)}")
    if not _COLUMN.fullmatch(name) or len(name) > _MAX_NAME:
        wrong(name, "not a column name", f"use a-z, 0-9 and _, at most {_MAX_NAME} characters")
    if not _said(field.get("doc")):
        wrong(name, "the field has no doc", "say what it holds, in words that another agency understands")
    if reason := type_problem(field["type"]):
        wrong(name, reason, f'a column is one of: {_TYPES}; or ["null", one of them]')
    if isinstance(field["type"], list) and ("default" not in field or field["default"] is not None):
        wrong(name, "a field that may be null has the default null", 'add "default": null')
    _tags(field, row, wrong)


def _tags(field: Schema, row: Schema, wrong: Any) -> None:
    name, tag = field["name"], field.get("pii")
    if tag is not None and tag not in PII:
        wrong(name, f"unknown pii tag {tag!r}", f"it is one of {', '.join(PII)}, or left out")
    named = {n for p in row.get("people", ()) for n in (p["pin"], *p.get("match", {}).values())}
    words = set(name.split("_"))
    if tag != "sensitive" and words & _SENSITIVE_WORDS:
        wrong(name, "the name speaks of sensitive personal data (Decree 356/2025)", 'tag it "pii": "sensitive"')
    elif tag is None and (name in named or words & _BASIC_WORDS):
        wrong(name, "personal data without a tag (Decree 356/2025)", 'tag it "pii": "basic", or "sensitive"')
    if "compare" in field and (not row.get("register") or field["compare"] not in tuple(COMPARE)):
        wrong(name, "'compare' belongs to the register's fields", f"it is one of {', '.join(COMPARE)}")


def type_problem(avro_type: Any) -> str:
    """Why no column can have this type; '' when one can."""
    if isinstance(avro_type, list):
        if len(avro_type) != 2 or avro_type[0] != "null" or isinstance(avro_type[1], list):
            return 'a union other than ["null", T]'
        return type_problem(avro_type[1])
    base = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    if base not in _PLAIN:
        return f"the type {base!r} is no column's" if isinstance(base, str) else "a type inside a type is no column's"
    name = avro_type.get("logicalType") if isinstance(avro_type, dict) else None
    if name is None:
        return ""
    if not isinstance(name, str) or LOGICAL.get(name) != base:
        return f"the logical type {name!r} does not stand on {base!r}"
    if name == "decimal":
        return _decimal(avro_type)
    return ""


def _decimal(avro_type: Schema) -> str:
    precision, scale = avro_type.get("precision"), avro_type.get("scale", 0)
    fits = isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision and precision > 0
    return "" if fits else "a decimal needs 'precision' and a 'scale' between 0 and it"


def _people(one: Dataset, register: Dataset | None, file: str, problems: list[Problem]) -> None:
    def wrong(field: str, reason: str, remedy: str) -> None:
        problems.append(Problem(file, field, reason, remedy))

    names = [role.name for role in one.people]
    for twice in sorted({n for n in names if names.count(n) > 1}):
        wrong("", f"two roles are called {twice!r}", "give each person of the row a name of its own")
    comparable = _comparable(register)
    for role in one.people:
        if _base(one.fields[role.pin]) != "string":
            wrong(role.pin, f"the PIN of role {role.name!r} is not text", 'make it "string" or ["null", "string"]')
        if not role.match and not one.register:
            listed = ", ".join(comparable) or "fields of the register"
            wrong(role.pin, f"nothing of role {role.name!r} is checked against the register", f"add 'match': {listed}")
        for theirs in role.match:
            if register and theirs not in comparable:
                wrong(role.match[theirs], f"{theirs!r} is no field of the register that can be compared", _known(comparable))
    if one.register and not comparable:
        wrong("", "no field of the register says how it is compared", "add 'compare' to name, birth date and sex")


def _comparable(register: Dataset | None) -> list[str]:
    return [f["name"] for f in register.row["fields"] if f.get("compare")] if register else []


def _known(names: Iterable[str]) -> str:
    return f"known are {', '.join(names)}"


def _base(avro_type: Any) -> Any:
    inner = avro_type[1] if isinstance(avro_type, list) and len(avro_type) == 2 else avro_type
    return inner["type"] if isinstance(inner, dict) else inner
