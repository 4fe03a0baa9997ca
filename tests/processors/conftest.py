from __future__ import annotations

import pytest

from bus import config
from tests.processors import trial


@pytest.fixture(scope="session")
def shared_trial(bus_home: config.Settings, tmp_path_factory: pytest.TempPathFactory) -> trial.Trial:
    return trial.make(bus_home, tmp_path_factory.mktemp("schemas"))
