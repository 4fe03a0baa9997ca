"""The command line: help with an example everywhere, data as JSON where one reads, and mistakes as one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bus.cli.main import app

RUNNER = CliRunner()
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
LEAVES = [[name] for name in COMMANDS if name != "run"] + [["run", name] for name in COMMANDS["run"].commands]
READ = ["status", "doctor", "topics", "tail"]


def bus(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BUS_")} | env
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str]) -> None:
    shown = RUNNER.invoke(app, [*words, "--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output


@pytest.mark.parametrize("name", READ)
def test_what_one_reads_can_be_read_as_json(name: str) -> None:
    assert "--json" in RUNNER.invoke(app, [name, "--help"], terminal_width=200).output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["topics"], "bus up"),
        (["tail", "bus.audit"], "bus up"),
        (["run", "engine", "0"], "bus up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_without_a_bus_a_command_says_so_in_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    told = bus(tmp_path / "không có gì", *words)
    assert told.returncode != 0
    assert says in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [("engine: {worker: 3}", "did you mean"), ("engine: [1]", "expected a mapping"), ("kafka: {lanes: many}", "kafka.lanes")],
)
def test_a_wrong_setting_is_named_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    told = bus(tmp_path, "status")
    assert told.returncode == 64
    assert says in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_wrong_use_is_explained_with_status_2(tmp_path: Path) -> None:
    told = bus(tmp_path, "status", "--jsn")
    assert told.returncode == 2
    assert "Traceback" not in told.stderr


def test_down_without_a_bus_is_no_error(tmp_path: Path) -> None:
    assert bus(tmp_path, "down").returncode == 0


def test_status_and_doctor_speak_json_without_a_bus(tmp_path: Path) -> None:
    assert json.loads(bus(tmp_path, "status", "--json").stdout)["supervisor"] == "down"
    checks = json.loads(bus(tmp_path, "doctor", "--json").stdout)
    assert {"java", "disk", "declarations"} <= {check["name"] for check in checks}


def test_the_doctor_finds_an_open_secret_and_a_taken_port(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o700)
    (tmp_path / "secrets" / "kafka-admin").write_text("x")
    (tmp_path / "secrets" / "kafka-admin").chmod(0o644)
    (tmp_path / "run").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        endpoints = {"kafka": f"127.0.0.1:{port}", "controller": 1, "postgres": 2}
        (tmp_path / "run" / "endpoints.json").write_text(json.dumps(endpoints))
        told = bus(tmp_path, "doctor")
    assert told.returncode == 1
    assert "chmod 600" in told.stdout
    assert f"port {port}" in told.stdout
