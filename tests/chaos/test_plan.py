"""What chaos does follows from its seed: a run that has failed can be had again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bus import config
from bus.engine import client
from tests.chaos import plan
from tests.chaos.run import FAULT, reasons

PROCESSES = ["engine-0", "capture-civil", "register"]


def test_one_seed_one_plan() -> None:
    assert plan.draw(7, 300, PROCESSES) == plan.draw(7, 300, PROCESSES)
    assert plan.draw(7, 300, PROCESSES) != plan.draw(8, 300, PROCESSES)


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    short, long = plan.draw(7, 60, PROCESSES), plan.draw(7, 300, PROCESSES)
    assert long[: len(short)] == short
    assert len(long) > len(short)
    assert all(step.at_seconds < 60 for step in short)


def test_everything_that_can_go_wrong_does() -> None:
    steps = plan.draw(1, 3_600, PROCESSES)
    assert {step.kind for step in steps} == set(plan._WEIGHTS)
    assert {step.target for step in steps if step.kind == plan.KILL} == set(PROCESSES)
    assert {(s.mistreatment, s.api) for s in steps if s.kind == plan.PROXY} == {
        (how, api) for how in plan.MISTREATMENTS for api in plan.TRANSACTIONAL
    }
    sleeps = [step.seconds for step in steps if step.kind == plan.SLEEP]
    assert min(sleeps) < plan.SESSION_SECONDS < max(sleeps)


def test_a_process_that_ended_by_a_fault_of_its_own_is_an_anomaly_and_one_that_cannot_go_on_is_not() -> None:
    """By the reason that it gives: `bus.engine.worker.run` and its like say kind and place of what nobody had thought of."""
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("one")
    assert FAULT.search(f"a fault in the engine: {client.place(caught.value)}; please report it")
    assert not FAULT.search("another process runs as engine-0: give every worker its own index")


def test_a_process_that_left_a_traceback_is_an_anomaly(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    done = subprocess.run([sys.executable, "-c", "import json; json.loads('{')"], capture_output=True, text=True, check=False)
    (tmp_path / "log" / "feed.log").write_text(f"before\n{done.stderr}after\n{done.stderr}", encoding="utf-8")
    (reason,) = found = reasons(config.load(tmp_path, env={}))
    assert found[reason] == 2
    assert reason.startswith("feed: a traceback at decoder.py:")
    assert FAULT.search(reason)
