"""kill -9 at every step of the engine's loop, in a take-over, an abort, a rebalance: nothing is lost, repeated or reordered.

`make failpoints` tries every point for its 1st, 2nd and 3rd time, and looks at the outputs after each; the tests of every run
go through some in one history, and see that all of them are reached.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer

from bus.core import failpoint
from bus.core.failpoint import Point
from bus.engine import client
from bus.engine.client import Abort, Indefinite
from bus.engine.member import GROUP
from bus.engine.transaction import Transactions
from tests.chaos import broken
from tests.engine.stage import Stage
from tests.engine.test_worker import working
from tests.slower import FAILPOINTS, SEVERAL

pytestmark = pytest.mark.timeout(900)
TIMES = 3
FALL_SECONDS = 60.0
PAUSE_MS = 250
"""Longer than the producer lingers: what was produced reaches the broker before the process dies."""

ONCE_A_LIFE = {Point.BEFORE_JOIN}
ABORTING = {
    *(Point.BEFORE_ABORT, Point.AFTER_ABORT, Point.BEFORE_RECOVER, Point.AFTER_GROUP_OFFSETS, Point.AFTER_RECOVER),
    *(Point.BEFORE_ASSIGN, Point.AFTER_ASSIGN),
}
OPEN = {Point.BEFORE_PRODUCER, Point.AFTER_PRODUCER, Point.BEFORE_DISCARD, Point.AFTER_DISCARD}
SOME = (Point.PARTITIONS_ADDED, Point.AFTER_COMMIT)
REBALANCING = {Point.AFTER_ASSIGNED, Point.BEFORE_REVOKE, Point.AFTER_REVOKE}


def disturbance(point: Point) -> str:
    return "abort" if point in ABORTING else "open" if point in OPEN else ""


def stimulus(stage: Stage, point: Point) -> Callable[[], None]:
    """What brings the worker to the point, again and again."""
    if point in REBALANCING:
        return lambda: pass_by(stage)
    if point is Point.AFTER_DEAD_LETTER:
        return stage.poison
    return lambda: stage.feed(60)


def pass_by(stage: Stage) -> None:
    """Somebody joins the group and leaves it again: two rebalances, if the worker is there."""
    own = {"group.id": GROUP, "session.timeout.ms": 10_000, "enable.partition.eof": False}
    passer = Consumer(stage.config | client.READER | own)
    given: list[object] = []
    passer.subscribe([d.topic for d in stage.datasets.values()], on_assign=lambda _, places: given.append(places))
    deadline = time.monotonic() + 5
    while not given and time.monotonic() < deadline:
        passer.poll(0.05)
        if any(p.poll() is not None for p in stage.running.values()):
            break
    passer.close()
    stage.feed(20)


def fall(stage: Stage, point: Point, count: int, pause_ms: int) -> None:
    """A worker that dies at the point, fed meanwhile. Fails when it does not come there."""
    broken.start(stage, "engine-0", disturbance=disturbance(point), dies_at=f"{point.value}:{count}:{pause_ms}")
    worker, provoke = stage.running["engine-0"], stimulus(stage, point)
    deadline = time.monotonic() + FALL_SECONDS
    while worker.poll() is None:
        assert time.monotonic() < deadline, f"{point} was not reached {count} times"
        provoke()
    del stage.running["engine-0"]
    assert worker.returncode == -signal.SIGKILL, stage.log("engine-0")[-3:]


def fall_often(stage: Stage, point: Point, count: int) -> None:
    """At the `count`th time; with what was produced on its way to the broker, or not."""
    pause_ms = PAUSE_MS if count % 2 == 0 else 0
    for _ in range(count if point in ONCE_A_LIFE else 1):
        fall(stage, point, 1 if point in ONCE_A_LIFE else count, pause_ms)


def come_back(stage: Stage) -> None:
    stage.start("engine-0")
    stage.feed(120)
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    stage.kill("engine-0")


@pytest.mark.skipif(FAILPOINTS, reason="each is tried by itself")
def test_a_worker_that_dies_again_and_again_loses_and_repeats_nothing(stage: Stage) -> None:
    stage.feed(200)
    for point in SOME:
        fall_often(stage, point, 1)
    come_back(stage)


@SEVERAL
def test_every_point_is_reached(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point that nothing comes by would be proved safe by its absence."""
    reached = set[Point]()
    monkeypatch.setattr(failpoint, "hit", reached.add)
    honest, raised = Transactions.commit, [Abort("as the test wants it"), Indefinite("as the test wants it")]

    def commit(self: Transactions, *given: Any) -> None:
        if raised:
            raise raised.pop()
        honest(self, *given)

    monkeypatch.setattr(Transactions, "commit", commit)
    with working(stage):
        for provoke in (stage.feed, stage.feed_in_vain, lambda _: stage.poison(), lambda _: pass_by(stage)):
            provoke(200)
            stage.until("the end of the inputs", stage.drained)
    stage.check()
    assert set(failpoint.ENGINE) - reached == set()


@pytest.mark.skipif(not FAILPOINTS, reason="make failpoints")
@pytest.mark.parametrize("count", range(1, TIMES + 1))
@pytest.mark.parametrize("point", failpoint.ENGINE, ids=lambda point: point.value)
def test_a_worker_that_dies_there_loses_and_repeats_nothing(stage: Stage, point: Point, count: int) -> None:
    stage.feed(200)
    fall_often(stage, point, count)
    come_back(stage)
