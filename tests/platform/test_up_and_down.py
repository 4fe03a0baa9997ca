"""A whole bus on the command line: up, its supervisor killed, up again, a port taken, down, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from bus import config
from bus.config import Settings
from bus.platform import ports, presence, processes, stopping
from tests.platform import orphans
from tests.platform.test_cli import bus
from tests.slower import SEVERAL

START_SECONDS = 180.0
MAX_STOP_SECONDS = stopping.TOTAL_SECONDS + 3
SMALL = "kafka: {lanes: 1, heap_mb: 256}\nengine: {workers: 1}\n"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("lên xuống") / "nhà riêng"
    home.mkdir()
    (home / config.SETTINGS_FILE).write_text(SMALL)
    made = config.load(home, env={})
    yield made
    bus(home, "down")


@pytest.fixture
def up(settings: Settings) -> Settings:
    """The home, with its bus up; no test relies on another one before it."""
    told = bus(settings.home, "up")
    assert told.returncode == 0, told.stderr
    return settings


@pytest.fixture
def stopped(settings: Settings) -> Settings:
    """The home, with its bus down."""
    assert bus(settings.home, "down").returncode == 0
    return settings


def ours(settings: Settings) -> dict[str, int]:
    """Every running process that mentions the home, by what it was started with; not only those that are recorded."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        inside = str(settings.home) in words or (process.info["cwd"] or "").startswith(str(settings.home))
        if inside and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found[words[-80:]] = process.pid
    return found


def pid(settings: Settings, name: str) -> int:
    found = processes.running(settings, name)
    assert found is not None, name
    return found.pid


def stop_seconds(told: str) -> float:
    found = re.search(r"Stopped in ([\d.]+) s", told)
    assert found is not None, told
    return float(found.group(1))


def test_up_is_up_and_again_changes_nothing(up: Settings) -> None:
    settings = up
    before = pid(settings, "supervisor")
    assert bus(settings.home, "up").returncode == 0
    assert pid(settings, "supervisor") == before
    found = bus(settings.home, "doctor").stdout
    assert found.count("✓ kafka") == 3
    assert found.count("✓ registry") == 2, "the process, and what it answers"
    assert "registry on 127.0.0.1" in bus(settings.home, "status").stdout


def test_a_demo_on_a_bus_that_is_up_is_refused_and_leaves_it_alone(up: Settings) -> None:
    settings = up
    before = processes.records(settings)
    told = bus(settings.home, "demo", "--seconds", "1")
    assert told.returncode == 64
    assert "bus down" in told.stderr.splitlines()[-1]
    assert presence.is_up(settings)
    assert processes.records(settings) == before
    assert all(record.process() for record in before)


def test_a_killed_supervisor_is_named_and_the_next_one_takes_over(up: Settings) -> None:
    settings = up
    servers = pid(settings, "kafka"), pid(settings, "postgres")
    worker = pid(settings, "engine-0")
    os.kill(pid(settings, "supervisor"), signal.SIGKILL)
    assert presence_lost(settings)
    assert "killed" in bus(settings.home, "status").stdout
    assert "nobody restarts what dies" in bus(settings.home, "doctor").stdout
    told = bus(settings.home, "up")
    assert told.returncode == 0, told.stderr
    assert (pid(settings, "kafka"), pid(settings, "postgres")) == servers
    assert pid(settings, "engine-0") != worker
    assert sum("run engine 0" in words for words in ours(settings)) == 1


@SEVERAL
def test_up_waits_for_what_a_killed_postgres_has_left_running(up: Settings) -> None:
    """After a kill of supervisor and server that one process outlives: the next `bus up` is refused its server, and comes up."""
    os.kill(pid(up, "supervisor"), signal.SIGKILL)
    assert presence_lost(up)
    with orphans.orphan(up) as backend, orphans.woken_when_it_has_refused_one(up, backend):
        told = bus(up.home, "up")
    assert told.returncode == 0, told.stderr
    assert processes.running(up, "postgres") is not None


def presence_lost(settings: Settings) -> bool:
    deadline = time.monotonic() + 10
    while presence.is_up(settings) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not presence.is_up(settings)


def test_down_ends_everything_in_time_and_says_where_the_data_is(up: Settings) -> None:
    settings = up
    told = bus(settings.home, "down")
    assert told.returncode == 0
    assert stop_seconds(told.stderr) < MAX_STOP_SECONDS
    assert str(settings.home) in told.stderr
    assert ours(settings) == {}


def test_a_taken_port_is_named_and_the_rest_is_not_left_running(stopped: Settings) -> None:
    settings = stopped
    port = ports.ensure(settings).postgres
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ports.HOST, port))
        taken.listen()
        told = bus(settings.home, "up")
        found = bus(settings.home, "doctor").stdout
    assert told.returncode == 64
    assert f"port {port} " in told.stderr.splitlines()[-1]
    assert "Traceback" not in told.stderr
    assert f"port {port}, which postgres uses, is taken" in found
    assert "the last start failed" in found
    assert ours(settings) == {}


@pytest.mark.parametrize("moment", ["while it starts", "once it is up"])
def test_ctrl_c_in_the_foreground_leaves_nothing(stopped: Settings, moment: str) -> None:
    settings = stopped
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(settings.home), "up", "--foreground"]
    with (settings.home / "foreground.log").open("wb") as log:
        front = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and front.poll() is None:
        start = presence.read_start(settings) if presence.is_up(settings) else None
        if start and (start["ready"] or (moment == "while it starts" and processes.running(settings, "kafka"))):
            break
        time.sleep(0.01)
    began = time.monotonic()
    os.killpg(front.pid, signal.SIGINT)
    assert front.wait(stopping.TOTAL_SECONDS * 4) == 0
    assert time.monotonic() - began < MAX_STOP_SECONDS
    assert ours(settings) == {}
    assert presence.read_start(settings) is None


@pytest.mark.parametrize(
    ("words", "number", "once_runs", "status"),
    [
        ([], signal.SIGINT, "supervisor", 0),
        (["--seconds", "60", "--json"], signal.SIGINT, "supervisor", 130),
        (["--seconds", "60"], signal.SIGTERM, "kafka", 130),
        ([], signal.SIGHUP, "kafka", 0),
    ],
    ids=["Ctrl-C is how it ends", "Ctrl-C before the account", "SIGTERM", "closed terminal"],
)
def test_a_demo_that_is_interrupted_over_and_over_leaves_nothing_and_gives_no_account(
    stopped: Settings, words: list[str], number: signal.Signals, once_runs: str, status: int
) -> None:
    settings = stopped
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(settings.home), "demo", "--people", "20", *words]
    with (settings.home / "demo.log").open("wb") as log:
        demo = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    try:
        while processes.running(settings, once_runs) is None and demo.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        while demo.poll() is None and time.monotonic() < deadline:
            os.killpg(demo.pid, number)
            time.sleep(0.01)
    finally:
        demo.kill()
    printed, _ = demo.communicate()
    assert demo.returncode == status, (settings.home / "demo.log").read_text()[-2_000:]
    assert printed == b""
    assert ours(settings) == {}
