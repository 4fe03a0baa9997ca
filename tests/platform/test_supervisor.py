"""Children that die are started again, with pauses that grow to a bound, for ever."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

import psutil
import pytest

from bus import config
from bus.config import ConfigError
from bus.platform import account, checks, ports, processes, roster, targets
from bus.platform.supervisor import Child, Supervisor

LONGEST_SECONDS = 15.0 * 1.2


class Log:
    """Counts what it is told; `full`: on a disk where nothing can be written any more."""

    def __init__(self, full: bool) -> None:
        self.told: list[str] = []
        self._full = full

    def error(self, event: str, **_: object) -> None:
        self.told.append(event)
        if self._full:
            raise OSError(errno.ENOSPC, "No space left on device")

    info = warning = error


class Dying:
    """A launch that counts, of a process that is found dead the next time it is looked at."""

    def __init__(self, refuses: bool = False) -> None:
        self.times: list[float] = []
        self.clock = 0.0
        self._refuses = refuses

    def __call__(self) -> psutil.Process:
        self.times.append(self.clock)
        if self._refuses:
            raise ConfigError("port 1 is taken")
        return psutil.Process()


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(processes, "status", lambda _: 1)  # of a process that is not there, which would be waited for
    return Supervisor(config.load(tmp_path / "home", env={}), lambda _: None, rng=random.Random(1))


@pytest.mark.parametrize("refuses", [False, True], ids=["dies at once", "cannot be started"])
def test_it_never_gives_up_and_never_waits_longer_than_the_bound(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    dying = Dying(refuses)
    child = Child("engine-0", dying)
    monkeypatch.setattr(processes, "ended", lambda _: True)
    supervisor.clock = lambda: dying.clock
    while dying.clock < 3600:
        supervisor._look_after(child)
        dying.clock += 0.1
    pauses = [after - before for before, after in zip(dying.times, dying.times[1:], strict=False)]
    assert len(dying.times) > 3600 / LONGEST_SECONDS
    assert pauses[0] < 1.0
    assert max(pauses) <= LONGEST_SECONDS + 0.3
    assert min(pauses[20:]) > 10


def test_a_child_that_was_steady_starts_again_without_a_long_pause(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = Dying()
    child = Child("engine-0", dying, failures=20)
    dead = False
    monkeypatch.setattr(processes, "ended", lambda _: dead)
    supervisor.clock = lambda: dying.clock
    for tick in range(1000):
        dying.clock, dead = tick / 10, tick == 900
        supervisor._look_after(child)
    assert len(dying.times) == 2
    assert dying.times[1] - 90.0 < 1.0


@pytest.mark.parametrize("stopping", [False, True])
def test_what_does_not_start_because_the_bus_is_to_stop_is_no_failure(supervisor: Supervisor, stopping: bool) -> None:
    log = Log(full=False)
    supervisor._log, supervisor._stopping = log, stopping  # type: ignore[assignment]
    supervisor._look_after(Child("kafka", Dying(refuses=True)))
    assert log.told == ([] if stopping else ["process_failed"])


@pytest.mark.parametrize("log_too", [False, True], ids=["targets", "targets and the log"])
def test_a_full_disk_ends_nothing(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, log_too: bool) -> None:
    def write(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def wait(_: float) -> None:
        dying.clock += 0.1
        supervisor._stopping = dying.clock > 60

    dying, log = Dying(), Log(log_too)
    supervisor.clock, supervisor.wait, supervisor._log = (lambda: dying.clock), wait, log  # type: ignore[assignment]
    supervisor._children.append(Child("engine-0", dying))
    monkeypatch.setattr(targets, "write", write)
    monkeypatch.setattr(processes, "ended", lambda _: True)
    supervisor._watch()
    assert len(dying.times) > 5
    assert log.told.count("child_exited") >= len(dying.times) - 1  # the last one may have been started at the last look
    assert log.told.count("process_failed") == 1


def test_kafkas_port_is_not_taken_by_its_own_controller(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which runs before the broker starts again: no operator is to end it."""
    settings = supervisor.settings
    chosen = ports.ensure(settings)
    for running, states in ((roster.CONTROLLER, {"ok"}), ("somebody", {"failed"})):
        monkeypatch.setattr(processes, "running", lambda _, name, it=running: psutil.Process() if name == it else None)
        with socket.create_server(("127.0.0.1", chosen.controller)):
            told = [check for check in checks._ports(settings) if str(chosen.controller) in check.found]
        assert {check.grade for check in told} == states


def test_an_account_that_does_not_answer_is_one_that_does_not_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(account, "_TIMEOUT_SECONDS", 0.1)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    assert not account._reaches([], [tmp_path], slow)
