"""What a home keeps on disk: secrets, ports and records of processes, and what becomes of them when something is wrong."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bus import config
from bus.config import ConfigError, Settings
from bus.platform import database, jars, ports, processes, secrets, stopping

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = config.load(tmp_path / "nhà", env={})
    processes.make_home(made)
    return made


def test_secrets_are_made_once_and_nobody_else_can_read_them(settings: Settings) -> None:
    first = secrets.password(settings, "kafka-tax")
    secrets.keys(settings)
    assert secrets.password(settings, "kafka-tax", lambda _: b"another") == first
    assert len(settings.secret("person-key")) == 32
    for path in (settings.home / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((settings.home / "secrets").stat().st_mode) == 0o700


def test_passwords_need_no_quoting_anywhere(settings: Settings) -> None:
    assert secrets.password(settings, "any", lambda count: bytes(range(count))).isalnum()


def test_ports_stay_the_same_and_differ_from_one_another(settings: Settings) -> None:
    first = ports.ensure(settings, random.Random(1))
    assert ports.ensure(settings, random.Random(2)) == first
    assert len({first.kafka, first.controller, first.postgres}) == 3


def test_a_busy_port_is_named_with_its_holder_and_a_remedy(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .*Kafka.* process {psutil.Process().pid} .*endpoints\.json"):
            ports.require_free(settings, port, "Kafka")
    ports.require_free(settings, port, "Kafka")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kafka": 1, "controller": 2, "postgres": 3}', '{"kafka": "127.0.0.1:x"}'])
def test_a_damaged_port_file_is_named_with_a_remedy(settings: Settings, text: str) -> None:
    (settings.home / "run" / "endpoints.json").write_text(text)
    with pytest.raises(ConfigError, match=r"endpoints\.json is damaged: delete it"):
        ports.ensure(settings)


def test_a_pid_that_now_is_somebody_elses_is_not_ours(settings: Settings) -> None:
    """The system gives pids away again; only pid and start time together name a process."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        record = processes.remember(settings, "engine-0", stranger.pid)
        assert processes.running(settings, "engine-0") is not None
        path = processes.record_file(settings, "engine-0")
        path.write_text(path.read_text().replace(str(record.created), str(record.created - 60)))
        assert processes.running(settings, "engine-0") is None
        stopping.stop_all(settings)
        assert stranger.poll() is None, "a process that is not ours was ended"
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_that_does_not_listen_is_killed_in_bounded_time(settings: Settings) -> None:
    child = processes.spawn(settings, "deaf", [sys.executable, "-u", "-c", DEAF])
    log = settings.home / "log" / "deaf.log"
    while not log.read_text():
        assert child.poll() is None
    processes.stop([(child, signal.SIGTERM)], 0.2)
    assert processes.ended(child)
    assert processes.running(settings, "deaf") is None


@pytest.mark.parametrize("refused", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
def test_a_process_that_cannot_be_recorded_does_not_live_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, refused: BaseException
) -> None:
    seen: list[psutil.Process] = []

    def remember(_: Settings, __: str, pid: int, ___: int) -> None:
        seen.append(psutil.Process(pid))
        raise refused

    monkeypatch.setattr(processes, "remember", remember)
    with pytest.raises(type(refused)) as told:
        processes.spawn(settings, "deaf", [sys.executable, "-u", "-c", DEAF])
    assert told.value is refused
    (child,) = seen
    assert processes.ended(child)


def test_what_a_process_says_first_is_found_whatever_stands_before_and_after_it(settings: Settings) -> None:
    log = settings.home / "log" / "short.log"
    log.write_text("earlier\n" * 50_000)
    child = processes.spawn(settings, "short", [sys.executable, "-c", "print('refused')"])
    child.wait()
    with log.open("a") as others:
        others.write("later\n" * 50_000)
    found = processes.first_words(settings, "short")
    assert found.startswith("refused\nlater\n")
    assert len(found) < 100_000


def test_only_what_passes_is_launched_again_and_not_for_ever(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_AGAIN_SECONDS", 0.001)
    first, launched = psutil.Process(), iter([psutil.Process() for _ in range(2)])
    causes: list[ConfigError] = [processes.Passing("held"), processes.Passing("held")]

    def wait(_: psutil.Process) -> None:
        if causes:
            raise causes.pop()

    last = processes.until_up(first, lambda: next(launched), wait)
    assert last is not first
    assert next(launched, None) is None
    causes = [ConfigError("broken")]
    with pytest.raises(ConfigError, match="broken"):
        processes.until_up(first, lambda: next(launched), wait)
    monkeypatch.setattr(processes, "PASSING_SECONDS", 0.05)
    causes = [processes.Passing("held")] * 10_000
    with pytest.raises(processes.Passing, match="held"):
        processes.until_up(first, psutil.Process, wait)


def test_half_written_records_and_records_of_the_dead_are_no_processes(settings: Settings) -> None:
    child = processes.spawn(settings, "short", [sys.executable, "-c", ""])
    child.wait()
    assert processes.running(settings, "short") is None
    processes.record_file(settings, "half").parent.mkdir(exist_ok=True)
    processes.record_file(settings, "half").write_text('{"pid": 1')
    assert processes.running(settings, "half") is None
    assert "half" not in [record.name for record in processes.records(settings)]


def test_a_damaged_jar_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {path.name: path for path in jars.fetch()}
    small = sorted(jars.locked(), key=lambda one: whole[one.file].stat().st_size)[:3]
    monkeypatch.setattr(jars, "locked", lambda _: small)
    fetched: list[str] = []

    def download(missing: list[jars.Locked], place: Path) -> None:
        for one in missing:
            fetched.append(one.file)
            (place / one.file).write_bytes(whole[one.file].read_bytes())

    monkeypatch.setattr(jars, "_download", download)
    assert [path.name for path in jars.fetch(tmp_path)] == [one.file for one in small]
    assert fetched == [one.file for one in small]
    damaged = tmp_path / small[1].file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0\0")
    jars.fetch(tmp_path)
    assert fetched[3:] == [small[1].file]


def test_locked_kafka_is_of_one_version_throughout() -> None:
    """A bill of materials of another jar must not put an older client under the broker."""
    assert {one.version for one in jars.locked() if one.group == "org.apache.kafka"} == {jars.KAFKA.rpartition(":")[2]}


def named(place: Path, name: str, *words: str) -> subprocess.Popen[bytes]:
    """A process of that name and with these words, that lives until its input ends."""
    program = place / name
    program.symlink_to(shutil.which("sh") or "/bin/sh")
    return subprocess.Popen([program, "-c", "echo; read line", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("name", "words", "state", "kept"),
    [
        ("postgres", ["-D", "{data}"], "alive", True),
        ("postgres", ["-D", "{data}"], "zombie", False),
        ("postgres", ["-D", "{data}"], "gone", True),
        ("postgres", ["-D", "{data} 2"], "alive", False),
        ("editor", ["{data}"], "alive", False),
    ],
    ids=["our server", "our server as a zombie", "a pid that is gone, which PostgreSQL handles", "another server", "a stranger"],
)
def test_a_lock_file_holds_only_for_a_live_server_of_these_data(
    tmp_path: Path, name: str, words: list[str], state: str, kept: bool
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    child = named(tmp_path, name, *(word.format(data=data) for word in words))
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"\n"
    lock = data / "postmaster.pid"
    lock.write_text(f"{child.pid}\n{data}\n", encoding="utf-8")
    if state != "alive":
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | (os.WNOWAIT if state == "zombie" else 0))
    try:
        database.forget_stranger(data)
        assert lock.exists() == kept
    finally:
        child.kill()
        with child.stdin, child.stdout:
            child.wait(10)


@pytest.mark.parametrize(
    ("word", "told"), [("kill -9 $$", "SIGKILL"), ("kill -TERM $$", "SIGTERM"), ("exit 3", 3), ("exit 0", 0)]
)
def test_how_a_child_has_ended_is_known(word: str, told: int | str) -> None:
    child = psutil.Popen(["sh", "-c", word])
    deadline = time.monotonic() + 10
    while not processes.ended(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert processes.status(child) == told
    assert processes.status(child) == told  # and stays so
