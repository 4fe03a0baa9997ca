"""A proxy before the stage's broker, and a home that reaches the broker through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.config import Settings
from bus.platform import ports
from tests.chaos.proxy import Proxy, behind
from tests.engine.stage import Stage


@pytest.fixture
def proxy(stage: Stage) -> Iterator[Proxy]:
    with Proxy(ports.ensure(stage.settings).kafka) as made:
        yield made


@pytest.fixture
def home(stage: Stage, proxy: Proxy, tmp_path: Path) -> Settings:
    return behind(stage.settings, proxy.port, tmp_path)


@pytest.fixture(autouse=True)
def no_workers_left(request: pytest.FixtureRequest, proxy: Proxy) -> Iterator[None]:
    """Before the proxy ends, and though a worker is stopped (SIGSTOP)."""
    yield
    stage: Stage = request.getfixturevalue("stage")
    for name in set(stage.running) - {"register"}:
        stage.kill(name)
