"""The checker shares no code with what it judges: a slip made once would be made twice and never seen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ALLOWED = {"bus", "bus.access", "bus.config", "bus.core.topics", "bus.avro.dataset"}
_TOP = ("bus", "connectors")


def imports(source: str) -> Iterator[str]:
    """Modules of the product that a source imports, by full name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in _TOP)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _TOP:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in ALLOWED else node.module for name in whole)


def test_only_settings_names_and_schemas_are_shared() -> None:
    found = {p.name: set(imports(p.read_text(encoding="utf-8"))) for p in Path(__file__).parent.glob("*.py")}
    assert found["collect.py"] & ALLOWED, "the scan finds nothing"
    assert {name: names - ALLOWED for name, names in found.items() if names - ALLOWED} == {}


def test_a_forbidden_import_is_seen() -> None:
    assert set(imports("from bus.engine import plan\nimport bus.avro.walker\nfrom bus import access")) == {
        "bus.engine",
        "bus.avro.walker",
        "bus.access",
    }
