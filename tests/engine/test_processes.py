"""The processes as an operator meets them: they stop when asked, and what only a human can mend they say in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from bus.bench import product
from bus.engine.client import place
from bus.engine.meter import source_ts_ms
from bus.platform import broker
from tests.engine.stage import Stage

pytestmark = pytest.mark.timeout(200)
STOP_SECONDS = 5.0
"""Far longer than a stop takes by itself on an idle machine, far shorter than what hangs would hold it up."""


@pytest.fixture
def home(stage: Stage, tmp_path: Path) -> Path:
    """A home on the same broker without a replica."""
    for name in ("secrets", "parties", "run"):
        (tmp_path / name).symlink_to(stage.settings.home / name)
    return tmp_path


def run_to_the_end(stage: Stage, home: Path, process: str, text: str) -> tuple[int, list[dict[str, str]]]:
    (home / "settings.yaml").write_text(text)
    child = product.start(dataclasses.replace(stage.settings, home=home), process)
    code = child.wait(60)
    lines = (home / "log" / f"{process}.log").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("{") for line in lines), "a traceback is no message"
    found = [json.loads(line) for line in lines]
    return code, [f for f in found if f["event"] == "process_failed"]


def test_a_worker_waits_for_the_register_no_longer_than_it_may(stage: Stage, home: Path) -> None:
    code, failed = run_to_the_end(stage, home, "engine-7", "engine: {register_wait_seconds: 0.5}\n")
    assert (code, len(failed)) == (1, 1)
    assert "engine.register_wait_seconds" in failed[0]["reason"]


def test_a_second_register_process_on_a_home_says_so(stage: Stage) -> None:
    child = product.start(stage.settings, "register")
    assert child.wait(60) == 1
    assert (
        "another register process" in [line for line in stage.log("register") if line["event"] == "process_failed"][-1]["reason"]
    )


@pytest.mark.parametrize("process", ["register", "engine-0"])
def test_a_process_ends_soon_when_it_is_asked(stage: Stage, process: str) -> None:
    if process != "register":
        stage.start(process)
        stage.feed(2_000)
        stage.until("work", lambda: any(line["event"] == "lanes_assigned" for line in stage.log(process)[-1:]))
    asked = stage.running.pop(process)
    asked.terminate()
    assert asked.wait(STOP_SECONDS) == 0
    if process == "register":
        before = sum(line["event"] == "register_ready" for line in stage.log("register"))
        stage.start("register")
        stage.until("the replica", lambda: sum(line["event"] == "register_ready" for line in stage.log("register")) > before)


def test_a_process_ends_soon_though_the_broker_hangs(stage: Stage) -> None:

    stage.start("engine-0")
    stage.until("work", lambda: any(line["event"] == "lanes_assigned" for line in stage.log("engine-0")[-1:]))
    stage.feed(1_000)
    kafka = broker.start(stage.settings)
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        asked = stage.running.pop("engine-0")
        asked.terminate()
        try:
            assert asked.wait(STOP_SECONDS) == 0
        except subprocess.TimeoutExpired:
            asked.kill()
            raise
    finally:
        os.kill(kafka.pid, signal.SIGCONT)


def test_an_error_is_told_by_kind_and_place_and_never_by_its_words() -> None:
    try:
        int("012345678901x")
    except ValueError as error:
        told = place(error)
    assert "012345678901" not in told
    assert told.startswith("ValueError at test_processes.py:")


def test_the_time_of_commit_is_read_from_the_bytes_of_an_event(stage: Stage) -> None:
    for one in stage.sources:
        row = next(stage.filling.events(one).changes(1))[1]
        assert source_ts_ms(row) == 1_780_000_000_000
    snapshot = next(iter(stage.filling.events(stage.register).register()))[1]
    assert source_ts_ms(snapshot) is None
    for cut in range(0, 60, 3):
        assert source_ts_ms(row[:cut]) is None
