"""Agreements read from their YAML once more, in the plainest way, so that a slip in the bus's own reader shows."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tests.oracle.history import Agreement, Grant


def read_all(root: Path) -> list[Agreement]:
    """Every *.yaml under `root`, by id."""
    found = [_agreement(yaml.load(p.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)) for p in root.glob("*.yaml")]
    return sorted(found, key=lambda a: a.id)


def _agreement(text: dict[str, Any]) -> Agreement:
    until = text.get("valid_until")
    grants = tuple(_grant(g) for g in text["datasets"])
    return Agreement(
        f"{text['agency']}.{text['name']}", text["agency"], grants, _ms(text["valid_from"]), _ms(until) if until else None
    )


def _ms(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)


def _grant(text: dict[str, Any]) -> Grant:
    fields = tuple((f, "plain") if isinstance(f, str) else next(iter(f.items())) for f in text["fields"])
    where = tuple((column, _listed(values)) for column, values in text.get("where", {}).items())
    return Grant(text["dataset"], fields, where, _listed(text.get("verdicts", [])), text.get("share_verdict") == "true")


def _listed(values: str | list[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
