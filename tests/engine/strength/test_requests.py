"""Whatever becomes of a request of a transaction, delivered is once, in order and accounted for, and no human is needed."""

from __future__ import annotations

import pytest

from bus.config import Settings
from tests.chaos.proxy import Api, Fault, Kind, Proxy
from tests.engine.stage import Stage
from tests.engine.strength.matrix import cases

pytestmark = pytest.mark.timeout(400)
TRANSACTIONAL = (
    Api.INIT_PRODUCER_ID,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
)
KINDS = (Kind.DELAY, Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.REPEAT, Kind.BELATE)
LOSING = (Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.BELATE)
EVERY = [(kind, api) for kind in KINDS for api in TRANSACTIONAL]
DAILY = [(Kind.CUT_AFTER, Api.END_TXN)]


@pytest.mark.parametrize("case", cases(EVERY, DAILY), ids=lambda case: f"{case[0].name}-{case[1].name}")
def test_a_mistreated_request_changes_nothing_of_what_is_delivered(
    stage: Stage, proxy: Proxy, home: Settings, case: tuple[Kind, Api]
) -> None:
    kind, api = case
    at_start = api is Api.INIT_PRODUCER_ID
    fault = proxy.add(Fault(kind, api, "engine-0", skip=0 if at_start else 2))
    before = len(stage.log("engine-0")) if (stage.settings.home / "log" / "engine-0.log").exists() else 0
    stage.start("engine-0", home)

    def struck() -> bool:
        stage.feed(40)
        return fault.over

    stage.until(f"{kind.value} {api.name}", struck, restarting=True)
    proxy.clear()
    for _ in range(2):  # what comes after the end begins a transaction that is later than the fault
        stage.feed(200)
        stage.until("the end of the inputs", stage.drained, restarting=True)
    stage.check()
    told = [line["event"] for line in stage.log("engine-0")[before:]]
    if kind in LOSING:  # the producer is new, or even the process is, and then the lanes were read again
        renewed = ("producer_awaited", "producer_replaced")
        new = next(n for n, event in enumerate(told) if event in renewed or (n and event == "process_started"))
        assert "lanes_assigned" in told[new:]
    elif kind is Kind.DELAY:
        assert "producer_replaced" not in told
    stage.stop("engine-0")
