"""KAFKA-17754: a request to end a transaction comes so late that it would end the next one, half done."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import access
from bus.engine.client import Abort, Calls, Indefinite, Stop
from bus.engine.transaction import Transactions
from bus.engine.worker import wall_clock_ms
from tests.chaos.proxy import Api, Fault, Kind, Proxy, behind
from tests.engine import scratch
from tests.engine.scratch import committed
from tests.engine.stage import Stage

pytestmark = pytest.mark.timeout(120)
CLIENT = "belated"
WAIT_SECONDS = 10.0


@pytest.fixture
def config(stage: Stage, proxy: Proxy, tmp_path: Path) -> dict[str, Any]:
    return access.aiokafka(behind(stage.settings, proxy.port, tmp_path), "admin") | {"client_id": CLIENT}


@pytest.fixture
def topic(stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    with scratch.topic(stage.config, request.node.name) as name:
        yield name


def made(config: dict[str, Any], topic: str) -> Transactions:
    return Transactions(config, topic, Stop(), Calls(), wall_clock_ms)


def with_one(transactions: Transactions, topic: str, value: bytes) -> Transactions:
    """In an open transaction, at the broker."""
    transactions.begin()
    transactions.produce(topic, value, None, 0)
    transactions.flush(topic)
    return transactions


def half_done(transactions: Transactions, topic: str, fault: Fault) -> None:
    """A transaction of two records, aborted; the belated request reaches the broker when the first one is written."""
    with_one(transactions, topic, b"aborted")
    transactions.produce(topic, b"aborted, too", None, 0)
    with contextlib.suppress(Abort, Indefinite):
        transactions.flush(topic)
    deadline = time.monotonic() + WAIT_SECONDS
    while not fault.over:
        assert time.monotonic() < deadline
        transactions._run(asyncio.sleep(0.02))
    with contextlib.suppress(Indefinite):
        transactions.abort()


def test_a_belated_end_of_a_transaction_does_not_end_the_next_one(
    stage: Stage, config: dict[str, Any], topic: str, proxy: Proxy
) -> None:
    first = with_one(made(config, topic), topic, b"open")
    fault = proxy.add(Fault(Kind.BELATE, Api.END_TXN, CLIENT, behind=2))
    with pytest.raises(Indefinite, match="not answered"):
        first.end()
    assert fault.hits == 1
    first.discard()
    second = made(config, topic)  # what the worker does: a new producer ends whatever is open
    half_done(second, topic, fault)
    second.discard()
    assert committed(stage.config, topic) == []


def test_it_would_on_a_producer_that_asks_again(stage: Stage, config: dict[str, Any], topic: str, proxy: Proxy) -> None:
    """So the test above can fail, and so that nobody repeats a request that was not answered."""
    first = with_one(made(config, topic), topic, b"committed")
    fault = proxy.add(Fault(Kind.BELATE, Api.END_TXN, CLIENT, behind=2))
    with pytest.raises(Indefinite):
        first.end()
    first.end()
    half_done(first, topic, fault)
    first.discard()
    assert b"aborted" in committed(stage.config, topic)


def test_connections_that_are_lost_between_two_transactions_cost_nothing(
    stage: Stage, config: dict[str, Any], topic: str, proxy: Proxy
) -> None:
    """Brokers close idle ones; nothing was under way."""
    one = with_one(made(config, topic), topic, b"one")
    one.end()
    proxy.cut()
    deadline = time.monotonic() + WAIT_SECONDS
    while any(conn.connected() for conn in one._exchange._client._conns.values()):
        assert time.monotonic() < deadline
        one._run(one._exchange.begin())
    with_one(one, topic, b"two").end()
    one.discard()
    assert committed(stage.config, topic) == [b"one", b"two"]
