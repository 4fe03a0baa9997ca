"""The audit line: what one transaction did in one lane, committed with it or not at all."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import fastavro

from bus.avro import frame
from bus.avro.derive import AUDIT_LINE
from bus.core import topics
from bus.engine.policy import Policy


@dataclass(slots=True)
class InputSpan:
    """What was read of one topic in one lane: offsets [first, next), `events` records of which `dead` were dead letters."""

    first: int
    next: int
    events: int = 0
    dead: int = 0


@dataclass(slots=True)
class PastSpan:
    """What an agreement was given of one `verified.*` topic in one lane: of offsets [first, next) `events` records, of which
    `decided` had been decided on when they came."""

    first: int
    next: int
    events: int = 0
    decided: int = 0


@dataclass(slots=True)
class LaneCount:
    """What a transaction did in one lane, as it adds up."""

    inputs: dict[str, InputSpan] = field(default_factory=dict)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(dataset, verdict) -> events."""
    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(agreement, dataset, outcome) -> events."""
    change: Change | None = None
    past: dict[tuple[str, str], PastSpan] = field(default_factory=dict)
    """(agreement, dataset) -> what it was given of its past."""
    past_outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    caught_up: dict[str, tuple[Mapping[str, int], Mapping[str, int]]] = field(default_factory=dict)
    """Agreement -> next offsets of `verified.*` topics and of inputs."""


@dataclass(frozen=True, slots=True)
class Change:
    """The agreements under which a lane is worked from this transaction on. `before`: the digest of those until now."""

    before: str
    policy: Policy
    inputs: Mapping[str, int]
    """Input topic -> its first offset under them."""

    def content(self) -> dict[str, object]:
        listed = [
            {"agreement": a.id, "grant_hash": a.grant_hash, "datasets": [g.dataset for g in a.grants]}
            for a in self.policy.agreements
        ]
        return {
            "before": self.before,
            "after": self.policy.digest,
            "version": self.policy.version,
            "agreements": listed,
            "inputs": _places(self.inputs),
        }


def _places(found: Mapping[str, int]) -> list[dict[str, object]]:
    return [{"topic": topic, "next_offset": at} for topic, at in sorted(found.items())]


def _outcomes(found: Counter[tuple[str, str, str]]) -> list[dict[str, object]]:
    return [{"agreement": a, "dataset": d, "outcome": o, "count": n} for (a, d, o), n in found.items()]


class AuditEncoder:
    """Audit lines of one worker. `schema_id`: the id of AUDIT_LINE in the catalogue."""

    def __init__(self, worker: str, schema_id: int) -> None:
        self._worker = worker
        self._header = frame.header(schema_id)
        self._schema = fastavro.parse_schema(AUDIT_LINE)

    def encode(
        self, lane: int, decided_at_ms: int, policy: str, count: LaneCount, deliveries: Mapping[str, tuple[int, int]]
    ) -> bytes:
        """A framed AuditLine. `deliveries`: agreement -> (first, last) seq given out."""
        line = {
            "worker": self._worker,
            "lane": lane,
            "decided_at_ms": decided_at_ms,
            "policy": policy,
            "inputs": [
                {"topic": topic, "first_offset": i.first, "next_offset": i.next, "events": i.events, "dead": i.dead}
                for topic, i in count.inputs.items()
            ],
            "verdicts": [{"dataset": d, "verdict": v, "count": n} for (d, v), n in count.verdicts.items()],
            "outcomes": _outcomes(count.outcomes),
            "deliveries": [{"agreement": a, "first_seq": first, "last_seq": last} for a, (first, last) in deliveries.items()],
            "change": count.change.content() if count.change else None,
            "past": [
                {"agreement": a, "topic": topics.verified(d), "first_offset": s.first, "next_offset": s.next}
                | {"events": s.events, "decided": s.decided}
                for (a, d), s in count.past.items()
            ],
            "past_outcomes": _outcomes(count.past_outcomes),
            "caught_up": [
                {"agreement": a, "past": _places(past), "inputs": _places(inputs)}
                for a, (past, inputs) in count.caught_up.items()
            ],
        }
        out = io.BytesIO()
        out.write(self._header)
        fastavro.schemaless_writer(out, self._schema, line)
        return out.getvalue()
