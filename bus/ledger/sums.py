"""The sums of the conservation ledger and the places where they do not come out, as values ready for JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MOST_TOLD = 50
"""Findings told of one kind, dataset and agreement, so that many of one kind hide no other; all are counted."""


@dataclass(slots=True)
class DatasetSums:
    """captured + redriven = decided + dead letters + waiting."""

    captured: int = 0
    redriven: int = 0
    """Copies of dead letters that were put through again."""
    decided: int = 0
    """Verified events."""
    dead: Counter[str] = field(default_factory=Counter)
    """By code."""
    at_capture: Counter[str] = field(default_factory=Counter)
    """By code: what capture could not make an event of; captured nowhere else."""
    waiting: int = 0
    compacted: int = 0
    """Captured and decided, and compacted away since: the register's topic keeps the newest record of a key."""

    @property
    def difference(self) -> int:
        return self.captured + self.redriven - self.decided - self.dead.total() - self.waiting

    def told(self) -> dict[str, Any]:
        return {
            "captured": self.captured,
            "redriven": self.redriven,
            "decided": self.decided,
            "dead_lettered": dict(self.dead),
            "dead_at_capture": dict(self.at_capture),
            "waiting": self.waiting,
            "compacted": self.compacted,
            "difference": self.difference,
        }


@dataclass(slots=True)
class AgreementSums:
    """Of one dataset under one agreement: captured + redriven = delivered + withheld + dead letters + waiting."""

    captured: int = 0
    """While the agreement was on the dataset."""
    redriven: int = 0
    delivered: int = 0
    """Found in the agency's topic."""
    withheld: Counter[str] = field(default_factory=Counter)
    dead: int = 0
    waiting: int = 0
    past: Counter[str] = field(default_factory=Counter)
    """By outcome: what it was given of before it was switched on, by the audit; what came of it is checked in the topic."""

    @property
    def difference(self) -> int:
        return self.captured + self.redriven - self.delivered - self.withheld.total() - self.dead - self.waiting

    def told(self) -> dict[str, Any]:
        return {
            "captured": self.captured,
            "redriven": self.redriven,
            "delivered": self.delivered,
            "withheld": dict(self.withheld),
            "dead_lettered": self.dead,
            "waiting": self.waiting,
            "past": dict(self.past),
            "difference": self.difference,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not come out. `agreement` is '' for what concerns the dataset, `dataset` '' where it is not known."""

    kind: str
    dataset: str
    agreement: str
    topic: str
    lane: int
    offset: int
    """-1 where the record that ought to stand there is missing."""
    detail: dict[str, Any]

    def told(self) -> dict[str, Any]:
        about = {"kind": self.kind, "dataset": self.dataset, "agreement": self.agreement, "topic": self.topic, "lane": self.lane}
        return about | ({"offset": self.offset} if self.offset >= 0 else {}) | self.detail


@dataclass(slots=True)
class Books:
    """All sums of one ledger, over the lanes read so far."""

    datasets: dict[str, DatasetSums] = field(default_factory=dict)
    agreements: dict[tuple[str, str], AgreementSums] = field(default_factory=dict)
    """(dataset, agreement)."""
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(dataset, agreement) -> findings."""
    findings: list[Finding] = field(default_factory=list)
    _told: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    lines: int = 0
    """Audit lines."""

    def of(self, dataset: str) -> DatasetSums:
        return self.datasets.setdefault(dataset, DatasetSums())

    def between(self, dataset: str, agreement: str) -> AgreementSums:
        return self.agreements.setdefault((dataset, agreement), AgreementSums())

    def find(self, finding: Finding) -> None:
        self.found[finding.dataset, finding.agreement] += 1
        place = finding.dataset, finding.agreement, finding.kind
        self._told[place] += 1
        if self._told[place] <= MOST_TOLD:
            self.findings.append(finding)

    @property
    def clean(self) -> bool:
        differences = [one.difference for one in self.datasets.values()] + [one.difference for one in self.agreements.values()]
        return not self.found and not any(differences)

    def told(self) -> dict[str, Any]:
        agreements: dict[str, dict[str, Any]] = {}
        for (dataset, agreement), sums in sorted(self.agreements.items()):
            agreements.setdefault(agreement, {})[dataset] = sums.told()
        return {
            "ok": self.clean,
            "audit_lines": self.lines,
            "datasets": {name: sums.told() for name, sums in sorted(self.datasets.items())},
            "agreements": agreements,
            "findings": self.found.total(),
            "differences": [finding.told() for finding in self.findings],
        }
