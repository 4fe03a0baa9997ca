"""The points of a growth measurement as a table and as plots."""

from __future__ import annotations

from collections.abc import Sequence

from bus.bench import plot
from bus.bench.growth import AGREEMENTS, PEOPLE, RECORD, Point

_AXES = {
    PEOPLE: ("Cost of an event as the register grows", "people in the register's replica"),
    AGREEMENTS: (
        "Cost of an event as agreements grow",
        "agreements on the dataset, each with a filter on the commune; one admits",
    ),
    RECORD: ("Cost of an event as records grow", "size of the change event, bytes"),
}
_COST = "CPU µs an event, without Kafka's client"


def table(points: Sequence[Point]) -> str:
    """In Markdown: a line for each x, the median round and in brackets the cheapest and the dearest."""
    lines = []
    for axis, (_, x_label) in _AXES.items():
        found = [p for p in points if p.axis == axis]
        if not found:
            continue
        columns = list(dict.fromkeys((p.line, p.engine) for p in found))
        lines += [f"| {x_label} | " + " | ".join(f"{line}, {engine}" for line, engine in columns) + " |"]
        lines += ["|---" * (len(columns) + 1) + "|"]
        for x in dict.fromkeys(p.x for p in found):
            cells = {(p.line, p.engine): f"{p.cpu_us} ({p.least_us}–{p.most_us})" for p in found if p.x == x}
            lines.append(f"| {x:,} | " + " | ".join(cells.get(column, "-") for column in columns) + " |")
        lines.append("")
    return "\n".join([*lines, f"{_COST}: the median round (the cheapest and the dearest)."])


def plots(points: Sequence[Point]) -> dict[str, str]:
    """File name -> SVG, one for each thing that grew."""
    found = {}
    for axis, (title, x_label) in _AXES.items():
        names = list(dict.fromkeys((p.line, p.engine) for p in points if p.axis == axis))
        kinds = list(dict.fromkeys(line for line, _ in names))
        lines = []
        for line, engine in names:
            places = [(p.x, p.cpu_us) for p in points if (p.axis, p.line, p.engine) == (axis, line, engine)]
            lines.append(plot.Line(f"{line}, {engine}", kinds.index(line), engine == "Python", places))
        if lines:
            found[f"growth-{axis}.svg"] = plot.log_log(title, x_label, _COST, lines, short)
    return found


def short(number: float) -> str:
    """'10 thousand', '2.5 million'."""
    for size, word in ((1_000_000, " million"), (10_000, " thousand")):
        if number >= size:
            return f"{number / (1_000 if size == 10_000 else size):g}{word}"
    return f"{number:,g}"
