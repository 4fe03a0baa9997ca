"""What README tells a reader to type is typed here, in a clone of its own, and must do what README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from bus.config import ROOT
from tests.pipeline.bus import Bus

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("make ")]
IN_TABLE = [command for row in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE) for command in re.findall(r"`(bus .*?)`", row)]
EXAMPLES = [command for command in IN_TABLE if command not in ("bus up", "bus down")]
SAYS = {
    "status": "engine-0",
    "doctor": "✓ kafka",
    "agreement": "Nothing to change",
    "schema": "no problems",
    "topics": "verified.civil.birth",
    "tail": "civil.birth",
    "catalog": "child.full_name",
    "subscriber": "agency.tax.taxpayers",
    "verify-feed": "is whole",
    "ledger": "Everything is accounted for",
    "dead": "dead letters",
    "simulate": "row changes in",
    "replay": "sandbox.test",
}
"""By command, what its text tells at the least."""
DEMO_SECONDS = 240.0
STOP_SECONDS = 20.0


def clean_environment() -> dict[str, str]:
    """Without what this session, a `make` around it or somebody's own bus has put there."""
    foreign = ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    return {key: value for key, value in os.environ.items() if key not in foreign and not key.startswith("BUS_")}


def running_in(place: Path) -> list[str]:
    """Every running process that mentions the place or works in it, recorded or not."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        inside = str(place) in words or (process.info["cwd"] or "").startswith(str(place))
        if inside and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(words)
    return found


def typed_in(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    """What a reader sees who types this in a clone. If it takes too long, `make` and all in its session are killed."""
    made = subprocess.Popen(
        shlex.split(command),
        cwd=clone,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, talk = made.communicate(timeout=DEMO_SECONDS)
    except BaseException:
        os.killpg(made.pid, signal.SIGKILL)
        made.communicate()
        raise
    return subprocess.CompletedProcess(command, made.returncode, out, talk)


def end_all(clone: Path) -> None:
    """Servers and workers are in sessions of their own."""
    bus = clone / ".venv" / "bin" / "bus"
    if bus.exists():
        subprocess.run([bus, "down"], cwd=clone, env=clean_environment(), check=False, timeout=STOP_SECONDS)


def as_tried(typed: str) -> list[str]:
    """The words after `bus`; shorter, and about a topic that there is."""
    return shlex.split(typed.replace("TOPIC", "verified.civil.birth").replace("--seconds 30", "--seconds 1"))[1:]


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
    try:
        done = typed_in(clone, shorter)
        left = running_in(clone)
    finally:
        end_all(clone)
    assert done.returncode == 0, done.stderr[-3_000:]
    result = json.loads(done.stdout)
    shown = next(block for block in BLOCKS if '"captured"' in block)
    for key in re.findall(r'^  "(\w+)":', shown, re.MULTILINE):
        assert key in result, f"README shows {key!r}"
    for agreement in re.findall(r'"(\w+\.\w+)": \{"delivered"', shown):
        assert set(result["agreements"][agreement]) >= {"delivered", "withheld", "dead_lettered"}
    assert result["conservation"]["ok"] is True
    assert result["latency_ms"]["p99"] > 0
    assert left == []
    shutil.rmtree(clone)


def test_every_command_that_can_be_tried_has_an_example_in_the_table() -> None:
    assert {command.split()[1] for command in EXAMPLES} == set(SAYS)


def type_at(bus: Bus, words: list[str]) -> str:
    """What the command prints, data and talk."""
    env = clean_environment() | {"BUS_HOME": str(bus.settings.home)}
    command = [str(ROOT / ".venv" / "bin" / "bus"), *words]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout if "--json" in words else done.stdout + done.stderr


@pytest.mark.parametrize("typed", EXAMPLES)
def test_commands_of_the_table_work_as_written(running_bus: Bus, typed: str) -> None:
    words = as_tried(typed)
    assert SAYS[words[0]] in type_at(running_bus, words)


@pytest.mark.parametrize("typed", EXAMPLES)
def test_with_json_they_print_json_and_nothing_else(running_bus: Bus, typed: str) -> None:
    words = [*as_tried(typed.replace("sandbox.test", "sandbox.test-json")), "--json"]
    printed = type_at(running_bus, words)
    documents = [json.loads(line) for line in printed.splitlines()] if words[0] == "tail" else [json.loads(printed)]
    assert documents
    assert all(documents)
