"""Which agency databases this home embeds."""

from __future__ import annotations

from pathlib import Path

from bus.config import ROOT, Settings

_TABLES = "tables.sql"


def domains(settings: Settings) -> list[str]:
    """The embedded agencies: folders under connectors/ with a tables.sql, but for those whose database is configured."""
    found = sorted(path.parent.name for path in (ROOT / "connectors").glob(f"*/{_TABLES}"))
    return [name for name in found if name not in settings.postgres.dsn]


def tables(domain: str) -> Path:
    """The SQL file with a domain's tables."""
    return ROOT / "connectors" / domain / _TABLES
