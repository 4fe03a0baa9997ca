"""kill -9 of any process at random points under load changes nothing of what the bus promises, and needs no human."""

from __future__ import annotations

import random

import pytest

from bus.ledger import conserve
from bus.ledger.conserve import Asked
from tests.oracle import check
from tests.pipeline.bus import SOAK, Bus
from tests.pipeline.load import load
from tests.pipeline.rest import until

SEED = 11
TIMES = 20 if SOAK else 1
BACK_SECONDS = 60.0


@pytest.mark.timeout(7200 if SOAK else 280)
def test_after_killing_everything_several_times_everything_is_explained(running_bus: Bus) -> None:
    rng = random.Random(SEED)
    victims = [name for name in (*running_bus.workers(), "kafka", "postgres") if name not in ("processors", "ledger")] * TIMES
    rng.shuffle(victims)
    killed = []
    with load(running_bus, SEED, rate=120.0) as life:
        for name in victims:
            point = life.committed + rng.randrange(1, 12)
            until(lambda point=point: life.committed >= point, BACK_SECONDS, "the load to go on")  # type: ignore[misc]
            pid = running_bus.kill(name)
            running_bus.back(name, pid, BACK_SECONDS)
            killed.append(name)
        point = life.committed + 20
        until(lambda: life.committed >= point, BACK_SECONDS, "the load to go on")
    running_bus.rest(120)
    report = check(running_bus.settings)
    print(f"killed {len(killed)}: {', '.join(killed)}\n{report}")
    assert not report.anomalies, str(report)
    ledger = conserve.take(running_bus.settings, Asked())
    assert ledger["ok"], ledger["differences"][:5]
