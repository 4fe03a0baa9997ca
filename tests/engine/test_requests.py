"""Whatever becomes of a request of a transaction, delivered is once, in order and accounted for, and no human is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.config import Settings
from bus.platform import ports
from tests.chaos.proxy import Api, Fault, Kind, Proxy
from tests.engine.stage import Stage

pytestmark = pytest.mark.timeout(900)
SOAK = os.environ.get("LT_SOAK") == "1"
TRANSACTIONAL = (
    Api.INIT_PRODUCER_ID,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
)


@pytest.fixture
def proxy(stage: Stage) -> Iterator[Proxy]:
    with Proxy(ports.ensure(stage.settings).kafka) as made:
        yield made


@pytest.fixture
def home(stage: Stage, proxy: Proxy, tmp_path: Path) -> Settings:
    return stage.behind(proxy.port, tmp_path)


@pytest.mark.parametrize("kind", [Kind.DELAY, Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.REPEAT, Kind.BELATE])
def test_a_mistreated_request_changes_nothing_of_what_is_delivered(
    stage: Stage, proxy: Proxy, home: Settings, kind: Kind
) -> None:
    stage.start("engine-0", home)
    for api in TRANSACTIONAL:
        began = time.monotonic()
        if api is Api.INIT_PRODUCER_ID:
            stage.kill("engine-0")
        fault = proxy.add(Fault(kind, api, "engine-0", skip=0 if api is Api.INIT_PRODUCER_ID else 2))
        if api is Api.INIT_PRODUCER_ID:
            stage.start("engine-0", home)

        def struck(fault: Fault = fault) -> bool:
            stage.feed(40)
            return fault.over

        stage.until(f"{kind.value} {api.name}", struck, restarting=True)
        stage.feed(200)
        stage.until("the end of the inputs", stage.drained, restarting=True)
        print(kind, api.name, round(time.monotonic() - began, 2), flush=True)
        proxy.clear()
        stage.check()
    stage.stop("engine-0")
