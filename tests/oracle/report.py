"""What the checker found: anomalies by kind, each kind with its smallest witness, and counts of what was looked at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MOST_KEPT = 50
"""Anomalies kept of each kind; the count goes on."""

KINDS = {
    "lost": "a committed change, or a delivery the agreement calls for, is nowhere",
    "duplicate": "the same event twice in one topic",
    "reordered": "order of one row, person or lane broken",
    "phantom": "an event or delivery that no committed change explains",
    "torn": "a source transaction is partly in the snapshot and partly in the stream, or captured in part",
    "wrong-field": "a value differs from the table's, or from what the agreement makes of it",
    "leaked-field": "a delivery carries a field or a value its agreement does not grant",
    "leaked-row": "a delivery of a row its agreement does not open",
    "canary": "personal data of a canary person where nobody may see it",
    "seq-gap": "the numbers of an agency's deliveries are not dense from 1",
    "wrong-reason": "the recorded outcome is not the one that follows from event, verdict and agreement",
    "wrong-verdict": "the verdict does not follow from the row and the register version it names",
    "stale-register": "an older register version than one already used, or older than allowed",
    "wrong-person": "the register version belongs to somebody else",
    "audit-mismatch": "audit lines do not add up to what the topics hold",
    "unexplained": "an input record is neither verified nor dead-lettered, or both",
    "wrong-dead": "a dead letter that is not one, or whose bytes were touched",
    "wrong-key": "message key or lane is not the one that follows from the row",
    "wrong-position": "event id, transaction or ordinal contradict the position",
    "misrouted": "a record says it belongs to another topic or agreement",
    "harness": "the journal contradicts the tables: the run cannot be judged",
}


@dataclass(frozen=True, slots=True)
class Anomaly:
    kind: str
    where: str
    """Topic or table, with lane and offset where there are any."""
    what: str


@dataclass(slots=True)
class Report:
    anomalies: list[Anomaly] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Kind -> how many were found, those not kept included."""
    facts: Counter[str] = field(default_factory=Counter)
    """What was looked at: events, deliveries, verdicts, …"""

    def add(self, kind: str, where: str, what: str) -> None:
        assert kind in KINDS, kind
        self.counts[kind] += 1
        if self.counts[kind] <= MOST_KEPT:
            self.anomalies.append(Anomaly(kind, where, what))

    def kinds(self) -> set[str]:
        return set(self.counts)

    def witness(self, kind: str) -> Anomaly:
        """The smallest of a kind: the one that takes the fewest words."""
        return min((a for a in self.anomalies if a.kind == kind), key=lambda a: (len(a.where) + len(a.what), a.where, a.what))

    def __str__(self) -> str:
        head = ", ".join(f"{n} {what}" for what, n in sorted(self.facts.items()))
        if not self.counts:
            return f"no anomaly in {head}"
        lines = [f"{sum(self.counts.values())} anomalies in {head}"]
        for kind, count in self.counts.most_common():
            w = self.witness(kind)
            lines.append(f"  {kind} x{count} ({KINDS[kind]})\n      {w.where}: {w.what}")
        return "\n".join(lines)
