"""Rules of the house that the import checker cannot say."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from bus.config import ROOT, Settings
from bus.platform import sources


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_core_imports_the_standard_library_only() -> None:
    for path in (ROOT / "bus" / "core").glob("*.py"):
        foreign = {name for name in imported(path) if name.split(".")[0] not in sys.stdlib_module_names}
        assert all(name.startswith("bus.core") for name in foreign), (path.name, foreign)


def test_no_code_outside_its_folder_names_an_agencys_domain() -> None:
    """A new agency is a folder under connectors/ and one under schemas/; anything else that knew its name would need an edit."""
    domains = set(sources.domains(Settings()))
    assert domains
    for path in (ROOT / "bus").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        named = {text for text in texts if text in domains or re.fullmatch(rf"({'|'.join(domains)})[.]\w+", text)}
        assert not named, (path, named)
