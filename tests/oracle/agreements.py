"""Agreements read from their YAML once more, in the plainest way, so that a slip in the bus's own reader shows.

The grant hash too: SHA-256 of the agreement as canonical JSON (RFC 8785: sorted keys, nothing between them, UTF-8), instants in
Unix milliseconds, verdicts and the values of a row filter in order, the purpose and the legal basis as text without the
blanks around it; `past`, `delivery`, terms and bases of sensitive fields only where they are written.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tests.oracle.history import Agreement, Grant

GRAVITY = ("MATCH", "NO_PIN", "NOT_FOUND", "MISMATCH")


def read_all(root: Path) -> list[Agreement]:
    """Every *.yaml under `root` but the tests, by id."""
    files = [p for p in root.glob("*.yaml") if not p.name.endswith(".test.yaml")]
    found = [_agreement(yaml.load(p.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)) for p in files]
    return sorted(found, key=lambda a: a.id)


def _agreement(text: dict[str, Any]) -> Agreement:
    until = text.get("valid_until")
    grants = tuple(_grant(g) for g in text["datasets"])
    name, begins, ends = f"{text['agency']}.{text['name']}", _ms(text["valid_from"]), _ms(until) if until else None
    content: dict[str, Any] = {
        "id": name,
        "agency": text["agency"],
        "purpose": text["purpose"].strip(),
        "legal_basis": text.get("legal_basis", "").strip(),
        "valid_from_ms": begins,
        "valid_until_ms": ends,
        "grants": [_content(g) for g in grants],
    }
    if text.get("past") == "all":
        content["past"] = "all"
    if text.get("delivery", "topic") != "topic":
        content["delivery"] = text["delivery"]
    terms = {key: text[key] for key in ("procedure", "officer_role", "data_life", "contacts") if key in text}
    if terms:
        content["terms"] = terms
    for plain, made in zip(text["datasets"], content["grants"], strict=True):
        made.update({"sensitive_basis": plain["sensitive_basis"]} if "sensitive_basis" in plain else {})
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Agreement(name, text["agency"], grants, begins, ends, hashlib.sha256(canonical.encode()).digest())


def _content(grant: Grant) -> dict[str, object]:
    return {
        "dataset": grant.dataset,
        "fields": [{"name": name, "mask": mask} for name, mask in grant.fields],
        "where": {column: sorted(set(values)) for column, values in grant.where},
        "verdicts": sorted(set(grant.verdicts), key=GRAVITY.index),
        "share_verdict": grant.share_verdict,
    }


def _ms(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def _grant(text: dict[str, Any]) -> Grant:
    fields = tuple((f, "plain") if isinstance(f, str) else next(iter(f.items())) for f in text["fields"])
    where = tuple((column, _listed(values)) for column, values in text.get("where", {}).items())
    return Grant(text["dataset"], fields, where, _listed(text.get("verdicts", [])), text.get("share_verdict") == "true")


def _listed(values: str | list[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
