"""KAFKA-17754, as capture would meet it: a belated request to end a transaction would end the next one, half done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from bus import access
from bus.access import Connections
from bus.config import Settings
from bus.core import topics
from bus.platform import ports
from connectors.capture.errors import Interrupted
from connectors.capture.sink import Sink, read_position
from tests.chaos.proxy import Api, Fault, Kind, Proxy

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def proxy(bus_home: Settings) -> Iterator[Proxy]:
    with Proxy(ports.ensure(bus_home).kafka) as made:
        yield made


@pytest.fixture
def config(bus_home: Settings, proxy: Proxy) -> dict[str, Any]:
    return access.confluent(bus_home, "admin") | {"bootstrap.servers": f"127.0.0.1:{proxy.port}", "client.id": "belated"}


def position_after_a_belated_end(config: dict[str, Any], proxy: Proxy) -> bytes | None:
    """The first transaction's end reaches the broker between two records of the second, which is given up then."""
    domain = f"belated{uuid.uuid4().hex[:8]}"
    sink = Sink(config, domain, lambda: False)
    fault = proxy.add(Fault(Kind.BELATE, Api.END_TXN, "belated", behind=2))
    sink.commit(b"committed")
    assert fault.hits == 1
    try:
        sink.produce(topics.POSITIONS, b"given up", domain.encode())
    except Interrupted:  # the session ends, and the next one has a sink of its own
        sink.close()
        sink = Sink(config, domain, lambda: False)
        sink.produce(topics.POSITIONS, b"given up", domain.encode())
    assert sink._producer.flush(10) == 0
    sink.produce(topics.POSITIONS, b"given up, too", domain.encode())
    assert sink._producer.flush(10) == 0
    while not fault.over:
        sink._producer.poll(0.02)
    sink.close()
    Sink(config, domain, lambda: False).close()  # ends whatever is open
    return read_position(config, domain, lambda: False)


def test_a_belated_end_of_a_transaction_does_not_end_the_next_one(config: dict[str, Any], proxy: Proxy) -> None:
    assert position_after_a_belated_end(config, proxy) == b"committed"


def test_it_would_on_a_sink_that_goes_on_after_a_lost_connection(
    config: dict[str, Any], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above can fail."""
    monkeypatch.setattr(Connections, "log", lambda *_: None)
    assert position_after_a_belated_end(config, proxy) != b"committed"
