"""The `lab` factory: domains that live as long as a test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.config import Settings
from tests.capture.lab import Lab

MakeLab = Callable[..., Lab]
_numbers = itertools.count(1)


@pytest.fixture
def make_lab(bus_home: Settings, tmp_path: Path) -> Iterator[MakeLab]:
    """make_lab(sql, schema, ...) gives a Lab with these tables."""
    made: list[Lab] = []

    def make(sql: str, *schemas: dict[str, Any]) -> Lab:
        number = next(_numbers)
        lab = Lab(bus_home, f"lab{os.getpid()}_{number}", tmp_path / str(number), sql, list(schemas))
        made.append(lab)
        return lab

    yield make
    for lab in made:
        lab.drop()
