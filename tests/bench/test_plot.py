"""A plot says what its numbers say: places on logarithmic axes, labels that can be read, an error for what has no logarithm."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.bench import growth_shown, plot
from bus.bench.growth import AGREEMENTS, PEOPLE, Point
from bus.bench.plot import Line

SVG = "{http://www.w3.org/2000/svg}"


def _drawn(*lines: Line) -> ElementTree.Element:
    return ElementTree.fromstring(plot.log_log("Tên <a>", "x & y", "µs", lines, growth_shown.short))


def _marks(drawn: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(one.attrib["cx"]), float(one.attrib["cy"])) for one in drawn.iter(f"{SVG}circle")]


def test_equal_factors_are_equal_distances() -> None:
    marks = _marks(_drawn(Line("one", 0, False, [(1, 1), (10, 10), (100, 100)])))
    across = [b[0] - a[0] for a, b in itertools.pairwise(marks)]
    up = [a[1] - b[1] for a, b in itertools.pairwise(marks)]
    assert across[0] == pytest.approx(across[1], abs=0.2)
    assert up[0] == pytest.approx(up[1], abs=0.2)
    assert up[0] > 0


@given(st.lists(st.tuples(st.floats(1e-3, 1e8), st.floats(1e-3, 1e8)), min_size=1, max_size=6))
def test_every_point_lies_within_the_axes_and_is_told(points: list[tuple[float, float]]) -> None:
    points.sort()
    for x, y in _marks(_drawn(Line("one", 1, True, points))):
        assert 0 < x < plot.WIDTH
        assert 0 < y < plot.HEIGHT


@given(st.lists(st.floats(1, 100), min_size=2, max_size=8))
def test_no_two_labels_touch(values: list[float]) -> None:
    drawn = _drawn(*(Line(f"line {i}", i % 4, False, [(1, 1), (2, y)]) for i, y in enumerate(values)))
    labels = sorted(float(t.attrib["y"]) for t in drawn.iter(f"{SVG}text") if (t.text or "").startswith("line"))
    assert all(b - a >= 14.9 for a, b in itertools.pairwise(labels))
    assert all(0 < place < plot.HEIGHT for place in labels)


@pytest.mark.parametrize("points", [[], [(0, 1)], [(1, 0)], [(1, -1)]])
def test_what_has_no_logarithm_is_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        _drawn(Line("one", 0, False, points))


def test_the_dark_style_gives_every_class_that_has_a_colour_another_one() -> None:
    text = plot.log_log("a", "b", "c", [Line("one", 0, False, [(1, 1), (2, 2)])], str)
    light, dark = text.split("prefers-color-scheme: dark")
    for selector in (".ground", ".grid", ".axis", "text", *(f".s{i}" for i in range(4)), *(f".c{i}" for i in range(4))):
        rule = re.compile(rf"{re.escape(selector)} {{[^}}]*?(?:fill|stroke): (#\w+)")
        colours = [found.group(1) for part in (light, dark) if (found := rule.search(part))]
        assert len(colours) == 2, selector
        assert colours[0] != colours[1], selector


def _point(axis: str, engine: str, x: int, cpu_us: float) -> Point:
    return Point(axis, "one value", engine, x, cpu_us, cpu_us - 1, cpu_us + 1, 100, 200)


POINTS = [_point(AGREEMENTS, engine, x, x * cost) for engine, cost in (("kernel", 2.0), ("Python", 7.0)) for x in (1, 10, 300)]


def test_each_thing_that_grew_has_a_plot_and_a_table_with_every_point() -> None:
    found = growth_shown.plots([*POINTS, _point(PEOPLE, "Python", 10_000_000, 7)])
    assert sorted(found) == ["growth-agreements.svg", "growth-people.svg"]
    assert len(_marks(ElementTree.fromstring(found["growth-agreements.svg"]))) == len(POINTS)
    assert "10 million" in found["growth-people.svg"]
    shown = growth_shown.table(POINTS)
    assert "| 300 | 600.0 (599.0–601.0) | 2100.0 (2099.0–2101.0) |" in shown
    assert "people in the register" not in shown


@pytest.mark.parametrize(
    ("number", "told"), [(200, "200"), (2_000, "2,000"), (10_000, "10 thousand"), (2_500_000, "2.5 million")]
)
def test_an_x_is_told_in_words_where_it_is_long(number: int, told: str) -> None:
    assert growth_shown.short(number) == told
