"""A private home with a broker and nothing else: what the engine reads is put there by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import config, platform

pytest.register_assert_rewrite("tests.engine.stage")
from tests.engine.stage import Stage  # noqa: E402


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    home = Path(tmp_path_factory.mktemp("động cơ")) / ".bus"
    settings = config.load(home, flags={"kafka.lanes": 4, "kafka.heap_mb": 384}, env={})
    try:
        platform.start_kafka(settings)
        platform.declare(settings)
        made = Stage(settings)
        try:
            yield made
        finally:
            made.stop_all()
    finally:
        platform.stop(settings)


@pytest.fixture(autouse=True)
def no_workers_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails leaves no worker to the next one."""
    yield
    if "stage" in request.fixturenames:
        found = request.getfixturevalue("stage")
        found.stop_workers()
