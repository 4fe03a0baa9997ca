"""The engine on a cluster as they are run in earnest: three brokers, three replicas, TLS. Leaders and coordinators move."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.several import NODES, Cluster
from tests.engine.stage import Stage
from tests.engine.strength.matrix import only_soak

pytestmark = [only_soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(Path(tmp_path_factory.mktemp("ba máy")))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def several(cluster: Cluster) -> Iterator[Stage]:
    cluster.declare()
    made = Stage(cluster.settings)
    try:
        yield made
    finally:
        made.stop_all()


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "told to stop"])
def test_brokers_that_go_and_come_back_one_after_the_other_cost_time_and_nothing_else(
    cluster: Cluster, several: Stage, killed: bool
) -> None:
    """Under load, so that each is the leader of something that is being written, and each coordinator is lost once."""
    for index in range(2):
        several.start(f"engine-{index}")
    several.feed(200)
    several.until("work", several.drained)
    for node, events in zip(NODES, itertools.repeat(1_500)):
        several.feed(events)
        cluster.end(node, killed=killed)
        several.feed(events)
        several.until("the end of the inputs with one broker less", several.drained, restarting=True)
        several.feed(events)
        cluster.start(node)
    several.feed(500)
    several.until("the end of the inputs", several.drained, restarting=True)
    several.check()
    for index in range(2):
        several.stop(f"engine-{index}")
