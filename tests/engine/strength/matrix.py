"""Which cases run: all of them with `make strength`, a few for a test run of every day."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

SOAK = os.environ.get("LT_SOAK") == "1"
only_soak = pytest.mark.skipif(not SOAK, reason="make strength")


def cases(every: Iterable[Any], daily: Iterable[Any]) -> list[Any]:
    """For `parametrize`: those that are not in `daily` are skipped but with LT_SOAK=1."""
    few = list(daily)
    return [case if case in few else pytest.param(case, marks=only_soak) for case in every]
