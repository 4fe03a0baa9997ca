"""What README tells a reader to type is typed here, in a clone of its own, and must do what README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from bus.config import ROOT
from tests.pipeline.bus import Bus

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("make ")]
IN_TABLE = [command for row in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE) for command in re.findall(r"`(bus .*?)`", row)]
DEMO_SECONDS = 240.0


def test_readme_gives_the_two_commands_and_every_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert {shlex.split(command)[1] for command in COMMANDS} <= targets


def test_the_demo_works_from_a_clone_and_prints_what_readme_shows(tmp_path: Path) -> None:
    """A directory with Vietnamese letters and a space, no .venv, no home. Only the run is shorter and the society smaller."""
    clone = tmp_path / "bản sao của tôi"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60)
    (typed,) = (command for command in COMMANDS if "--json" in command)
    shorter = typed.replace("--seconds 60", "--seconds 5 --people 300")
    assert shorter != typed
    env = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        shlex.split(shorter), cwd=clone, env=env, check=False, capture_output=True, text=True, timeout=DEMO_SECONDS
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    result = json.loads(done.stdout)
    shown = next(block for block in BLOCKS if '"captured"' in block)
    for key in re.findall(r'^  "(\w+)":', shown, re.MULTILINE):
        assert key in result, f"README shows {key!r}"
    for agreement in re.findall(r'"(\w+\.\w+)": \{"delivered"', shown):
        assert set(result["agreements"][agreement]) >= {"delivered", "withheld", "dead_lettered"}
    assert result["conservation"]["ok"] is True
    assert result["latency_ms"]["p99"] > 0
    assert not [p for p in (clone / ".bus" / "run" / "pids").iterdir() if p.is_file()], "something was left running"
    shutil.rmtree(clone)


@pytest.mark.parametrize(
    "typed", [c for c in IN_TABLE if c.split()[1] in ("status", "doctor", "topics", "tail", "simulate", "replay")]
)
def test_commands_of_the_table_work_as_written(running_bus: Bus, typed: str) -> None:
    command = typed.replace("TOPIC", "verified.civil.birth").replace("--seconds 30", "--seconds 1")
    words = [str(ROOT / ".venv" / "bin" / "bus"), *shlex.split(command)[1:]]
    env = os.environ | {"BUS_HOME": str(running_bus.settings.home)}
    done = subprocess.run(words, env=env, check=False, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout or done.stderr
