"""KAFKA-17754: a request to end a transaction comes so late that it would end the next one, half done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from bus import access
from bus.access import Connections
from bus.engine.client import Calls, Stop
from bus.engine.transaction import Indefinite, Transactions
from tests.chaos.proxy import Api, Fault, Kind, Proxy, behind
from tests.engine.stage import Stage
from tests.engine.strength.matrix import only_soak

pytestmark = pytest.mark.timeout(120)
CLIENT = "belated"


@pytest.fixture
def config(stage: Stage, proxy: Proxy, tmp_path: Path) -> dict[str, Any]:
    return access.confluent(behind(stage.settings, proxy.port, tmp_path), "admin") | {"client.id": CLIENT}


@pytest.fixture
def topic(stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    admin, name = AdminClient(stage.config), f"test.belated.{abs(hash(request.node.name))}"
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(10)
    yield name
    admin.delete_topics([name])[name].result(10)


def end_the_first_belated_and_abort_the_second(config: dict[str, Any], topic: str, proxy: Proxy) -> None:
    """librdkafka says that the first is committed, for the broker has answered a repeated request. The belated one reaches the
    broker when the first of two records of the second is written; then the second is aborted."""
    fault = proxy.add(Fault(Kind.BELATE, Api.END_TXN, CLIENT, behind=2))
    first = Transactions(config, topic, Stop(), Calls())
    first.begin()
    first.producer.produce(topic, b"committed")
    first._step(first.producer.commit_transaction)  # without offsets, which `commit` would send, too
    first.open = False
    assert fault.hits == 1
    second = first
    try:
        second.begin()
    except Indefinite:
        second = Transactions(config, topic, Stop(), Calls())
        second.begin()
    for value in (b"aborted", b"aborted, too"):
        second.producer.produce(topic, value)
        assert second.producer.flush(10) == 0
    while not fault.over:
        second.producer.poll(0.02)
    try:
        second.abort()
    except Indefinite:
        Transactions(config, topic, Stop(), Calls())  # what the worker does: a new producer ends whatever is open


def committed(config: dict[str, Any], topic: str) -> list[bytes]:
    reading = {"group.id": topic, "isolation.level": "read_committed", "enable.partition.eof": True}
    consumer = Consumer(config | reading)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    while True:
        message: Any = consumer.poll(10)
        if message.error() is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF
            consumer.close()
            return found
        found.append(message.value())


def test_a_belated_end_of_a_transaction_does_not_end_the_next_one(config: dict[str, Any], topic: str, proxy: Proxy) -> None:
    end_the_first_belated_and_abort_the_second(config, topic, proxy)
    assert committed(config, topic) == [b"committed"]


def test_it_would_on_a_producer_that_goes_on_after_a_lost_connection(
    config: dict[str, Any], topic: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above can fail. Once this one does, the broker or the client has learned it, and the remedy may go."""
    monkeypatch.setattr(Connections, "log", lambda *_: None)
    end_the_first_belated_and_abort_the_second(config, topic, proxy)
    assert b"aborted" in committed(config, topic)


IDLE_SECONDS = 62.0
"""From one minute on, a connection that ends while nothing is under way on it counts as idle for librdkafka."""


@pytest.mark.parametrize("idle_seconds", [0.0, pytest.param(IDLE_SECONDS, marks=only_soak)])
def test_a_connection_that_is_lost_costs_a_new_producer_unless_it_was_idle(
    config: dict[str, Any], topic: str, proxy: Proxy, idle_seconds: float
) -> None:
    """Brokers close idle connections; the next transaction of a quiet night needs no new producer for that."""
    made = Transactions(config, topic, Stop(), Calls())
    made.begin()
    made.producer.produce(topic, b"one")
    made._step(made.producer.commit_transaction)
    made.open = False
    end = time.monotonic() + idle_seconds
    while time.monotonic() < end:
        made.producer.poll(0.2)
    proxy.cut()
    end = time.monotonic() + 3.0
    while time.monotonic() < end and not made._connections.lost:
        made.producer.poll(0.05)
    if idle_seconds:
        made.begin()
        made.abort()
    else:
        with pytest.raises(Indefinite, match="lost connection"):
            made.begin()
