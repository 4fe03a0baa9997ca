"""Lanes that go from worker to worker without rest."""

from __future__ import annotations

import random
import time

import pytest

from tests.engine.feeding import feeding
from tests.engine.stage import Stage
from tests.engine.strength.matrix import only_soak

pytestmark = [pytest.mark.timeout(600), only_soak]
WORKERS = 5
TURNS = 45
TURN_SECONDS = 2.0


class Pause:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def over(self) -> bool:
        return time.monotonic() >= self._end


@pytest.mark.parametrize("seed", [1, 2])
def test_a_worker_that_joins_or_leaves_every_two_seconds_costs_time_and_nothing_else(stage: Stage, seed: int) -> None:
    """Leaves by being asked or by being killed; a name that is away is given up after its session's time."""
    rng = random.Random(seed)
    with feeding(stage):
        for turn in range(TURNS):
            name = f"engine-{rng.randrange(WORKERS)}"
            if name not in stage.running:
                stage.start(name)
            elif rng.random() < 0.5:
                stage.kill(name)
            else:
                stage.stop(name)
            pause = Pause(TURN_SECONDS)
            stage.until(f"turn {turn}", pause.over, restarting=True)
    if "engine-0" not in stage.running:
        stage.start("engine-0")
    stage.until("the end of the inputs", stage.drained, restarting=True)
    stage.check()
    lines = [line for n in range(WORKERS) for line in stage.log(f"engine-{n}")]
    moves = sum(line["event"] == "lanes_assigned" for line in lines)
    print(f"seed {seed}: {TURNS} turns, lanes were assigned {moves} times", flush=True)
    for name in set(stage.running) - {"register"}:
        stage.stop(name)
