"""A worker that sleeps within its commit while another takes its lanes over, and wakes up, does no harm."""

from __future__ import annotations

import signal

import pytest

from bus.config import Settings
from tests.chaos.proxy import Api, Fault, Kind, Proxy
from tests.engine.stage import Stage
from tests.engine.strength.matrix import cases
from tests.engine.test_worker import owns

pytestmark = pytest.mark.timeout(400)
HELD = [(kind, api) for api in (Api.END_TXN, Api.TXN_OFFSET_COMMIT, Api.PRODUCE) for kind in (Kind.HOLD, Kind.HOLD_ANSWER)]


@pytest.mark.parametrize("case", cases(HELD, []), ids=lambda case: f"{case[0].name}-{case[1].name}")
def test_a_worker_that_sleeps_within_a_commit_and_wakes_up_after_its_lanes_went_elsewhere_does_no_harm(
    stage: Stage, proxy: Proxy, home: Settings, case: tuple[Kind, Api]
) -> None:
    """Its request, sent before it slept, reaches the broker only when another has gone on in its lanes."""
    stage.start("engine-0")
    stage.start("engine-1", home)
    stage.until("both to own lanes", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
    stage.feed(200)
    stage.until("the end of the inputs", stage.drained)
    fault = proxy.add(Fault(case[0], case[1], "engine-1", times=1_000))

    def struck() -> bool:
        stage.feed(40)
        return fault.waits

    stage.until(f"{case[1].name} to be held", struck)
    sleeper = stage.running["engine-1"]
    sleeper.send_signal(signal.SIGSTOP)
    stage.feed(1_000)
    stage.until("the other to own all lanes", lambda: owns(stage, "engine-0", 4))
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained)
    before = stage.check()
    proxy.release(fault)
    sleeper.send_signal(signal.SIGCONT)
    stage.until("both to own lanes again", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)), restarting=True)
    assert stage.check() == before
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained, restarting=True)
    stage.check()
    stage.stop("engine-0")
    stage.stop("engine-1")
