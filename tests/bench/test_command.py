"""`bus bench` and its commands, as far as they can be asked without measuring."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from bus.bench import capture, run, table
from bus.cli import main


def _bus(*words: str) -> Any:
    return CliRunner().invoke(main.app, list(words))


@pytest.mark.parametrize("words", ["bench", "bench growth", "bench capture", "bench restart"])
def test_each_has_help_with_an_example(words: str) -> None:
    found = _bus(*words.split(), "--help")
    assert found.exit_code == 0
    assert "Example" in found.output


@pytest.mark.parametrize("given", ["", "a", "1,,2", "0", "1;2", "10000001", "1.5"])
def test_numbers_that_make_no_sense_are_refused_with_what_is_wanted(given: str) -> None:
    found = _bus("bench", "growth", "--people", given)
    assert found.exit_code == 2
    assert "separated by" in found.output


def test_more_updates_than_rows_are_refused() -> None:
    assert _bus("bench", "capture", "--rows", "10", "--updates", "11").exit_code == 2


@pytest.mark.parametrize("right", [True, False])
def test_bench_alone_measures_the_engine_only_and_fails_with_wrong_outputs(monkeypatch: pytest.MonkeyPatch, right: bool) -> None:
    row = {"engine": "ours", "mode": "drain", "events_per_second": 7, "check": "ok" if right else "FAILED: one too many"}
    orders: list[run.Order] = []

    def measure(order: run.Order) -> list[dict[str, Any]]:
        orders.append(order)
        return [row]

    monkeypatch.setattr(run, "measure", measure)
    monkeypatch.setattr(capture, "measure", lambda *_: pytest.fail("the capture was not asked for"))
    found = _bus("bench", "--rounds", "1", "--without-streams")
    assert found.exit_code == (0 if right else 1)
    assert [(order.rounds, order.streams, order.load.events) for order in orders] == [(1, False, 250_000)]
    assert table.table([row]) in found.output


def test_with_capture_both_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure", lambda _: [{"engine": "ours", "mode": "drain", "check": "ok"}])
    wrong = {"engine": "ours", "mode": "snapshot", "check": "FAILED: 2 rows"}
    monkeypatch.setattr(capture, "measure", lambda *_: [wrong])
    assert _bus("bench", "--with-capture").exit_code == 1
    assert _bus("bench", "--with-capture", "--without-capture").exit_code == 0
