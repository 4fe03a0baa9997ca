"""Agreements as files, one YAML document each under `settings.agreements`, read all or none, and as canonical JSON.

A file that is wrong in any way stops the load, and every problem of every file is named at once: an agreement that is
half understood would deliver too much or too little. docs/agreements.md says how to write one. The engine reads no files: it
follows the canonical forms in `bus.agreements` (bus.engine.agreement_log).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bus.avro.dataset import Dataset, register_of
from bus.config import Settings
from bus.core.agreement import GIVER, Agreement, Delivery, Grant, GrantedField, Mask, Terms
from bus.engine import yaml_lines
from bus.engine.grants import Checker, ReadGrant, read_grant
from bus.engine.terms import (
    TERMS_KEYS,
    delivery_content,
    parsed_delivery,
    parsed_terms,
    read_delivery,
    read_terms,
    terms_content,
)
from bus.engine.yaml_lines import Item, Problem

_KEYS = ("agency", "name", "purpose", "legal_basis", "valid_from", "valid_until", "past", "delivery", *TERMS_KEYS, "datasets")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_NAME_CHARS = 60
_ID_PARTS = 2
_PASTS = ("none", "all")
TEST_SUFFIX = ".test.yaml"
"""How the name of a file ends that says what an agreement must do (bus.trial), and is none itself."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AgreementError(ValueError):
    """One or more agreement files cannot be used; `problems` has each with file, line, reason and remedy."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line)))
        found = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the agreements"
        count = f"{found}; none of the files is used until all are mended:"
        super().__init__("\n".join([count, *map(str, self.problems)]))


def load(settings: Settings, datasets: Mapping[str, Dataset]) -> dict[str, Agreement]:
    """All agreements by id, in id order. Raises AgreementError with every problem of every file."""
    root = settings.agreements
    problems: list[Problem] = []
    if not root.is_dir():
        raise AgreementError(
            [Problem(str(root), 0, "no such directory", "set 'agreements' to the directory with the agreement files")]
        )
    problems.extend(
        Problem(str(stray), 0, "agreement files end in .yaml", f"rename it to {stray.stem}.yaml")
        for stray in sorted(root.glob("*.yml"))
    )
    register = register_of(dict(datasets))
    found: dict[str, tuple[Agreement, str]] = {}
    for path in sorted(p for p in root.glob("*.yaml") if not p.name.endswith(TEST_SUFFIX)):
        document = yaml_lines.read(path, problems)
        agreement = _agreement(Checker(str(path), datasets, register, problems), document) if document else None
        if agreement is None:
            continue
        if agreement.id in found:
            problems.append(
                Problem(str(path), 1, f"agreement {agreement.id!r} exists already", f"the other is {found[agreement.id][1]}")
            )
        found[agreement.id] = agreement, str(path)
    if problems:
        raise AgreementError(problems)
    return {name: found[name][0] for name in sorted(found)}


def read(path: Path, datasets: Mapping[str, Dataset]) -> Agreement:
    """The agreement of one file, wherever it lies. Raises AgreementError with every problem of it."""
    problems: list[Problem] = []
    document = yaml_lines.read(path, problems)
    check = Checker(str(path), datasets, register_of(dict(datasets)), problems)
    made = _agreement(check, document) if document else None
    if made is None or problems:
        raise AgreementError(problems)
    return made


def canonical(agreement: Agreement) -> bytes:
    """The agreement as RFC 8785 JSON (UTF-8): what its grant hash is taken of.

    All keys are ASCII and all numbers whole and below 2^53, so that Python's sorted, compact output is the canonical one.
    """
    content: dict[str, object] = {
        "agency": agreement.agency,
        "grants": [_grant_content(g) for g in agreement.grants],
        "id": agreement.id,
        "legal_basis": agreement.legal_basis,
        "purpose": agreement.purpose,
        "valid_from_ms": agreement.valid_from_ms,
        "valid_until_ms": agreement.valid_until_ms,
    }
    if agreement.past:  # this and what follows: absent where there is none, so that the hashes of older agreements stay
        content["past"] = "all"
    if agreement.delivery != Delivery():
        content["delivery"] = delivery_content(agreement.delivery)
    if agreement.terms != Terms():
        content["terms"] = terms_content(agreement.terms)
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("utf-8")


def _grant_content(grant: Grant) -> dict[str, object]:
    content: dict[str, object] = {
        "dataset": grant.dataset,
        "fields": [{"mask": str(f.mask), "name": f.name} for f in grant.fields],
        "share_verdict": grant.share_verdict,
        "verdicts": list(grant.verdicts),
        "where": {column: list(values) for column, values in grant.where},
    }
    return content | ({"sensitive_basis": dict(grant.sensitive_basis)} if grant.sensitive_basis else {})


def grant_hash(agreement: Agreement) -> bytes:
    """32 bytes: SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(agreement)).digest()


def parse(value: bytes) -> Agreement:
    """The agreement of a canonical form. Raises ValueError for anything that `canonical` would not write; it quotes nothing."""
    try:
        found = json.loads(value)
        past = found.get("past", "none")
        grants = tuple(_parsed_grant(g) for g in found["grants"])
        name, agency, purpose, basis = (str(found[key]) for key in ("id", "agency", "purpose", "legal_basis"))
        begins, ends = found["valid_from_ms"], found["valid_until_ms"]
        delivery = parsed_delivery(found["delivery"]) if "delivery" in found else Delivery()
        terms = parsed_terms(found.get("terms", {}))
        made = _hashed(Agreement(name, agency, purpose, basis, grants, begins, ends, b"", past == "all", delivery, terms))
        same = canonical(made) == value
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("not an agreement") from None
    if not same:
        raise ValueError("not an agreement in its canonical form")
    parts = made.id.split(".")
    if len(parts) != _ID_PARTS or parts[0] != made.agency or not all(map(_is_name, parts)):
        raise ValueError("its id is not '<agency>.<name>'")
    if not _is_time(made.valid_from_ms) or not (made.valid_until_ms is None or _is_time(made.valid_until_ms)):
        raise ValueError("its validity is not in whole milliseconds")
    return made


def _parsed_grant(found: Any) -> Grant:
    fields = tuple(GrantedField(str(f["name"]), Mask.of(f["mask"])) for f in found["fields"])
    where = tuple((str(column), tuple(map(str, values))) for column, values in found["where"].items())
    basis = tuple((str(name), str(law)) for name, law in sorted(found.get("sensitive_basis", {}).items()))
    return Grant(str(found["dataset"]), fields, where, tuple(map(str, found["verdicts"])), found["share_verdict"] is True, basis)


def _is_time(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and len(text) <= _MAX_NAME_CHARS


def _agreement(check: Checker, document: Item) -> Agreement | None:
    """One file. None when there are problems (they are in `check.problems`)."""
    before = len(check.problems)
    entries = check.keys(document, _KEYS, "an agreement")
    agency = _name(check, entries.get("agency"), "agency", document)
    if agency == GIVER:
        check.wrong(entries["agency"].line, f"{GIVER!r} is the party that gives", "name the agency that receives")
    name = _name(check, entries.get("name"), "name", document)
    purpose = check.text(entries.get("purpose"), "purpose", document)
    legal_basis = (entries["legal_basis"].text or "").strip() if "legal_basis" in entries else ""
    begins = _instant(check, entries.get("valid_from"), "valid_from")
    ends = _instant(check, entries.get("valid_until"), "valid_until") if "valid_until" in entries else None
    if "valid_from" not in entries:
        check.wrong(document.line, "'valid_from' is missing", "add 'valid_from: 2026-01-01T00:00:00+07:00'")
    if begins is not None and ends is not None and ends <= begins:
        check.wrong(entries["valid_until"].line, "the agreement ends before it begins", "put 'valid_until' after 'valid_from'")
    past = _past(check, entries.get("past"))
    grants = _grants(check, entries.get("datasets"), document)
    _check_basis(check, grants, legal_basis)
    delivery = read_delivery(check, entries.get("delivery"))
    terms = read_terms(check, entries, document)
    if len(check.problems) > before or begins is None:
        return None
    opened = tuple(g.grant for g in grants)
    made = Agreement(f"{agency}.{name}", agency, purpose, legal_basis, opened, begins, ends, b"", past, delivery, terms)
    return _hashed(made)


def _hashed(made: Agreement) -> Agreement:
    return replace(made, grant_hash=grant_hash(made))


def _name(check: Checker, item: Item | None, key: str, parent: Item) -> str:
    """A part of topic names, principals and metric labels, so kept plain."""
    text = check.text(item, key, parent)
    if item is not None and text and not _is_name(text):
        check.wrong(
            item.line, f"{key} {text!r} cannot be part of a topic name", "use a-z, 0-9 and single hyphens, at most 60 characters"
        )
    return text


def _past(check: Checker, item: Item | None) -> bool:
    if item is None:
        return False
    if item.text not in _PASTS:
        found = item.text or item.kind()
        check.wrong(item.line, f"'past' must be none or all, found {found!r}", "write 'past: all', or leave it out")
    return item.text == "all"


def _instant(check: Checker, item: Item | None, key: str) -> int | None:
    """Unix milliseconds of an ISO 8601 instant with a zone."""
    if item is None:
        return None
    example = f"write it like '{key}: 2026-01-01T00:00:00+07:00'"
    try:
        moment = datetime.fromisoformat((item.text or "").strip())
    except ValueError:
        check.wrong(item.line, f"{key!r} is not an ISO 8601 instant", example)
        return None
    if moment.tzinfo is None:
        check.wrong(item.line, f"{key!r} has no time zone", example)
        return None
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _grants(check: Checker, item: Item | None, parent: Item) -> list[ReadGrant]:
    if item is None or not item.items:
        check.wrong(parent.line if item is None else item.line, "no datasets", "list what is granted under 'datasets:'")
        return []
    grants: dict[str, ReadGrant] = {}
    for entry in item.items:
        read = read_grant(check, entry)
        if read is None:
            continue
        if read.grant.dataset in grants:
            check.wrong(
                entry.line, f"dataset {read.grant.dataset!r} is granted twice", "join the two, or make a second agreement"
            )
        grants[read.grant.dataset] = read
    return list(grants.values())


def _check_basis(check: Checker, grants: list[ReadGrant], legal_basis: str) -> None:
    """Personal data are shared on a legal basis or not at all."""
    if legal_basis:
        return
    for grant in grants:
        if grant.personal:
            field, kind, line = grant.personal
            check.wrong(
                line, f"{field!r} is {kind} personal data, but the agreement names no legal basis", "add 'legal_basis: …'"
            )
