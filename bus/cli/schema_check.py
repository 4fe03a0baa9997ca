"""`bus schema check`: files and, where a database can be asked, tables; all problems at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from bus import access
from bus.avro.dataset import Dataset, SchemaError
from bus.config import ConfigError, Settings
from bus.contracts import rules
from bus.contracts.rules import Problem
from connectors.capture import fit, source
from connectors.capture.errors import Interrupted, Refusal


@dataclass(frozen=True, slots=True)
class Checked:
    """`problems`: also those that need no mending; `must_mend`: some do, or a database that was named could
    not be asked. `looked_at`: domains whose tables were compared."""

    problems: tuple[Problem, ...]
    must_mend: bool
    files: int
    looked_at: tuple[str, ...]
    not_looked_at: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return {
            "files": self.files,
            "problems": [asdict(p) for p in self.problems],
            "must_mend": self.must_mend,
            "tables_compared": list(self.looked_at),
            "tables_not_compared": self.not_looked_at,
        }

    def summary(self) -> str:
        tables = f"tables compared in {', '.join(self.looked_at)}" if self.looked_at else "no tables compared"
        skipped = "".join(f"\n{domain}: tables not compared: {why}" for domain, why in self.not_looked_at.items())
        count = len(self.problems)
        return f"{self.files} files, {tables}, {count or 'no'} {'problem' if count == 1 else 'problems'}.{skipped}"


def run(settings: Settings, paths: list[Path], databases: list[str]) -> Checked:
    """`paths`: what to tell about, all when empty. Every schema is read all the same: people are checked against the register.

    Raises SchemaError for paths and databases that are none.
    """
    wanted = _files(paths)
    texts = {path: _text(path) for path in sorted({*settings.schemas.glob("*/*.avsc"), *wanted})}
    if not texts:
        raise SchemaError(f"no schemas under {settings.schemas}: expected <domain>/<table>.avsc")
    datasets, found = rules.check(texts)
    files = {f"{path.parent.name}.{path.stem}": path for path in texts}
    told = {str(path) for path in wanted or texts}
    dsns, skipped = _dsns(settings, databases, {d.domain for d in datasets.values() if str(files[d.name]) in told})
    problems = [p for p in found if p.file in told]
    must_mend, looked_at = bool(problems), []
    for domain, dsn in dsns.items():
        mine = [d for d in datasets.values() if d.domain == domain and str(files[d.name]) in told]
        try:
            for one, finding in _tables(dsn, domain, mine):
                problems.append(Problem(str(files[one.name]), finding.field, finding.reason, finding.remedy))
                must_mend |= finding.stops
            looked_at.append(domain)
        except (Refusal, Interrupted, psycopg.Error) as error:
            skipped[domain] = str(error).strip().splitlines()[0]
            must_mend |= bool(databases)  # who names a database wants to know of its tables
    return Checked(tuple(sorted(problems)), must_mend, len(told), tuple(looked_at), skipped)


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted({*path.glob("*.avsc"), *path.glob("*/*.avsc")})
        elif path.exists():
            found.append(path)
        else:
            raise SchemaError(f"{path}: there is no such file or folder")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: cannot be read: {error}") from None


def _dsns(settings: Settings, databases: list[str], domains: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Domain -> DSN of what to compare, and domain -> why it is not compared. With `databases`, only those."""
    found: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for text in databases:
        domain, equals, dsn = text.partition("=")
        if not equals or domain not in domains:
            raise SchemaError(f"--database {domain}: write DOMAIN=DSN, with one of {', '.join(sorted(domains))}")
        found[domain] = dsn
    for domain in sorted(domains if not databases else ()):
        try:
            found[domain] = access.capture_dsn(settings, domain)
        except ConfigError as error:
            skipped[domain] = str(error)
    return found, skipped


def _tables(dsn: str, domain: str, datasets: list[Dataset]) -> Iterator[tuple[Dataset, fit.Finding]]:
    db = source.connect(dsn, domain)
    try:
        for one in datasets:
            for finding in fit.look(db, one):
                yield one, finding
    finally:
        db.close()
