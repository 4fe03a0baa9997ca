"""What it costs the live stream that an agreement gets its past: `python -m bus.engine.bench_past`, one JSON object on stdout.

A private home is filled with events, which are drained. Then come events at a steady rate, twice: once alone, and once while an
agreement with `past: all` is switched on and gets all of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bus import config, platform
from bus.avro import dataset
from bus.config import Settings
from bus.core import topics
from bus.engine import bench, bench_steady

WORKERS = 2
STEADY_SECONDS = 25.0
SWITCH_SECONDS = bench_steady.WARM_UP_SECONDS + 2.0
PATIENCE_SECONDS = 300.0


class Past:
    """One home, from its filling to both measurements."""

    def __init__(self, settings: Settings, people: int) -> None:
        self._settings = settings
        self._datasets = dataset.load(settings.schemas)
        self._filling, self._watch = bench.Filling(settings, self._datasets, people), bench.Watch(settings)
        self._logs = [settings.home / "log" / f"engine-{n}.log" for n in range(WORKERS)]

    def measure(self, events: int, rate: int, agreement: str) -> dict[str, Any]:
        """`agreement`: the one whose grants the late one has."""
        count = self._filling.register()
        register = bench.start(self._settings, "register")
        try:
            log = self._settings.home / "log" / "register.log"
            bench.wait_for("the replica", lambda: "register_ready" in log.read_text(encoding="utf-8"), [register])
            self._filling.changes(events)
            bench.drain(self._settings, self._watch, [d.topic for d in self._datasets.values()], WORKERS)
            alone = self._steady(rate)
            seconds: list[float] = []
            switch = threading.Thread(target=lambda: seconds.append(self._switch_on(agreement)))
            switch.start()
            beside = self._steady(rate)
            switch.join()
        finally:
            bench.stop(register)
        past = {"records": events + count, "seconds": round(seconds[0], 1), "rate_live": rate}
        ratios = {name: round(beside[name] / alone[name], 2) for name in ("p50_ms", "p99_ms")}
        return {"alone": alone, "beside_the_past": beside, "ratio": ratios, "past": past}

    def _steady(self, rate: int) -> dict[str, float]:
        running = [bench.start(self._settings, f"engine-{n}") for n in range(WORKERS)]
        try:
            bench.wait_for(
                "the lanes", lambda: all("lanes_assigned" in p.read_text(encoding="utf-8") for p in self._logs), running
            )
            sources = self._filling.sources()
            ends = self._watch.ends(topics.verified(one.name) for one, _ in sources)
            found = bench_steady.steady(self._settings, sources, ends, rate, STEADY_SECONDS)
            bench.wait_for("the past to be given", self._caught_up, running)
            return found
        finally:
            for process in running:
                bench.stop(process)

    def _told(self, event: str) -> int:
        return sum(path.read_text(encoding="utf-8").count(f'"{event}"') for path in self._logs)

    def _caught_up(self) -> bool:
        return not self._told("past_begun") or self._told("past_caught_up") >= self._settings.kafka.lanes

    def _switch_on(self, agreement: str) -> float:
        """A little after the rate has become steady. Seconds until the agreement has its past."""
        from bus.platform import declaration

        time.sleep(SWITCH_SECONDS)
        files = shutil.copytree(self._settings.agreements, self._settings.home / "agreements")
        text = (files / f"{agreement}.yaml").read_text(encoding="utf-8")
        agency = agreement.partition(".")[0]
        text = text.replace(f"agency: {agency}", "agency: latecomer", 1).replace("\ndatasets:", "\npast: all\ndatasets:", 1)
        (files / "latecomer.yaml").write_text(text, encoding="utf-8")
        began = time.monotonic()
        declaration.apply(dataclasses.replace(self._settings, agreements=files))
        while self._told("past_caught_up") < self._settings.kafka.lanes:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise RuntimeError("the agreement did not get its past in time: see the log directory of the home")
            time.sleep(bench.LOOK_SECONDS)
        return time.monotonic() - began


def main(arguments: list[str] | None = None) -> None:
    asked = argparse.ArgumentParser(prog="python -m bus.engine.bench_past", description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--events", type=int, default=300_000, help="change events of the past")
    asked.add_argument("--people", type=int, default=20_000, help="people in the register")
    asked.add_argument("--rate", type=int, default=500, help="live events a second")
    asked.add_argument("--agreement", default="tax.taxpayers", help="whose grants the late agreement has")
    given = asked.parse_args(arguments)
    home = Path(tempfile.mkdtemp(prefix="bus-bench-"))
    settings = config.load(home, env={})
    try:
        platform.start_kafka(settings)
        platform.declare(settings)
        found = Past(settings, given.people).measure(given.events, given.rate, given.agreement)
        sys.stdout.write(json.dumps(found) + "\n")
    finally:
        platform.stop(settings)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
