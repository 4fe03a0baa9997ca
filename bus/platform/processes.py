"""Processes of a home, known across restarts: run/pids/<name>.json says which pid was ours and when it began.

A pid alone is not a name, because the system gives it away again; pid and start time together are.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from bus.config import ConfigError, Settings

_SAME_START_SECONDS = 1.0
_KILL_SECONDS = 0.2
_STATUS_SECONDS = 1.0
"""A process of many threads that is killed is a zombie for a moment before the system can say how it ended."""
_LOOK_SECONDS = 0.02
_PART_BYTES = 65_536
"""As much is read of a log, at its end or from a launch on."""
PASSING_SECONDS = 20.0
"""How long what is refused for a cause that passes by itself is launched again."""
_AGAIN_SECONDS = 0.2
_MAX_LOG_BYTES = 20_000_000
"""A longer log is put aside, as <name>.log.1, when its process starts."""


class Passing(ConfigError):
    """A process ended while starting, for a cause that passes by itself: launched again, it may come up."""


@dataclass(frozen=True, slots=True)
class Record:
    """What was started: `created` is the process's start time as the system tells it, Unix seconds; `log_from` is how long
    its log was then, in bytes: what follows is of this launch, and of whoever else writes there still."""

    name: str
    pid: int
    created: float
    log_from: int = 0

    def process(self) -> psutil.Process | None:
        """The process, if it still runs and is the one recorded."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) <= _SAME_START_SECONDS
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def record_file(settings: Settings, name: str) -> Path:
    return settings.home / "run" / "pids" / f"{name}.json"


def read(settings: Settings, name: str) -> Record | None:
    """The record of a process, None when there is none or it is half-written."""
    try:
        found: dict[str, Any] = json.loads(record_file(settings, name).read_text(encoding="utf-8"))
        return Record(name, int(found["pid"]), float(found["created"]), int(found.get("log_from", 0)))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def running(settings: Settings, name: str) -> psutil.Process | None:
    record = read(settings, name)
    return record.process() if record else None


def remember(settings: Settings, name: str, pid: int, log_from: int = 0) -> Record:
    """Writes the record of a process that runs now."""
    record = Record(name, pid, psutil.Process(pid).create_time(), log_from)
    path = record_file(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"pid": pid, "created": record.created, "log_from": log_from}), encoding="utf-8")
    part.replace(path)
    return record


def forget(settings: Settings, name: str) -> None:
    record_file(settings, name).unlink(missing_ok=True)
    (settings.home / "run" / f"{name}.json").unlink(missing_ok=True)


def make_home(settings: Settings) -> None:
    """The home's directory. Others may pass through it, which PostgreSQL's own user must, and read nothing in it."""
    if not (settings.home / "run").exists():
        settings.home.mkdir(parents=True, exist_ok=True)
        settings.home.chmod(0o711)
    for name in ("run", "log", "kafka", "replica"):
        place = settings.home / name
        if not place.exists():
            place.mkdir(mode=0o700)


def spawn(
    settings: Settings,
    name: str,
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> psutil.Popen:
    """Starts a process of the home and records it; output is appended to log/<name>.log, files it makes are nobody else's.

    It is in a session of its own, so that a Ctrl-C reaches only the one who handles it. If it cannot be recorded, it is killed.
    """
    with _open_log(settings, name) as output:
        log_from = os.fstat(output.fileno()).st_size
        child = psutil.Popen(
            [str(word) for word in command],
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    try:
        # it may have ended at once; whoever waits for it will see that
        with contextlib.suppress(psutil.NoSuchProcess):
            remember(settings, name, child.pid, log_from)
    except BaseException:  # nobody would find it again
        stop([(child, signal.SIGKILL)], _KILL_SECONDS)
        raise
    return child


def until_up(
    process: psutil.Process, launch: Callable[[], psutil.Process], wait: Callable[[psutil.Process], object]
) -> psutil.Process:
    """The process for which `wait` returned: the given one, or one launched after it because the cause of its end passes.

    Raises what `wait` raises; what passes, only when it has not in PASSING_SECONDS.
    """
    deadline = time.monotonic() + PASSING_SECONDS
    while True:
        try:
            wait(process)
            return process
        except Passing:
            if time.monotonic() > deadline:
                raise
        time.sleep(_AGAIN_SECONDS)
        process = launch()


def _open_log(settings: Settings, name: str) -> BinaryIO:
    path = settings.home / "log" / f"{name}.log"
    if path.exists() and path.stat().st_size > _MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def stop(asked: Sequence[tuple[psutil.Process, int]], patience_seconds: float) -> None:
    """Asks each process with its signal, waits for all together, and kills what has not listened."""
    for process, signal_number in asked:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)
    for process in _left([process for process, _ in asked], patience_seconds):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _left([process for process, _ in asked], _KILL_SECONDS)


def ended(process: psutil.Process) -> bool:
    """Whether it has ended. One of our own children is then also forgotten by the system."""
    with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
        process.wait(0)
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def status(process: psutil.Process) -> int | str | None:
    """How a child that has ended did: its exit status, or the signal's name; None where the system does not say."""
    try:
        code = process.wait(_STATUS_SECONDS)
    except (psutil.TimeoutExpired, psutil.NoSuchProcess):
        return None
    return signal.Signals(-code).name if code is not None and code < 0 else code


def _left(waited: list[psutil.Process], patience_seconds: float) -> list[psutil.Process]:
    """Those that have not ended in time."""
    deadline = time.monotonic() + patience_seconds
    while (left := [process for process in waited if not ended(process)]) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return left


def last_lines(settings: Settings, name: str, count: int = 5) -> list[str]:
    """The end of a process's log, for a message that says why it did not start."""
    try:
        with (settings.home / "log" / f"{name}.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _PART_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def first_words(settings: Settings, name: str) -> str:
    """What a process's log got first since it was launched, whatever stands after that."""
    record = read(settings, name)
    try:
        with (settings.home / "log" / f"{name}.log").open("rb") as file:
            file.seek(record.log_from if record else 0)
            return file.read(_PART_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""


def records(settings: Settings) -> list[Record]:
    """Everything this home has recorded, running or not."""
    names = sorted(path.stem for path in (settings.home / "run" / "pids").glob("*.json"))
    return [record for name in names if (record := read(settings, name)) is not None]


def told(settings: Settings, name: str) -> dict[str, Any] | None:
    """What the process itself wrote about it: pid, metrics_port, started_at; None when it has not."""
    try:
        found: dict[str, Any] = json.loads((settings.home / "run" / f"{name}.json").read_text(encoding="utf-8"))
        return found
    except (FileNotFoundError, ValueError):
        return None
