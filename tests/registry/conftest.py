from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus.config import Settings
from tests.registry.served import Served, serving


@pytest.fixture(scope="session")
def registry(bus_home: Settings) -> Iterator[Served]:
    """The registry of `bus_home`, running, asked by its administrator."""
    with serving(bus_home) as served:
        yield served
