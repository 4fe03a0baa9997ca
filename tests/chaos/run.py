"""A seeded random mix of everything that can go wrong, on a whole bus under load, and the independent checker at the end.

    make chaos MINUTES=5 SEED=7

Two workers run under the supervisor, one behind a proxy that mistreats its requests, and one comes and goes. Whatever ends by
itself is started again, as the supervisor does. Exit status 1 when anything is anomalous: an event lost, repeated, reordered,
leaked or unexplained, a process that ends by a fault of its own, a bus that does not come to rest.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from confluent_kafka import IsolationLevel, KafkaException

from bus.bench import product
from bus.config import Settings
from bus.core import topics
from bus.engine.worker import STUCK_STATUS
from bus.platform import ports, processes
from tests.chaos import plan
from tests.chaos.plan import Step
from tests.chaos.proxy import Fault, Proxy, behind
from tests.oracle import check
from tests.pipeline import rest
from tests.pipeline.bus import Bus, running
from tests.pipeline.load import Load

PEOPLE = 1_000
RATE = 120.0
REST_SECONDS = 240.0
WAIT_SECONDS = 30.0
"""Longest wait for a process to run that is to be hit."""
BEHIND_PROXY, PASSER_BY = "engine-2", "engine-3"
BIG_ROWS = 3_000
LOOK_SECONDS = 0.25
FAULT = re.compile(r"\bat \w+[.]py:\d+")
"""In the reason of a process that has ended by an error that nobody had thought of."""
TRACEBACK = "Traceback (most recent call last):"
"""What such a process leaves that does not even give a reason."""


class Extra:
    """Workers beside the supervisor's, reaching the broker through the proxy; started again when they end by themselves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self.ends: Counter[int] = Counter()
        """Exit status -> how often somebody ended so by himself."""

    def join(self, name: str) -> None:
        with self._lock:
            self._running[name] = product.start(self._settings, name)

    def leave(self, name: str) -> None:
        with self._lock:
            found = self._running.pop(name)
        found.terminate()
        found.wait(10)

    def here(self, name: str) -> psutil.Process | None:
        with self._lock:
            found = self._running.get(name)
        return psutil.Process(found.pid) if found is not None and found.poll() is None else None

    def look(self) -> None:
        with self._lock:
            for name, process in self._running.items():
                if (status := process.poll()) is not None:
                    self.ends[status] += 1
                    self._running[name] = product.start(self._settings, name)

    def close(self) -> None:
        with self._lock:
            for process in self._running.values():
                process.kill()
                process.wait(10)
            self._running.clear()


class Stalls:
    """The longest time in which nothing new was verified, though there was always something to verify."""

    def __init__(self, bus: Bus) -> None:
        self.longest_seconds, self.at_seconds = 0.0, 0.0
        self._watch = product.Watch(bus.settings)
        self._names = [topics.verified(name) for name in bus.datasets]
        self._began = self._since = time.monotonic()
        self._come = -1

    def look(self) -> None:
        now = time.monotonic()
        try:
            come = sum(self._watch.ends(self._names, IsolationLevel.READ_COMMITTED).values())
        except (KafkaException, KeyError):
            come = self._come  # no broker, nothing verified
        if now - self._since > self.longest_seconds:
            self.longest_seconds, self.at_seconds = now - self._since, self._since - self._began
        if come != self._come:
            self._come, self._since = come, now


class Chaos:
    def __init__(self, bus: Bus, proxy: Proxy, extra: Extra, seed: int) -> None:
        self._bus, self._proxy, self._extra, self._seed = bus, proxy, extra, seed
        self.injected: Counter[str] = Counter()
        self.stalls = Stalls(bus)
        self._asleep: list[tuple[float, psutil.Process]] = []
        self._load = self._begin(RATE)
        self._loads = 1

    def run(self, steps: list[Step]) -> None:
        began = time.monotonic()
        for step in steps:
            while (now := time.monotonic()) - began < step.at_seconds:
                self._look(now)
                time.sleep(LOOK_SECONDS)
            print(step, flush=True)
            if self._act(step):
                self.injected[f"{step.kind} {step.target.partition(' ')[0]}".strip()] += 1
        self._wake(float("inf"))
        self._proxy.clear()
        self._load.stop()
        assert not self._load.errors, self._load.errors

    def _begin(self, rate: float) -> Load:
        rest.until(self._databases_answer, WAIT_SECONDS, "the databases to answer")
        made = Load(self._bus, self._seed + len(self.injected), rate)
        made.start()
        return made

    def _databases_answer(self) -> bool:
        try:
            for domain in self._bus.domains:
                self._bus.owner(domain).close()
            return True
        except psycopg.OperationalError:
            return False

    def _look(self, now: float) -> None:
        self._wake(now)
        self._extra.look()
        self.stalls.look()
        if self._load.errors:
            raise AssertionError("the load has died") from self._load.errors[0]

    def _wake(self, now: float) -> None:
        for due, process in [entry for entry in self._asleep if entry[0] <= now]:
            self._asleep.remove((due, process))
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _find(self, name: str) -> psutil.Process | None:
        """The process, once it runs; None when it does not in time."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            found = self._extra.here(name) if name in (BEHIND_PROXY, PASSER_BY) else processes.running(self._bus.settings, name)
            if found is not None:
                return found
            self._look(time.monotonic())
            time.sleep(LOOK_SECONDS)
        return None

    def _act(self, step: Step) -> bool:
        """False: it could not be done."""
        if step.kind == plan.PROXY:
            self._proxy.add(Fault(step.mistreatment, step.api, BEHIND_PROXY))
        elif step.kind == plan.MEMBERS:
            (self._extra.leave if self._extra.here(PASSER_BY) else self._extra.join)(PASSER_BY)
        elif step.kind == plan.LOAD:
            self._load.stop()
            self._load = self._begin(float(step.target.partition("/")[0]))
        elif step.kind == plan.BIG:
            self._big()
        else:
            target = {plan.BROKER: "kafka", plan.DATABASE: "postgres"}.get(step.kind, step.target)
            found = self._find(target)
            if found is None:
                return False
            with contextlib.suppress(psutil.NoSuchProcess):
                if step.kind == plan.SLEEP:
                    found.suspend()
                    self._asleep.append((time.monotonic() + step.seconds, found))
                else:
                    found.kill()
        return True

    def _big(self) -> None:
        with contextlib.suppress(psycopg.OperationalError, psycopg.IntegrityError):
            self._load.workload.big_transaction(BIG_ROWS)


def reasons(settings: Settings) -> Counter[str]:
    """What processes have ended with by themselves. They are started again; one that does not come back is seen at the end."""
    found = Counter[str]()
    for log in sorted((settings.home / "log").glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines):
            if line.startswith("{") and '"process_failed"' in line:
                found[f"{log.stem}: {json.loads(line).get('reason')}"] += 1
            elif line == TRACEBACK:
                found[f"{log.stem}: a traceback at {_last_frame(lines[number + 1 :])}"] += 1
    return found


def _last_frame(lines: list[str]) -> str:
    """Of the traceback that goes on with these lines: file.py:number."""
    frames = itertools.takewhile(lambda line: line.startswith(" "), lines)
    named = [match for line in frames if (match := re.search(r'([^/"]+)", line (\d+)', line))]
    return f"{named[-1][1]}:{named[-1][2]}" if named else "nowhere.py:0"


@contextmanager
def extras(bus: Bus, place: Path) -> Iterator[tuple[Proxy, Extra]]:
    with Proxy(ports.ensure(bus.settings).kafka) as proxy:
        extra = Extra(behind(bus.settings, proxy.port, place))
        try:
            extra.join(BEHIND_PROXY)
            yield proxy, extra
        finally:
            extra.close()


def run(seed: int, minutes: float, place: Path) -> bool:
    """Whether all went well; everything else is printed."""
    with running(place / ".bus", PEOPLE, seed) as bus, extras(bus, place / "behind") as (proxy, extra):
        victims = [name for name in bus.workers() if name not in ("processors", "ledger")] + [BEHIND_PROXY]
        steps = plan.draw(seed, minutes * 60, victims)
        chaos = Chaos(bus, proxy, extra, seed)
        unrest = ""
        chaos.run(steps)
        try:
            _rest(bus, extra)
        except AssertionError as error:
            unrest = str(error)
        report = check(bus.settings)
        ends = reasons(bus.settings)
    _tell(seed, minutes, chaos, proxy, extra)
    print(f"events checked: {report.facts['verified events']}, deliveries: {report.facts['deliveries']}")
    print(report)
    for reason, times in ends.items():
        print(f"ended by itself, {times} times: {reason}")
    faults = sum(times for reason, times in ends.items() if FAULT.search(reason))
    print(f"at rest in the end: {unrest or 'yes'}")
    count = sum(report.counts.values()) + faults + bool(unrest)
    print(f"anomalies: {count}")
    stalls = chaos.stalls
    print(f"longest stall: {stalls.longest_seconds:.1f} s, from {stalls.at_seconds:.0f} s on")
    return not count


def _rest(bus: Bus, extra: Extra) -> None:
    """At rest; who ends meanwhile is started again."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_SECONDS):
            extra.look()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        bus.rest(REST_SECONDS)
        rest.until(lambda: _decided(bus), REST_SECONDS, "all transactions to end")
    finally:
        done.set()
        looking.join()


def _decided(bus: Bus) -> bool:
    """Whether all that is there can be read: markers come after a commit, and a transaction that hangs hides records."""
    watch = product.Watch(bus.settings)
    names = [name for name in watch.names() if not name.startswith("__")]
    try:
        return watch.ends(names) == watch.ends(names, IsolationLevel.READ_COMMITTED)
    except KafkaException:
        return False


def _tell(seed: int, minutes: float, chaos: Chaos, proxy: Proxy, extra: Extra) -> None:
    print(f"\nseed {seed}, {minutes:g} minutes; again: make chaos MINUTES={minutes:g} SEED={seed}")
    print(f"faults injected: {sum(chaos.injected.values())}")
    for kind, count in sorted(chaos.injected.items()):
        print(f"  {kind:<32}{count:>5}")
    struck: dict[Any, int] = dict(proxy.injected)
    for (mistreatment, api), count in sorted(struck.items(), key=str):
        print(f"  of requests: {mistreatment.value + ' ' + api.name:<19}{count:>5}")
    stuck = extra.ends.pop(STUCK_STATUS, 0)
    print(f"extra workers that gave up a call and began anew: {stuck}; that ended otherwise, by status: {dict(extra.ends)}")


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--minutes", type=float, default=5.0)
    asked.add_argument("--seed", type=int, default=None, help="default: another one each time")
    given = asked.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its time"))  # so that whatever was started is stopped
    seed = time.time_ns() // 1_000_000 % 1_000_000 if given.seed is None else given.seed
    place = Path(tempfile.mkdtemp(prefix="bus-chaos-"))
    print(f"seed {seed}, home {place / '.bus'}", flush=True)
    if run(seed, given.minutes, place):
        shutil.rmtree(place)
    else:
        sys.exit(f"kept for a look: {place}; again: make chaos MINUTES={given.minutes:g} SEED={seed}")


if __name__ == "__main__":
    main()
