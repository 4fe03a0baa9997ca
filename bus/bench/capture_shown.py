"""The rows of a capture comparison as a table: medians over the rounds, and ours against Debezium."""

from __future__ import annotations

from typing import Any

from bus.bench import captures, debezium
from bus.bench.capture import INSERTS, LATENCY, OK, SNAPSHOT, UPDATES
from bus.bench.table import Column, compared

Figures = dict[str, Any]
_DRAINED = {
    "changes/s": "changes_per_second",
    "CPU µs a change": "cpu_us_per_change",
    "PostgreSQL's CPU µs a change": "postgres_cpu_us_per_change",
    "broker's CPU µs a change": "broker_cpu_us_per_change",
    "asked to first change, s": "start_seconds",
    "peak RSS, MB": "peak_rss_mb",
}
_TIMED = {"p50, ms": "p50_ms", "p99, ms": "p99_ms", "max, ms": "max_ms", "CPU µs a change": "cpu_us_per_change"}
NOTES = (
    "Ours writes Avro with an event id and a person key on every record, Debezium JSON without schemas. Debezium's worker is one",
    "Java process for all rounds, ours a new process for each phase; peak RSS is the highest so far in the round.",
)


def table(rows: list[Figures]) -> str:
    """In Markdown. The latency of ours once for each capture.linger_ms."""
    lines = ["| | Debezium | ours | ratio |", "|---|---|---|---|"]
    for mode in (SNAPSHOT, INSERTS, UPDATES):
        there, here = (_of(rows, mode, name) for name in (debezium.NAME, captures.OURS))
        lines += [compared(f"{mode}: {title}", there, here, figure) for title, figure in _DRAINED.items()]
    there, mine = _of(rows, LATENCY, debezium.NAME), _of(rows, LATENCY, captures.OURS)
    for linger_ms in sorted({row["linger_ms"] for row in mine}, reverse=True):
        timed: Column = [row for row in mine if row["linger_ms"] == linger_ms]
        at = f"latency, capture.linger_ms {linger_ms}"
        lines += [compared(f"{at}: {title}", there, timed, figure) for title, figure in _TIMED.items()]
    for name in (debezium.NAME, captures.OURS):
        if found := [row["check"] for row in rows if row["engine"] == name]:
            lines.append(f"| check, {name} | {OK if set(found) == {OK} else 'FAILED'} | | |")
    return "\n".join([*lines, "", *NOTES])


def _of(rows: list[Figures], mode: str, engine: str) -> Column:
    return [row for row in rows if row["mode"] == mode and row["engine"] == engine]
