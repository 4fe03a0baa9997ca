"""A plot with logarithmic axes as SVG: what a page shows as an image, light or dark as its reader's system is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 52, 56
_COLOURS = (("#0060a8", "#6cb6ff"), ("#b3490a", "#f0a068"), ("#13744a", "#63c698"), ("#7c3f9c", "#d0a2ea"))
"""(on white, on black), for the first line and the next ones."""
_STEPS = (1, 2, 5)
_LABEL_PIXELS = 15
_MARK_PIXELS = 3.5
_STYLE = """\
text { font-family: system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; font-size: 13px; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 } .small { font-size: 12px }
.ground { fill: #ffffff } .grid { stroke: #d5dae0; stroke-width: 1 } .axis { stroke: #59636e; stroke-width: 1 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }"""
_DARK = """\
text { fill: #e6edf3 } .ground { fill: #0d1117 } .grid { stroke: #30363d } .axis { stroke: #9198a1 }"""


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order of x, all above 0. Lines of one `colour` (0 to 3) belong together; `dashed` tells them apart."""

    label: str
    colour: int
    dashed: bool
    points: Sequence[tuple[float, float]]


def log_log(title: str, x_label: str, y_label: str, lines: Sequence[Line], told: Callable[[float], str]) -> str:
    """The SVG document; `told` writes an x under its tick. The axes have a tick at each x, and at 1, 2, 5, 10, … of y.

    Raises ValueError for a value that has no logarithm, or no line at all.
    """
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [y for line in lines for _, y in line.points]
    if not xs or xs[0] <= 0 or min(ys) <= 0:
        raise ValueError("a logarithmic plot needs values above 0")
    ticks = _ticks(min(ys), max(ys))
    across = _scale(xs[0], xs[-1], _LEFT, WIDTH - _RIGHT)
    up = _scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP)
    parts = [_text(_LEFT, 26, title, "title"), _text(_LEFT, HEIGHT - 12, x_label), _text(_LEFT, 44, y_label, "small")]
    for y in ticks:
        parts += [_rule("grid", _LEFT, up(y), WIDTH - _RIGHT, up(y)), _text(_LEFT - 8, up(y) + 4, f"{y:,g}", "small", "end")]
    for x in xs:
        parts += [
            _rule("grid", across(x), _TOP, across(x), HEIGHT - _BOTTOM),
            _text(across(x), HEIGHT - _BOTTOM + 18, told(x), "small", "middle"),
        ]
    parts.append(_rule("axis", _LEFT, HEIGHT - _BOTTOM, WIDTH - _RIGHT, HEIGHT - _BOTTOM))
    for line in lines:
        parts += _drawn(line, [(across(x), up(y)) for x, y in line.points])
    for line, place in zip(lines, _apart([up(line.points[-1][1]) for line in lines]), strict=True):
        parts.append(_text(WIDTH - _RIGHT + 12, place + 4, line.label, f"small c{line.colour}"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
    ground = f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", _styles(), ground, *parts, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … from the last one not above `low` to the first one not below `high`; at least two."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    every = [step * 10.0**decade for decade in range(first, last + 1) for step in _STEPS]
    begin = max(i for i, tick in enumerate(every) if tick <= low)
    end = min(i for i, tick in enumerate(every) if tick >= high)
    return every[begin : max(end, begin + 1) + 1]


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """A value to its pixel; where all values are one, the middle."""
    if high == low:
        return lambda _: (begin + end) / 2
    return lambda value: begin + math.log(value / low) / math.log(high / low) * (end - begin)


def _apart(wanted: Sequence[float]) -> list[float]:
    """Places for labels, as near to the wanted ones as they can be without touching; in the order given."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: dict[int, float] = {}
    lowest = float(_TOP)
    for i in order:
        placed[i] = lowest = max(wanted[i], lowest)
        lowest += _LABEL_PIXELS
    over = max(0.0, lowest - _LABEL_PIXELS - (HEIGHT - _BOTTOM))
    highest = float(HEIGHT)
    for i in reversed(order) if over else ():
        placed[i] = highest = min(placed[i], highest - _LABEL_PIXELS, HEIGHT - _BOTTOM)
    return [placed[i] for i in range(len(wanted))]


def _drawn(line: Line, places: Sequence[tuple[float, float]]) -> Iterable[str]:
    dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline class="line s{line.colour}"{dashes} points="{path}"/>'
    for (x, y), (told_x, told_y) in zip(places, line.points, strict=True):
        told = escape(f"{line.label}: {told_x:,g} – {told_y:,g}")
        yield f'<circle class="c{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{_MARK_PIXELS}"><title>{told}</title></circle>'


def _text(x: float, y: float, text: str, names: str = "", anchor: str = "start") -> str:
    named = f' class="{names}"' if names else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rule(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _styles() -> str:
    coloured = ["\n".join(f".s{i} {{ stroke: {c[k]} }} .c{i} {{ fill: {c[k]} }}" for i, c in enumerate(_COLOURS)) for k in (0, 1)]
    dark = f"@media (prefers-color-scheme: dark) {{\n{_DARK}\n{coloured[1]}\n}}"
    return f"<style>\n{_STYLE}\n{coloured[0]}\n{dark}\n</style>"
