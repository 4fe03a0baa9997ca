"""Ours beside Debezium: one table on one PostgreSQL, one broker, in turn, exactly once on both sides, every event checked.

A round of either has a database of its own: rows are there for the snapshot; rows are inserted, then updated, while nobody
reads, and drained; then single rows are inserted at a rate and each is timed to a reader of committed records. Afterwards the
table is built again out of its events and held against the table itself. A smaller round goes before those that count, so that
Java has compiled what it needs: Debezium's worker lives as long as the measurement.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import psycopg.conninfo
import yaml
from confluent_kafka import IsolationLevel
from psycopg import sql

from bus import config, platform
from bus.bench import capture_latency, captures, check, debezium, ours, wide
from bus.bench.captures import Capture
from bus.bench.drain import Usage
from bus.bench.product import Watch
from bus.bench.workload import Workload
from bus.config import Settings
from bus.platform import broker, database, ports, processes, secrets

Figures = dict[str, Any]
OK = "ok"
SNAPSHOT, INSERTS, UPDATES, LATENCY = "snapshot", "inserts", "updates", "capture latency"
LINGERS_MS = (50, 10, 5, 2, 1)
"""capture.linger_ms: the default, then less, until the latency is no worse than Debezium's."""
LOOK_SECONDS = 0.02
STILL_SECONDS = 2.0
"""Longer than any pause in between: after so long without news a drain is over."""
PATIENCE_SECONDS = 120.0
_WARM_UP_SHARE = 5
_DOMAIN = "wide"


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure. One more round, a fifth as large, goes before the `rounds` that count."""

    rows: int = 500_000
    inserts: int = 300_000
    updates: int = 100_000
    rate: int = 500
    seconds: int = 30
    rounds: int = 2
    seed: int = 1
    debezium: bool = True

    @property
    def domains(self) -> list[str]:
        return [f"{_DOMAIN}{number}" for number in range(self.rounds + 1)]

    def warm_up(self) -> Order:
        sizes = [size // _WARM_UP_SHARE for size in (self.rows, self.inserts, self.updates)]
        return replace(self, rows=sizes[0], inserts=sizes[1], updates=sizes[2], seconds=0)


def measure(order: Order, say: Callable[[str], None]) -> list[Figures]:
    """A row for each phase of each counted round. Raises ConfigError, and RuntimeError when a capture fails."""
    with _servers(order) as settings, contextlib.ExitStack() as closing:
        found: list[Capture] = [*([debezium.Debezium(settings)] if order.debezium else []), captures.Ours(settings)]
        for one in found:
            closing.callback(one.close)
        rows: list[Figures] = []
        for number, domain in enumerate(order.domains):
            for one in found:
                made = Round(settings, one, domain, order if number else order.warm_up(), rows).measure(say)
                rows += [row | {"round": number} for row in made] if number else []
        return rows


@contextmanager
def _servers(order: Order) -> Iterator[Settings]:
    """A private home with a broker and PostgreSQL, a database for each round, and everything declared; removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="bus-bench-") as directory:
        home = Path(directory)
        settings = config.load(home, env={})
        processes.make_home(settings)
        login: dict[str, Any] = {
            "user": database.SUPERUSER,
            "password": secrets.password(settings, f"postgres-{database.SUPERUSER}"),
        }
        login |= {"host": ports.HOST, "port": ports.ensure(settings).postgres}
        dsn = {d: psycopg.conninfo.make_conninfo("", dbname=d, **login) for d in order.domains}
        schemas = home / "bench" / "schemas"
        ours.write_register(Workload(1, order.seed), schemas)
        for domain in order.domains:
            wide.write_schema(schemas, domain)
        (home / "bench" / "agreements").mkdir()
        stated = {"schemas": str(schemas), "agreements": str(home / "bench" / "agreements"), "postgres": {"dsn": dsn}}
        secrets.write(home / config.SETTINGS_FILE, yaml.safe_dump(stated).encode())
        settings = config.load(home, env={})
        try:
            platform.start_kafka(settings)
            platform.start_postgres(settings)
            platform.declare(settings)
            with database.connect(settings) as db:
                for domain in order.domains:
                    db.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(domain)))
            yield settings
        finally:
            platform.stop(settings)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at everything: the clock, CPU seconds of capture, broker and PostgreSQL, and the topic's committed end."""

    at: float
    cpu: float
    broker_cpu: float
    postgres_cpu: float
    end: int


class Round:
    """All phases of one capture on one database. `before`: rows of earlier phases, to compare the latency with."""

    def __init__(self, settings: Settings, one: Capture, domain: str, order: Order, before: Sequence[Figures]) -> None:
        self._settings, self._one, self._domain, self._order, self._before = settings, one, domain, order, before
        self._watch = Watch(settings)
        self._broker = Usage([broker.start(settings)])
        self._postgres = database.start(settings)
        self._peak_mb = 0

    def measure(self, say: Callable[[str], None]) -> list[Figures]:
        order, one = self._order, self._one
        with captures.connect(self._settings, self._domain) as db:
            wide.create(db)
            one.prepare(self._domain)
            rows = []
            for phase, count in ((SNAPSHOT, order.rows), (INSERTS, order.inserts), (UPDATES, order.updates)):
                self._change(db, phase, count)
                rows.append(self._drain(phase, count))
                say(_short(rows[-1]))
                if phase != UPDATES:
                    one.pause(self._domain)
            latencies = self._latencies(say) if order.seconds else []
            one.finish(self._domain)
            made = order.inserts + order.rate * order.seconds * len(latencies)
            verdict = self._check(db, {"r": order.rows, "c": made, "u": order.updates})
            say(f"{one.name}: check {verdict}")
        return [row | {"check": verdict} for row in rows + latencies]

    def _change(self, db: psycopg.Connection[Any], phase: str, count: int) -> None:
        if phase == UPDATES:
            wide.update(db, count)
        else:
            wide.fill(db, self._order.seed + (phase == INSERTS), count)
        wide.settle(db)

    def _drain(self, phase: str, count: int) -> Figures:
        """From the first news to the last; what the first news brought does not count, as it was worked for before.

        Where the first news are all, as with few changes, the clock runs from the last look before.
        """
        looks, began = [self._look()], time.monotonic()
        start = looks[0].end
        self._one.resume(self._domain)
        while looks[-1].end - start < count or looks[-1].at - _last_news(looks).at < STILL_SECONDS:
            time.sleep(LOOK_SECONDS)
            looks.append(self._look())
            if looks[-1].at - _last_news(looks).at > PATIENCE_SECONDS:
                raise RuntimeError(
                    f"{self._one.name}, {phase}: {looks[-1].end - start} of {count} captured, and no more comes: "
                    "see the log directory of the home"
                )
        news, first, last = span(looks)
        counted = count * (last.end - first.end) / (last.end - start)  # the topic's end also counts commit markers
        seconds = last.at - first.at
        return {
            "engine": self._one.name,
            "mode": phase,
            "changes": count,
            "changes_per_second": round(counted / seconds),
            "cpu_us_per_change": _micros(last.cpu - first.cpu, counted),
            "postgres_cpu_us_per_change": _micros(last.postgres_cpu - first.postgres_cpu, counted),
            "broker_cpu_us_per_change": _micros(last.broker_cpu - first.broker_cpu, counted),
            "peak_rss_mb": self._peak_mb,
            "start_seconds": round(news.at - began, 2),
        }

    def _look(self) -> Look:
        used = Usage(self._one.processes())
        cpu = used.cpu()
        self._peak_mb = max(self._peak_mb, used.peak_rss_mb())
        return Look(time.monotonic(), cpu, self._broker.cpu(), _tree_cpu(self._postgres), self._end())

    def _end(self) -> int:
        return sum(self._watch.ends([self._one.topic(self._domain)], IsolationLevel.READ_COMMITTED).values())

    def _latencies(self, say: Callable[[str], None]) -> list[Figures]:
        """Of ours at the default, and with less and less waiting until the p99 is no worse than Debezium's."""
        if not isinstance(self._one, captures.Ours):
            return [self._latency({}, say)]
        rivals = [row["p99_ms"] for row in self._before if row["mode"] == LATENCY and row["engine"] == debezium.NAME]
        found = []
        for linger_ms in LINGERS_MS if rivals else LINGERS_MS[:1]:
            self._one.pause(self._domain)
            self._one.flags = {"BUS_CAPTURE__LINGER_MS": str(linger_ms)}
            self._one.resume(self._domain)
            self._await_reading()
            found.append(self._latency({"linger_ms": linger_ms}, say))
            if rivals and found[-1]["p99_ms"] <= statistics.median(rivals):
                break
        self._one.flags = {}
        return found

    def _await_reading(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._one.reads(self._domain):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._one.name} does not go on: see the log directory of the home")
            time.sleep(LOOK_SECONDS)

    def _latency(self, about: Figures, say: Callable[[str], None]) -> Figures:
        order = self._order
        found = capture_latency.measure(self._settings, self._one, self._domain, order.seed + 2, order.rate, order.seconds)
        row = {"engine": self._one.name, "mode": LATENCY, **about, **found}
        say(_short(row))
        return row

    def _check(self, db: psycopg.Connection[Any], ops: dict[str, int]) -> str:
        decode, replay = self._one.decoder(self._domain), wide.Replay()
        for message in check.committed(self._settings, self._one.topic(self._domain)):
            replay.add(decode(message.value()))
        problems = replay.problems(ops, wide.content(db))
        return "FAILED: " + "; ".join(problems) if problems else OK


def span(looks: Sequence[Look]) -> tuple[Look, Look, Look]:
    """(first news, where the clock begins, the last news). `looks` begin before any news, and there are some."""
    last = _last_news(looks)
    place = next(i for i, look in enumerate(looks) if look.end > looks[0].end)
    return looks[place], looks[place - 1] if looks[place] is last else looks[place], last


def _last_news(looks: Sequence[Look]) -> Look:
    """The first look that saw as much as the last one did."""
    place = len(looks) - 1
    while place and looks[place - 1].end == looks[-1].end:
        place -= 1
    return looks[place]


def _micros(cpu_seconds: float, count: float) -> float:
    return round(cpu_seconds / count * 1e6, 1)


def _tree_cpu(root: psutil.Process) -> float:
    """CPU seconds of a server and its children, also of those that have ended."""
    times = root.cpu_times()
    spent = times.user + times.system + times.children_user + times.children_system
    for child in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            own = child.cpu_times()
            spent += own.user + own.system
    return float(spent)


def _short(row: Figures) -> str:
    shown = ("engine", "mode", "linger_ms", "changes_per_second", "cpu_us_per_change", "peak_rss_mb", "p50_ms", "p99_ms")
    return ", ".join(itertools.chain.from_iterable([[f"{name} {row[name]}"] for name in shown if name in row]))
