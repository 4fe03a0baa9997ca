"""Confluent's Python client, unmodified, at the version that the bus itself uses."""

from __future__ import annotations

import sys

from tests.interop.trial import CLIENTS, trial
from tests.registry.served import Served


def test_the_client_registers_produces_consumes_evolves_and_is_refused(registry: Served) -> None:
    trial(registry, "python", [sys.executable, CLIENTS / "confluent_python.py"])
