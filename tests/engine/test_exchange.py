"""What goes wrong on the way to a broker is never taken for success."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from bus.engine.client import Indefinite
from bus.engine.exchange import Exchange
from bus.engine.outbox import Sealed


class Client:
    """One broker that leads everything; what is sent to it ends in an error that nobody has thought of."""

    cluster = SimpleNamespace(leader_for_partition=lambda _: 1)

    async def ready(self, _: int) -> bool:
        return True

    async def send(self, *_: Any, **__: Any) -> Any:
        raise KeyError


def test_a_batch_that_is_lost_by_an_error_nobody_thought_of_fails_its_transaction() -> None:
    async def flush() -> None:
        exchange = Exchange({}, "engine-0")
        exchange._client = Client()
        exchange._added, exchange._group = {("t", 0)}, "g"
        exchange.put(Sealed("t", 0, bytearray(b"x")))
        await exchange.flush("g")

    with pytest.raises(Indefinite, match="KeyError"):
        asyncio.run(flush())
