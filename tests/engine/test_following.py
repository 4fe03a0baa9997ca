"""A worker that gets no agreements says so while it waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bus.engine import following
from bus.engine.client import HumanNeeded, Stop
from bus.engine.following import Following


def test_without_a_broker_the_reason_is_told_while_it_waits_and_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SAY_SECONDS", 0.05)
    monkeypatch.setattr(following, "FIRST_SECONDS", 0.5)
    said: list[tuple[str, str]] = []
    waits: list[Any] = []
    log: Any = SimpleNamespace(warning=lambda event, reason: said.append((event, reason)))
    meter: Any = SimpleNamespace(waits=waits.append)
    grounds: Any = None
    made = Following({"bootstrap.servers": "127.0.0.1:1"}, grounds, log, lambda _: {})
    try:
        with pytest.raises(HumanNeeded, match=r"is the broker up.*kafka\.bootstrap"):
            made.first(Stop(), meter)
    finally:
        made.close()
    assert len(said) >= 2
    assert all(event == "agreements_unreadable" and "is the broker up" in reason for event, reason in said)
    assert waits
