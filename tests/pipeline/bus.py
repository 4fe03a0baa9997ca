"""A whole bus in a private home: servers, a filled society, and every process under the supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import yaml

from bus import access, config, platform
from bus.avro import dataset as schemas
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.platform import processes, roster, targets
from connectors.society import fill
from tests.pipeline import rest

SETTINGS = {
    "kafka": {"lanes": 4, "heap_mb": 384},
    "capture": {"heartbeat_seconds": 2.0},
    "engine": {"workers": 2},
}
SOAK = os.environ.get("LT_SOAK") == "1"
"""Everything longer: `make soak`."""
PEOPLE = 20_000 if SOAK else 1_000
START_SECONDS = 120.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Bus:
    """A running bus. `datasets` by name."""

    settings: Settings
    datasets: dict[str, Dataset]

    @property
    def domains(self) -> list[str]:
        return sorted({d.domain for d in self.datasets.values()})

    def dsns(self) -> dict[str, str]:
        """Domain -> DSN of the agency itself."""
        return {domain: access.owner_dsn(self.settings, domain) for domain in self.domains}

    def owner(self, domain: str) -> psycopg.Connection:
        """The agency's own connection, one statement a transaction unless told otherwise."""
        return psycopg.connect(access.owner_dsn(self.settings, domain), autocommit=True, connect_timeout=5)

    def rest(self, seconds: float = 90.0) -> None:
        """Until everything committed so far is captured and processed. Raises rest.NotAtRest."""
        rest.wait(self.settings, self.datasets, seconds)

    def workers(self) -> list[str]:
        """Names of the bus's own processes, without the supervisor."""
        return [w.name for w in roster.workers(self.settings, self.datasets)]

    def kill(self, name: str) -> int:
        """kill -9; returns the pid that was. The process must be running."""
        found = rest.until(lambda: processes.running(self.settings, name), START_SECONDS, f"{name} to run")
        found.kill()
        rest.until(lambda: _ended(found), STOP_SECONDS, f"{name} to die")
        return found.pid

    def back(self, name: str, old_pid: int, seconds: float = 60.0) -> None:
        """Until the supervisor has started a process anew."""
        rest.until(
            lambda: (found := processes.running(self.settings, name)) is not None and found.pid != old_pid,
            seconds,
            f"{name} to come back",
        )

    def metrics_ports(self) -> dict[str, int]:
        return targets.endpoints(self.settings)


@contextmanager
def running(home: Path, people: int, seed: int, before_start: Callable[[Bus], None] = lambda _: None) -> Iterator[Bus]:
    """A bus with a society of `people`; `before_start` may write to the databases before anything is captured."""
    home.mkdir(parents=True)
    (home / config.SETTINGS_FILE).write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    settings = config.load(home, env={})
    found = Bus(settings, schemas.load(settings.schemas))
    guard: psutil.Popen | None = None
    try:
        platform.start_kafka(settings)
        platform.start_postgres(settings)
        platform.declare(settings)
        fill(found.dsns(), people, seed, lambda *_: None)
        before_start(found)
        guard = _supervise(settings)
        found.rest(START_SECONDS)
        yield found
    finally:
        if guard is not None:
            guard.terminate()
            _gone(guard)
        platform.stop(settings)


def _supervise(settings: Settings) -> psutil.Popen:
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(settings.home), "up", "--foreground"]
    log = (settings.home / "log" / "supervisor.log").open("ab")
    guard = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    log.close()
    rest.until(lambda: _told(settings).get("ready") or not guard.is_running(), START_SECONDS, "the bus to be up")
    told = _told(settings)
    if not told.get("ready"):
        raise RuntimeError(f"the bus does not start: {told.get('error') or 'see log/supervisor.log'}")
    return guard


def _told(settings: Settings) -> dict[str, Any]:
    """How far the supervisor's start has come."""
    file = settings.home / "run" / "start.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _ended(process: psutil.Process) -> bool:
    """Servers are this process's children: one that is dead but not waited for would still hold its lock file."""
    try:
        process.wait(0)
        return True
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        pass
    try:
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
    except psutil.NoSuchProcess:
        return True


def _gone(guard: psutil.Popen) -> None:
    try:
        guard.wait(timeout=STOP_SECONDS)
    except psutil.TimeoutExpired:
        guard.kill()
