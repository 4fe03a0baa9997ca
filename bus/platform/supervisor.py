"""Keeps the bus of a home up: starts servers and workers, starts again what dies, stops everything in order.

One supervisor a home, by a lock that the system releases however it ends. If it was killed, its children live on; the next
one takes over the servers and starts the workers anew. What runs is recorded in run/pids, and how far a start has come in
run/start.json ({"steps": [...], "ready": bool, "error": str, "digests": {what: SHA-256}}), for whoever waits for it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import psutil
import structlog

from bus import telemetry
from bus.config import ConfigError, Settings
from bus.platform import broker, database, presence, processes, roster, stopping, targets
from bus.platform.declaration import declare
from bus.platform.roster import SUPERVISOR, Worker

_LOOK_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
_STEADY_SECONDS = 30.0
"""Up this long, a process counts as recovered, and its next pause is short again."""


class _Interrupted(BaseException):
    """A signal asked to stop while something long was under way."""


@dataclass(slots=True)
class Child:
    """One supervised process. `due` is when to start it again, monotonic seconds, while it is down."""

    name: str
    launch: Callable[[], psutil.Process]
    process: psutil.Process | None = None
    started: float = 0.0
    due: float = 0.0
    failures: int = 0

    def alive(self) -> bool:
        return self.process is not None and not processes.ended(self.process)

    def pause_seconds(self, rng: random.Random) -> float:
        """Doubles with each failure in a row up to a bound; a little chance keeps children from starting in step."""
        doubled = _FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures, 10)
        return min(doubled, _LONGEST_PAUSE_SECONDS) * rng.uniform(0.8, 1.2)


@dataclass(slots=True)
class Supervisor:
    settings: Settings
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep
    rng: random.Random = field(default_factory=random.Random)
    _children: list[Child] = field(default_factory=list)
    _steps: list[str] = field(default_factory=list)
    _digests: dict[str, str] = field(default_factory=dict)
    _stopping: bool = False
    _interruptible: bool = False
    _targets_failure: str = ""
    _log: structlog.typing.FilteringBoundLogger = field(default_factory=lambda: telemetry.logger(SUPERVISOR))

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises ConfigError when the bus cannot start; then nothing of it runs on."""
        processes.make_home(self.settings)
        with presence.lock(self.settings):
            processes.remember(self.settings, SUPERVISOR, os.getpid())
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, self._asked)
            try:
                telemetry.start(self.settings.home, SUPERVISOR, self.settings.log_level)
                self._start()
                self._watch()
            except _Interrupted:
                pass
            except Exception as error:
                if not self._stopping:  # else a Ctrl-C has reached what was being started, too, and made it fail
                    ours = not isinstance(error, ValueError)  # the others are settings, schemas, agreements, with what to mend
                    self._tell(error=f"an error of the bus itself, see log/{SUPERVISOR}.log: {error!r}" if ours else str(error))
                    raise
            finally:
                self._stopping = True
                stopping.stop_all(self.settings)
                processes.forget(self.settings, SUPERVISOR)
            presence.start_file(self.settings).unlink(missing_ok=True)

    def _asked(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        if (alone := processes.running(self.settings, roster.CONTROLLER)) is not None:
            alone.kill()  # so that the launch that waits for it gives up; asked to end while it starts, it takes 5 s and more
        if self._interruptible:
            self._interruptible = False
            raise _Interrupted

    def _long(self, work: Callable[[], Any]) -> Any:
        """Runs what takes long so that a signal ends it. Never the start of a process: it would be lost before it is recorded."""
        if self._stopping:
            raise _Interrupted
        self._interruptible = True
        try:
            return work()
        finally:
            self._interruptible = False

    def _start(self) -> None:
        self._tell(
            "Starting " + " and ".join(_TITLES[name] for name in roster.servers(self.settings))
            if roster.servers(self.settings)
            else ""
        )
        self._replace_workers()
        for name in roster.servers(self.settings):
            self._server(name)
        for child in self._children:
            self._until_up(child)
        self._tell("Bringing topics, users, rights, schemas and databases to the declared state")
        declared = self._long(lambda: declare(self.settings))
        self._digests = declared.digests
        workers = roster.workers(self.settings, declared.datasets)
        self._tell(f"Starting {len(workers)} processes of the bus")
        for worker in workers:
            self._worker(worker)
        self._tell(f"The bus is up: {len(declared.datasets)} datasets, {len(declared.agreements)} agreements", ready=True)

    def _server(self, name: str) -> None:
        running = processes.running(self.settings, name)
        child = Child(name, lambda: _SERVERS[name].launch(self.settings), running, self.clock())
        self._children.append(child)
        if running is None:
            self._launch(child)

    def _until_up(self, child: Child) -> None:
        assert child.process is not None
        wait = _SERVERS[child.name].wait
        processes.until_up(
            child.process,
            lambda: self._launch_again(child),
            lambda process: self._long(lambda: wait(self.settings, process)),
        )

    def _worker(self, worker: Worker) -> None:
        home = {"BUS_HOME": str(self.settings.home)}
        child = Child(worker.name, lambda: processes.spawn(self.settings, worker.name, worker.command, env=home))
        self._children.append(child)
        self._launch(child)

    def _launch(self, child: Child) -> psutil.Process:
        process = child.launch()
        child.process, child.started = process, self.clock()
        telemetry.gauge("bus_process_up").labels(process=child.name).set(1)
        telemetry.counter("bus_process_restarts_total").labels(process=child.name).inc(0)
        with suppress(OSError):  # its own log, too, lies on the disk that may be full
            self._log.info("child_started", child=child.name, pid=process.pid)
        return process

    def _launch_again(self, child: Child) -> psutil.Process:
        telemetry.counter("bus_process_restarts_total").labels(process=child.name).inc()
        return self._launch(child)

    def _replace_workers(self) -> None:
        """Ends workers that outlived a supervisor that was killed: they may be of another configuration."""
        stopping.end(self.settings, stopping.workers(self.settings), stopping.WORKER_SECONDS)

    def _watch(self) -> None:
        while not self._stopping:
            for child in self._children:
                self._look_after(child)
            self._tell_prometheus()
            self.wait(_LOOK_SECONDS)

    def _tell_prometheus(self) -> None:
        """A disk that is full, say, is no reason to end what runs. Told once, not ten times a second."""
        try:
            targets.write(self.settings)
            self._targets_failure = ""
        except OSError as error:
            if str(error) != self._targets_failure:
                self._targets_failure = str(error)
                with suppress(OSError):
                    self._log.error("process_failed", child=SUPERVISOR, reason=f"run/targets.json is not written: {error}")

    def _look_after(self, child: Child) -> None:
        now = self.clock()
        if child.process is not None:
            if child.alive():
                if child.failures and now - child.started > _STEADY_SECONDS:
                    child.failures = 0
                return
            pause = child.pause_seconds(self.rng)
            telemetry.gauge("bus_process_up").labels(process=child.name).set(0)
            about = {"pid": child.process.pid, "status": processes.status(child.process)}
            with suppress(OSError):
                self._log.warning("child_exited", child=child.name, **about, again_in_seconds=round(pause, 1))
            child.process, child.due, child.failures = None, now + pause, child.failures + 1
        if now >= child.due:
            self._start_again(child)

    def _start_again(self, child: Child) -> None:
        try:
            self._launch_again(child)
        except (ConfigError, OSError) as error:  # its port is taken, say: it stays down for now, and is tried again
            child.failures += 1
            child.due = self.clock() + child.pause_seconds(self.rng)
            if self._stopping:  # that is why it did not start
                return
            with suppress(OSError):
                self._log.error("process_failed", child=child.name, reason=str(error))

    def _tell(self, step: str = "", *, ready: bool = False, error: str = "") -> None:
        if step:
            self._steps.append(step)
            self.say(step)
        part = presence.start_file(self.settings).with_suffix(".part")
        told = {"steps": self._steps, "ready": ready, "error": error, "digests": self._digests}
        part.write_text(json.dumps(told), encoding="utf-8")
        part.replace(presence.start_file(self.settings))


_SERVERS = {broker.NAME: broker, database.NAME: database}
_TITLES = {broker.NAME: "Kafka", database.NAME: "PostgreSQL"}
