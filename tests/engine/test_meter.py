"""Laws of the counts: a series is there, at zero, before what it counts, so that the first one is an increase."""

from __future__ import annotations

import json
import subprocess
import sys

from bus import config
from bus.core.outcome import CHANGE_OPS, DeadCode

METER = """
from bus.engine.meter import Meter
Meter(lambda: 0).lag(None, {}, [("change.a.b", "a.b"), ("change.c.d", "c.d")])
"""
CAPTURE = """
from connectors.capture import process
process._begin_counts(["a.b", "c.d"])
"""
SHOW = """
import json
from bus import telemetry
found = [s for family in telemetry._registry.collect() for s in family.samples if s.name.endswith("_total")]
print(json.dumps([[s.name, list(s.labels.values()), s.value] for s in found]))
"""


def counters(script: str) -> dict[tuple[str, ...], float]:
    """(name, label values, …) -> value, in a process that has done nothing else."""
    command = [sys.executable, "-c", script + SHOW]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=config.ROOT, timeout=60)
    return {(name, *labels): value for name, labels, value in json.loads(done.stdout)}


def test_the_engine_counts_events_and_dead_letters_of_every_code_from_zero() -> None:
    found = counters(METER)
    for dataset in ("a.b", "c.d"):
        assert found["bus_engine_events_total", dataset] == 0
        assert [found.get(("bus_dead_letters_total", dataset, code.value)) for code in DeadCode] == [0] * len(DeadCode)


def test_capture_counts_events_of_every_op_and_dead_letters_of_every_code_from_zero() -> None:
    found = counters(CAPTURE)
    for dataset in ("a.b", "c.d"):
        assert [found.get(("bus_captured_events_total", dataset, op)) for op in CHANGE_OPS] == [0] * len(CHANGE_OPS)
        assert [found.get(("bus_dead_letters_total", dataset, code.value)) for code in DeadCode] == [0] * len(DeadCode)
