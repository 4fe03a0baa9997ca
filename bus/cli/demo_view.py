"""What the demo shows while it runs: per dataset and per agreement, from the processes' own metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bus.core.outcome import Outcome
from bus.platform.health import Sample, flows

Latency = Mapping[str, float | None]


@dataclass(slots=True)
class Party:
    """One agreement, by the engine's count since its workers started."""

    delivered: int = 0
    withheld: Counter[str] = field(default_factory=Counter)


def parties(found: list[Sample]) -> dict[str, Party]:
    """Agreement -> counts, in name order, summed over datasets and workers."""
    made: dict[str, Party] = {}
    for name, labels, value in found:
        if name == "bus_outcomes_total":
            party = made.setdefault(labels["agreement"], Party())
            if labels["outcome"] == Outcome.DELIVERED.value:
                party.delivered += int(value)
            else:
                party.withheld[labels["outcome"]] += int(value)
    return dict(sorted(made.items()))


def streaming(found: list[Sample]) -> set[str]:
    """Databases whose snapshot is done."""
    return {labels["database"] for name, labels, value in found if name == "bus_capture_streaming" and value}


def lanes_owned(found: list[Sample]) -> int:
    """How many lanes the engine's workers have taken: all of them once the register is complete and the group has settled."""
    return sum(int(value) for name, _, value in found if name == "bus_engine_lanes")


def view(found: list[Sample], phase: str, changes: int, latency: Latency) -> Group:
    return Group(_sources(found), Text(), _agencies(found), Text(), _line(phase, changes, latency))


def _table(title: str, *columns: str) -> Table:
    table = Table(title, box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _sources(found: list[Sample]) -> Table:
    table = _table("source", "captured", "verified", "lag", "MATCH", "MISMATCH", "NOT_FOUND", "NO_PIN", "dead letters")
    for name, flow in flows(found).items():
        verdicts = (flow.verdicts.get(v, 0) for v in ("MATCH", "MISMATCH", "NOT_FOUND", "NO_PIN"))
        cells = (flow.captured, flow.processed, flow.lag_records, *verdicts, flow.dead_letters)
        table.add_row(name, *("" if n is None else f"{n:,}" for n in cells))
    return table


def _agencies(found: list[Sample]) -> Table:
    reasons = [o.value for o in Outcome if o is not Outcome.DELIVERED]
    table = _table("agency's agreement", "delivered", *(f"withheld: {r.lower().replace('_', ' ')}" for r in reasons))
    for name, party in parties(found).items():
        table.add_row(name, f"{party.delivered:,}", *(f"{party.withheld[r]:,}" for r in reasons))
    return table


def _line(phase: str, changes: int, latency: Latency) -> Text:
    measured = "" if latency["p50"] is None else f"   commit to delivery p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms"
    return Text(f"{phase}   {changes:,} row changes committed by the agencies{measured}", style="dim")
