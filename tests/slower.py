"""What is tried only when somebody asks for it: `make failpoints` sets LT_FAILPOINTS."""

from __future__ import annotations

import os

import pytest

FAILPOINTS = os.environ.get("LT_FAILPOINTS") == "1"
SEVERAL = pytest.mark.skipif(not FAILPOINTS, reason="make failpoints")
