"""Laws of `bus status`: a figure that nobody has told yet is not 0, and is said to be missing."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bus.cli.status import _datasets, _missing
from bus.core.outcome import Cause
from bus.platform import checks
from bus.platform.health import Flow, ProcessState, Sample, Status, flows, waiting

CAPTURE: list[Sample] = [("bus_captured_events_total", {"dataset": "civil.birth", "op": op}, 0.0) for op in "cudr"]
ENGINE: list[Sample] = [
    ("bus_engine_events_total", {"dataset": "civil.birth"}, 0.0),
    ("bus_engine_lag_records", {"dataset": "civil.birth"}, 0.0),
    ("bus_dead_letters_total", {"dataset": "civil.birth", "code": "MALFORMED"}, 0.0),
]


def status(found: list[Sample], supervisor: str = "up") -> Status:
    process = ProcessState("engine-0", "up", 1, 1.0, 1, 0, 1)
    return Status("/home", supervisor, [process], {}, flows(found), {}, 0, [], [])


def shown(found: Status) -> str:
    console = Console(width=200)
    with console.capture() as text:
        console.print(_datasets(found))
    return text.get()


def test_right_after_the_start_it_says_that_there_are_no_figures_yet() -> None:
    told = _missing(status([]))
    assert told.startswith("No figures yet")
    assert "capture" in told
    assert "the engine" in told


def test_a_bus_that_is_down_awaits_no_figures() -> None:
    assert _missing(status([], "starting"))
    assert not _missing(status([], "down"))
    assert not _missing(status([], "lost"))


def test_before_the_engine_counts_its_figures_are_missing_and_not_zero() -> None:
    found = status(CAPTURE)
    assert "the engine" in _missing(found)
    assert "capture" not in _missing(found)
    assert found.datasets["civil.birth"] == Flow(captured=0)
    assert shown(found).splitlines()[-1].split() == ["civil.birth", "0", "-", "-", "-", "-", "-"]


def test_zero_is_shown_as_zero_once_it_is_told() -> None:
    found = status(CAPTURE + ENGINE)
    assert _missing(found) == ""
    assert shown(found).splitlines()[-1].split() == ["civil.birth", *"000000"]


@given(st.lists(st.sampled_from(CAPTURE + ENGINE)))
def test_a_figure_is_there_just_when_somebody_told_it(told: list[Sample]) -> None:
    names = {name for name, _, _ in told}
    expected = {
        "captured": "bus_captured_events_total" in names,
        "processed": "bus_engine_events_total" in names,
        "lag_records": "bus_engine_lag_records" in names,
        "dead_letters": "bus_dead_letters_total" in names,
    }
    for flow in flows(told).values():
        found = {f.name: getattr(flow, f.name) is not None for f in dataclasses.fields(flow) if f.name != "verdicts"}
        assert found == expected


def test_each_cause_that_a_worker_waits_for_is_told_once_and_has_words() -> None:
    found: list[Sample] = [("bus_engine_waiting", {"cause": c.value}, float(c is not Cause.LANES)) for c in Cause] * 2
    assert waiting(found) == sorted(c.value for c in Cause if c is not Cause.LANES)
    assert waiting([]) == []
    assert set(checks.WAITS) == set(Cause)
