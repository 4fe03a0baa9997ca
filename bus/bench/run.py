"""One whole comparison: fill, drain in turn, then a steady rate, everything on one embedded broker."""

from __future__ import annotations

import dataclasses
import fcntl
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bus import config, platform
from bus.bench import check, contestants, filling, kafka_streams, ours, steady
from bus.bench.drain import Drain
from bus.bench.filling import Load
from bus.bench.reference import Counts
from bus.bench.workload import Workload
from bus.config import ConfigError, Settings

Figures = dict[str, Any]
OK = "ok"


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure. `rounds` of drains that count; one more goes before them. 0 leaves a part out."""

    load: Load
    rounds: int
    rate: int
    seconds: int
    streams: bool
    home: Path | None

    @property
    def names(self) -> list[str]:
        return [kafka_streams.NAME, ours.NAME] if self.streams else [ours.NAME]


def measure(order: Order) -> list[Figures]:
    """A row for each run, in order. Raises ConfigError for what the caller can mend, RuntimeError when an engine fails."""
    if order.streams:
        kafka_streams.find_jdk()  # before anything is started
    with own_home(order.load, order.home) as settings:
        for name in order.names:
            filling.contestant(name, settings, order.load).declare()
        rows = _drains(settings, order) if order.rounds else []
        return rows + (_steadies(settings, order) if order.seconds else [])


@contextmanager
def own_home(load: Load, kept: Path | None) -> Iterator[Settings]:
    """A private home with a broker; removed afterwards unless it was asked for."""
    home = (kept or Path(tempfile.mkdtemp(prefix="bus-bench-"))).absolute()
    place = home / "bench"
    if home.exists() and any(home.iterdir()) and not place.exists():
        raise ConfigError(f"{home} is not a bench's home and not empty: choose another --home")
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another bench runs on {home}: wait for it, or choose another --home") from None
        ours.write_files(Workload(load.people, load.seed), place / "schemas", place / "agreements")
        stated = {
            "kafka": {"lanes": contestants.LANES},
            "schemas": str(place / "schemas"),
            "agreements": str(place / "agreements"),
        }
        (home / config.SETTINGS_FILE).write_text(yaml.safe_dump(stated), encoding="utf-8")
        settings = config.load(home, env={})
        try:
            platform.start_kafka(settings)
            platform.declare(settings)
            yield settings
        finally:
            platform.stop(settings)
            if kept is None:
                shutil.rmtree(home, ignore_errors=True)


def _drains(settings: Settings, order: Order) -> list[Figures]:
    expected: dict[str, Counts] = {}
    about: dict[str, dict[str, float]] = {}
    engines = {name: filling.contestant(name, settings, order.load) for name in order.names}
    for name in order.names:
        say(f"{name}: {len(engines[name].inputs)} x {order.load.events:,} events, {order.load.people:,} people")
        expected[name], about[name] = filling.fill(settings, name, order.load)
    rows = []
    for number in range(order.rounds + 1):
        for name, one in engines.items():
            one.reset(at_end=False)
            found = Drain(settings, one).measure()
            found["round"] = number
            found["outputs_per_second"] = round(sum(c.records for c in expected[name].values()) / found["seconds"])
            found |= about[name]
            if number:  # the first round warms the broker up
                found["check"] = _checked(settings, name, order.load, expected[name])
                rows.append(found)
            say(f"round {number or 'warm-up'}: {_short(found)}")
    return rows


def _steadies(settings: Settings, order: Order) -> list[Figures]:
    rows = []
    for name in order.names:
        say(f"{name}: {order.rate:,} events a second for {order.seconds} s after {steady.WARM_UP_SECONDS:.0f} s")
        one = filling.contestant(name, settings, order.load)
        # without drains before, the register is all that is needed
        filling.fill(settings, name, order.load if order.rounds else dataclasses.replace(order.load, events=1))
        filling.spoil(settings, name)  # from here on the inputs hold more
        one.reset(at_end=True)
        found, expected = steady.measure(settings, one, order.load, order.rate, order.seconds)
        rows.append(found | {"check": _checked(settings, name, order.load, expected)})
        say(_short(rows[-1]))
    return rows


def _checked(settings: Settings, name: str, load: Load, expected: Counts) -> str:
    problems = check.check(settings, name, load, expected)
    return "FAILED: " + "; ".join(problems) if problems else OK


def _short(found: Figures) -> str:
    shown = ("engine", "events_per_second", "cpu_seconds_per_million", "peak_rss_mb", "p50_ms", "p99_ms", "check")
    return ", ".join(f"{name} {found[name]}" for name in shown if name in found)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
