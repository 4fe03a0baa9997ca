"""The command line: help with an example everywhere, data as JSON where one reads, and mistakes as one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bus import config
from bus.cli.main import app
from bus.platform import presence, processes
from bus.platform.declaration import Files

RUNNER = CliRunner()
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
GROUPS = [name for name, one in COMMANDS.items() if getattr(one, "commands", None) and one.no_args_is_help]
"""What does something only with a command of its own."""
LEAVES = [[name] for name in COMMANDS if name not in GROUPS] + [
    [group, name] for group in GROUPS for name in COMMANDS[group].commands
]
READ = ["catalog", "status", "doctor", "topics", "tail", "verify-feed"]


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
        (["verify-feed", "agency.tax.taxpayers"], "bus up"),
        (["run", "engine", "0"], "bus up"),
        (["agreement", "apply"], "bus up"),
        (["agreement", "try", str(config.ROOT / "deploy" / "agreements" / "tax.taxpayers.yaml")], "bus up"),
        (["agreement", "try", "no-such.yaml"], "cannot be read"),
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


def wrong_agreements(place: Path) -> tuple[Path, list[str]]:
    """The checkout's agreements, two of them with a mistake, and what has to be said of these."""
    made = shutil.copytree(config.ROOT / "deploy" / "agreements", place / "agreements")
    for name, old, new in (("tax.taxpayers", "agency: tax", "agency: Tax"), ("education.pupils", "valid_from", "valid_form")):
        path = made / f"{name}.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    return made, ["'Tax' cannot be part of a topic name", "unknown key in an agreement 'valid_form'", "'valid_from' is missing"]


@pytest.mark.parametrize("words", [["up"], ["up", "--foreground"], ["demo", "--seconds", "1"]], ids=" ".join)
def test_wrong_agreements_are_all_named_before_anything_is_started(tmp_path: Path, words: list[str]) -> None:
    place, said = wrong_agreements(tmp_path)
    home = tmp_path / "home"
    told = bus(home, *words, BUS_AGREEMENTS=str(place))
    assert told.returncode == 64
    assert [text for text in said if text not in told.stderr] == []
    assert "Traceback" not in told.stderr
    assert not home.exists()


@pytest.mark.parametrize("words", [["up"], ["demo", "--seconds", "1"]], ids=" ".join)
def test_a_wrong_schema_is_named_before_anything_is_started(tmp_path: Path, words: list[str]) -> None:
    place = shutil.copytree(config.ROOT / "schemas", tmp_path / "schemas")
    (place / "civil" / "birth.avsc").write_text("{")
    home = tmp_path / "home"
    told = bus(home, *words, BUS_SCHEMAS=str(place))
    assert told.returncode == 64
    assert "birth.avsc: cannot be read as JSON" in told.stderr
    assert not home.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("feed: {host: 0.0.0.0}", "feed.host '0.0.0.0' is not on loopback and there is no TLS"),
        ("registry: {host: 0.0.0.0}", "registry.host '0.0.0.0' is not on loopback and there is no TLS"),
        ("webhooks: {allowed_hosts: [agency.example], ca: /no/such.pem}", "webhooks.ca: /no/such.pem holds no certificates"),
        ("webhooks: {allowed_hosts: ['*.example']}", "webhooks.allowed_hosts: '*.example' is no host"),
        ("webhooks: {allowed_hosts: [agency.example], max_waiting_events: 10001}", "must be 1 to 10,000"),
    ],
)
def test_settings_that_would_end_a_process_are_named_before_anything_is_started(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / config.SETTINGS_FILE).write_text(text, encoding="utf-8")
    told = bus(tmp_path, "up")
    assert (told.returncode, told.stdout) == (64, "")
    assert says in told.stderr
    assert [one.name for one in tmp_path.iterdir()] == [config.SETTINGS_FILE]


def test_the_doctor_names_every_problem_of_the_agreements_once(tmp_path: Path) -> None:
    place, said = wrong_agreements(tmp_path)
    told = bus(tmp_path / "home", "doctor", BUS_AGREEMENTS=str(place))
    assert told.returncode == 1
    assert [told.stdout.count(text) for text in said] == [1] * len(said)
    assert f"{place}/tax.taxpayers.yaml:" in told.stdout


def started(home: Path) -> config.Settings:
    """Settings of a home whose bus, by its record, was started with them."""
    settings = config.load(home, env={})
    processes.make_home(settings)
    about = {"steps": [], "ready": True, "error": "", "digests": Files.read(settings).digests(settings)}
    presence.start_file(settings).write_text(json.dumps(about))
    return settings


def test_up_on_a_bus_that_is_up_says_what_has_changed_since_it_started(tmp_path: Path) -> None:
    settings = started(tmp_path / "home")
    agreements = shutil.copytree(settings.agreements, tmp_path / "agreements")
    with presence.lock(settings):
        assert bus(settings.home, "up").returncode == 0
        assert bus(settings.home, "up", BUS_AGREEMENTS=str(agreements)).returncode == 0, "the same content elsewhere is the same"
        (agreements / "tax.taxpayers.yaml").unlink()
        told = bus(settings.home, "up", BUS_AGREEMENTS=str(agreements))
        found = bus(settings.home, "doctor", BUS_AGREEMENTS=str(agreements)).stdout
    assert told.returncode == 64
    assert "agreements have changed since the bus started: run `bus agreement apply`" in told.stderr
    assert "agreements have changed since the bus started" in found


def test_every_setting_and_every_agreement_counts_as_a_change_and_where_files_lie_does_not(tmp_path: Path) -> None:
    settings = started(tmp_path / "home")
    files = Files.read(settings)
    moved = dataclasses.replace(settings, home=tmp_path, agreements=tmp_path, schemas=tmp_path)
    assert presence.changed(settings, files.digests(moved)) == ""
    for section in ("kafka", "capture", "engine"):
        tree = getattr(settings, section)
        for field in dataclasses.fields(tree):
            value = getattr(tree, field.name)
            other = dataclasses.replace(tree, **{field.name: f"{value}x" if isinstance(value, str) else value + 1})
            assert presence.changed(settings, files.digests(dataclasses.replace(settings, **{section: other})))
    for agreement in files.agreements:
        fewer = dataclasses.replace(files, agreements={n: a for n, a in files.agreements.items() if n != agreement})
        assert presence.changed(settings, fewer.digests(settings)).startswith("agreements have changed")
