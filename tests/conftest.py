"""Fixtures that several suites share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from bus import config, platform
from tests.pipeline import canaries
from tests.pipeline.bus import PEOPLE, Bus, running

hypothesis.settings.register_profile(
    "bus",
    deadline=None,  # a law is about results: on a busy machine an example takes as long as it takes
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # for the same reason
)
hypothesis.settings.load_profile("bus")


_SERVERS = {
    "tests/pipeline": "bus",
    "tests/telemetry/test_prometheus": "bus",
    "tests/engine/test_worker": "engine",
    "tests/engine/test_processes": "engine",
    "tests/engine/test_register": "engine",
    "tests/capture": "capture",
    "tests/platform/test_servers": "home",
    "tests/processors": "home",
    "tests/registry": "home",
    "tests/replay": "home",
    "tests/platform/test_up_and_down": "homes of their own",
    "tests/connectors": "databases",
    "tests/documents/test_readme.py::test_the_demo": "a clone",
    "tests/documents": "bus",
}
"""Which tests share servers; the longest first."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with the same servers go to the same process when pytest-xdist runs several, so that nothing is started twice."""
    places = {place: number for number, place in enumerate(_SERVERS)}

    def place_of(item: pytest.Item) -> str:
        return next((p for p in _SERVERS if item.nodeid.startswith(p)), "")

    for item in items:
        if place := place_of(item):
            item.add_marker(pytest.mark.xdist_group(_SERVERS[place]))
    items.sort(key=lambda item: places.get(place_of(item), len(places)))


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
def running_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A whole bus under its supervisor, filled with a small society and with canary people, at rest."""
    with running(tmp_path_factory.mktemp("cả hệ thống") / ".bus", PEOPLE, 20_260_101, canaries.plant_before) as bus:
        yield bus
