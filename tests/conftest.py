"""Fixtures that several suites share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from bus import config, platform
from tests.pipeline import canaries
from tests.pipeline.bus import PEOPLE, Bus, running
from tests.registry.served import Served, serving

hypothesis.settings.register_profile(
    "bus",
    deadline=None,  # a law is about results: on a busy machine an example takes as long as it takes
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # for the same reason
)
hypothesis.settings.load_profile("bus")


for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:  # as under nohup: the tests' processes would inherit it
        signal.signal(_number, _usual)

os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
"""The brokers of tests live for minutes: what the second compiler takes, 5 of 14 CPU s until topics are declared, it never gives
back."""

_SERVERS = {
    "tests/pipeline": "bus",
    "tests/subscription/test_clients": "bus",
    "tests/telemetry/test_prometheus": "bus",
    "tests/engine/test_worker": "engine",
    "tests/engine/test_changes": "engine",
    "tests/engine/test_processes": "engine",
    "tests/engine/test_register": "engine",
    "tests/engine/test_lanes": "engine",
    "tests/engine/test_feed": "engine",
    "tests/engine/test_dead_letters": "engine",
    "tests/engine/test_ledger": "engine",
    "tests/engine/test_redrive": "engine",
    "tests/engine/test_failpoints": "engine",
    "tests/engine/strength": "engine",
    "tests/engine/test_membership": "engine",
    "tests/engine/test_transaction": "engine",
    "tests/engine/test_trial": "engine",
    "tests/chaos/test_planted": "planted bugs",
    "tests/capture": "capture",
    "tests/platform/test_servers": "home",
    "tests/platform/test_agreed": "home",
    "tests/processors": "home",
    "tests/registry": "home",
    "tests/delivery/test_feed": "home",
    "tests/interop": "home",
    "tests/replay": "home",
    "tests/delivery/test_webhooks": "home",
    "tests/contracts/test_delivered": "home",
    "tests/platform/test_up_and_down": "homes of their own",
    "tests/connectors": "databases",
    "tests/documents/test_readme.py::test_the_demo": "a clone",
    "tests/documents": "bus",
    "tests/delivery/test_whole_way": "bus",
}
"""Which tests share servers; the longest first. The last of a bus changes its agreements, which the oracle does not follow."""


_STARTS_SERVERS = {"bus_home", "running_bus", "stage"}
"""Fixtures that are dear."""


def _place(nodeid: str) -> int:
    return next((number for number, place in enumerate(_SERVERS) if nodeid.startswith(place)), len(_SERVERS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _place(item.nodeid) == len(_SERVERS) and _STARTS_SERVERS & {*getattr(item, "fixturenames", ())}:
            raise pytest.UsageError(f"{item.nodeid} shares servers: name its file in _SERVERS, or they are started once more")
    items.sort(key=lambda item: _place(item.nodeid))


class ByServers(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist is not typed
    """Tests with the same servers go to the same process, so that nothing is started twice; the others go anywhere."""

    def _split_scope(self, nodeid: str) -> str:
        place = _place(nodeid)
        return list(_SERVERS.values())[place] if place < len(_SERVERS) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByServers:
    return ByServers(config, log)


@pytest.fixture(scope="session")
def bus_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[config.Settings]:
    """Settings of a private home with Kafka and PostgreSQL up and everything declared; its name has what paths can have."""
    home = Path(tmp_path_factory.mktemp("nhà của bus")) / ".bus"
    home.mkdir()
    (home / config.SETTINGS_FILE).write_text("kafka: {lanes: 4, heap_mb: 384}\n", encoding="utf-8")
    settings = config.load(home, env={})
    try:
        platform.start_kafka(settings)
        platform.start_postgres(settings)
        platform.declare(settings)
        yield settings
    finally:
        platform.stop(settings)


@pytest.fixture(scope="session")
def registry(bus_home: config.Settings) -> Iterator[Served]:
    """The schema registry of `bus_home`, running, asked by its administrator."""
    with serving(bus_home) as served:
        yield served


@pytest.fixture(scope="session")
def running_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A whole bus under its supervisor, filled with a small society and with canary people, at rest."""
    with running(tmp_path_factory.mktemp("cả hệ thống") / ".bus", PEOPLE, 20_260_101, canaries.plant_before) as bus:
        yield bus
