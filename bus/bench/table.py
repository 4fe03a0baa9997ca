"""The rows of a comparison as a table: medians over the rounds, and ours against Kafka Streams."""

from __future__ import annotations

import statistics
from typing import Any

from bus.bench import kafka_streams, ours
from bus.bench.run import OK, Figures

Column = list[Figures]
"""The rows of one engine in one mode, one a round."""
SHOWN = {
    "drain": {
        "events/s": "events_per_second",
        "outputs/s": "outputs_per_second",
        "CPU s per million events": "cpu_seconds_per_million",
        "broker's CPU s per million events": "broker_cpu_seconds_per_million",
        "peak RSS, MB": "peak_rss_mb",
        "highest peak RSS of one process, MB": "highest_process_rss_mb",
        "start to first progress, s": "start_seconds",
        "restore of the register, s": "restore_seconds",
        "CPU used by others, %": "other_cpu_percent",
    },
    "steady": {
        "p50, ms": "p50_ms",
        "p99, ms": "p99_ms",
        "max, ms": "max_ms",
        "CPU s per million events, steady": "cpu_seconds_per_million",
        "peak RSS, MB, steady": "peak_rss_mb",
    },
}
NOTES = (
    "Ours also makes event ids, sequence numbers, row keys and an audit line; it delivers a delete without data and whatever its",
    "verdict, the Streams application with the row and by verdict. Restore: ours keeps its replica on disk, filled once",
    "(first_restore_s in --json); Streams reads the register again at each start. RSS: sum over processes.",
)


def table(rows: list[Figures]) -> str:
    """In Markdown."""
    lines = ["| | Kafka Streams | ours | ratio |", "|---|---|---|---|"]
    for mode, figures in SHOWN.items():
        there, here = (_of(rows, mode, name) for name in (kafka_streams.NAME, ours.NAME))
        if not here:
            continue
        lines += [compared(title, there, here, figure) for title, figure in figures.items()]
        lines.append(f"| check, {mode} | {_check(there)} | {_check(here)} | |")
    return "\n".join([*lines, "", *NOTES])


def failed(rows: list[Figures]) -> list[str]:
    return [f"{row['engine']}, {row['mode']}: {row['check']}" for row in rows if row["check"] != OK]


def _of(rows: list[Figures], mode: str, engine: str) -> list[Figures]:
    return [row for row in rows if row["mode"] == mode and row["engine"] == engine]


def compared(title: str, there: Column, here: Column, figure: str) -> str:
    """One figure as a line of the table: theirs, ours, ours divided by theirs."""
    left, right = _median(there, figure), _median(here, figure)
    ratio = f"{right / left:.2f}" if left and right is not None else ""
    return f"| {title} | {_cell(there, figure)} | {_cell(here, figure)} | {ratio} |"


def _values(rows: list[Figures], figure: str) -> list[Any]:
    return [row[figure] for row in rows if row.get(figure) is not None]


def _median(rows: list[Figures], figure: str) -> float | None:
    found = _values(rows, figure)
    return float(statistics.median(found)) if found else None


def _cell(rows: list[Figures], figure: str) -> str:
    """The median, and the extremes where there were several rounds."""
    found = _values(rows, figure)
    if not found:
        return "-"
    span = f" ({min(found):,}–{max(found):,})" if len(found) > 1 else ""
    return f"{statistics.median(found):,}{span}"


def _check(rows: list[Figures]) -> str:
    if not rows:
        return "-"
    return OK if all(row["check"] == OK for row in rows) else "FAILED"
