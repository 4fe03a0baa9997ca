"""Audit lines against the topics: what was read, decided and given out, lane by lane, adds up exactly."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from bus.core import topics
from tests.oracle.expectation import gravest
from tests.oracle.history import History
from tests.oracle.report import Report


def check(history: History, report: Report) -> None:
    report.facts["audit lines"] += len(history.audit)
    told: Counter[tuple[object, ...]] = Counter()
    ranges: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    given: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for line in history.audit:
        _add(line, told, ranges, given)
    actual = _actual(history)
    for what in sorted({*told, *actual}, key=str):
        if told[what] != actual[what]:
            report.add(
                "audit-mismatch",
                topics.AUDIT,
                f"{' '.join(map(str, what))}: {told[what]} in the audit, {actual[what]} in the topics",
            )
    for (topic, lane), spans in ranges.items():
        _chain(f"{topic}[{lane}]", sorted(spans), report, 0)
    for (agreement, lane), spans in given.items():
        _chain(f"{topics.agency(agreement)}[{lane}]", [(first, last + 1) for first, last in spans], report, 1)


def _add(
    line: dict[str, Any],
    told: Counter[tuple[object, ...]],
    ranges: dict[tuple[str, int], list[tuple[int, int]]],
    given: dict[tuple[str, int], list[tuple[int, int]]],
) -> None:
    lane = line["lane"]
    for read in line["inputs"]:
        told[("read", read["topic"], lane)] += read["events"]
        told[("dead", read["topic"], lane)] += read["dead"]
        ranges[(read["topic"], lane)].append((read["first_offset"], read["next_offset"]))
    for v in line["verdicts"]:
        told[("verdict", v["dataset"], v["verdict"], lane)] += v["count"]
    for o in line["outcomes"]:
        told[("outcome", o["agreement"], o["dataset"], o["outcome"], lane)] += o["count"]
    for d in line["deliveries"]:
        told[("delivered", d["agreement"], lane)] += d["last_seq"] - d["first_seq"] + 1
        given[(d["agreement"], lane)].append((d["first_seq"], d["last_seq"]))


def _actual(history: History) -> Counter[tuple[object, ...]]:
    found: Counter[tuple[object, ...]] = Counter()
    for name, dataset in history.datasets.items():
        inputs = [r.lane for r in history.changes.get(name, [])] + [r.lane for r in history.undecodable.get(name, [])]
        for lane in inputs:
            found[("read", dataset.topic, lane)] += 1
        for letter in history.dead.get(name, []):
            if letter.headers.get("x-original-partition") != b"-1":
                found[("dead", dataset.topic, letter.lane)] += 1
        for verified in history.verified.get(name, []):
            lane = verified.event.lane
            found[("verdict", name, gravest([v["status"] for v in verified.verification]), lane)] += 1
            for d in verified.decisions:
                found[("outcome", d["agreement"], name, d["outcome"], lane)] += 1
    for agreement, deliveries in history.deliveries.items():
        for delivery in deliveries:
            found[("delivered", agreement, delivery.lane)] += 1
    return found


def _chain(where: str, spans: list[tuple[int, int]], report: Report, start: int) -> None:
    """Half-open spans follow each other without overlap; `seq` spans also without gaps (offsets may skip markers)."""
    at = start
    for first, following in spans:
        if first < at or (start == 1 and first != at):
            report.add("audit-mismatch", topics.AUDIT, f"{where}: a span begins at {first} where {at} is due")
        at = following
