"""A broker that dies at any request costs time and nothing else."""

from __future__ import annotations

import time

import pytest

from bus.config import Settings
from bus.platform import broker
from tests.chaos.proxy import Api, Fault, Kind, Proxy
from tests.engine.stage import Stage
from tests.engine.strength.matrix import cases

pytestmark = pytest.mark.timeout(400)
AT_START = (Api.INIT_PRODUCER_ID, Api.JOIN_GROUP, Api.SYNC_GROUP, Api.OFFSET_FETCH)
AT_WORK = (
    Api.FETCH,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
)
BEFORE, AFTER = Kind.HOLD, Kind.HOLD_ANSWER
HANGS = (AFTER, Api.END_TXN)
"""Left out, for no client can mend it: a lone Kafka 4.3.1 that dies after it has noted the end of a transaction, and before the
markers stand in its partitions, notes when it is back that all is done and writes no markers. ARCHITECTURE.md has more."""
EVERY = [case for api in (*AT_START, *AT_WORK) for kind in (BEFORE, AFTER) if (case := (kind, api)) != HANGS]


@pytest.mark.parametrize("case", cases(EVERY, []), ids=lambda case: f"{case[0].name}-{case[1].name}")
def test_a_broker_that_dies_at_a_request_costs_time_and_nothing_else(
    stage: Stage, proxy: Proxy, home: Settings, case: tuple[Kind, Api]
) -> None:
    """It dies before it has seen the request, or when it has done what it asks and the client does not know."""
    kind, api = case
    fault = Fault(kind, api, "engine-0", skip=0 if api in AT_START else 2)
    if api in AT_START:
        proxy.add(fault)
    stage.start("engine-0", home)
    if api not in AT_START:
        stage.feed(60)
        stage.until("the end of the inputs", stage.drained)
        proxy.add(fault)

    def struck() -> bool:
        stage.feed(40)
        return fault.waits

    stage.until(f"{api.name} to be held", struck)
    began = time.monotonic()
    kafka = broker.start(stage.settings)
    kafka.kill()
    kafka.wait(10)
    broker.start(stage.settings)
    proxy.clear()
    stage.feed(400)
    stage.until("the end of the inputs", stage.drained, restarting=True)
    print(f"{kind.value} {api.name}: {time.monotonic() - began:.1f} s", flush=True)
    stage.check()
    stage.stop("engine-0")
