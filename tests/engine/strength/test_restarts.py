"""A broker that dies at any request costs time and nothing else."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its own documented name

from bus import access
from bus.config import Settings
from bus.ledger import reading
from bus.platform import broker, processes
from tests.chaos.proxy import Api, Fault, Kind, Proxy
from tests.engine.stage import Stage
from tests.engine.strength.matrix import cases

pytestmark = pytest.mark.timeout(400)
AT_START = (Api.INIT_PRODUCER_ID, Api.JOIN_GROUP, Api.SYNC_GROUP, Api.OFFSET_FETCH)
AT_WORK = (
    Api.FETCH,
    Api.ADD_PARTITIONS_TO_TXN,
    Api.PRODUCE,
    Api.ADD_OFFSETS_TO_TXN,
    Api.TXN_OFFSET_COMMIT,
    Api.END_TXN,
)
PARTITIONS = 60
BEFORE, AFTER = Kind.HOLD, Kind.HOLD_ANSWER
EVERY = [(kind, api) for api in (*AT_START, *AT_WORK) for kind in (BEFORE, AFTER)]


@pytest.mark.parametrize("case", cases(EVERY, []), ids=lambda case: f"{case[0].name}-{case[1].name}")
def test_a_broker_that_dies_at_a_request_costs_time_and_nothing_else(
    stage: Stage, proxy: Proxy, home: Settings, case: tuple[Kind, Api]
) -> None:
    """It dies before it has seen the request, or when it has done what it asks and the client does not know."""
    kind, api = case
    fault = Fault(kind, api, "engine-0", skip=0 if api in AT_START else 2)
    if api in AT_START:
        proxy.add(fault)
    stage.start("engine-0", home)
    if api not in AT_START:
        stage.feed(60)
        stage.until("the end of the inputs", stage.drained)
        proxy.add(fault)

    def struck() -> bool:
        stage.feed(40)
        return fault.waits

    stage.until(f"{api.name} to be held", struck)
    began = time.monotonic()
    kafka = broker.start(stage.settings)
    kafka.kill()
    kafka.wait(10)
    broker.start(stage.settings)
    proxy.clear()
    stage.feed(400)
    stage.until("the end of the inputs", stage.drained, restarting=True)
    print(f"{kind.value} {api.name}: {time.monotonic() - began:.1f} s", flush=True)
    stage.check()
    stage.stop("engine-0")


@pytest.mark.parametrize("committed", cases([True, False], [True]), ids=["committed", "aborted"])
def test_a_transaction_that_was_noted_as_over_is_over_when_the_broker_is_back(
    stage: Stage, proxy: Proxy, home: Settings, committed: bool
) -> None:
    """The broker dies before it has told the partitions, of which there are many: readers see all of it or nothing."""
    topic = f"ends-{committed}"
    admin = AdminClient(stage.config)
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result()
    producer = Producer(access.confluent(home, "admin") | {"client.id": topic, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(PARTITIONS):
        producer.produce(topic, b"record", partition=number)
    producer.flush(30)
    fault = proxy.add(Fault(Kind.HOLD_ANSWER, Api.END_TXN, topic))
    kafka = processes.running(stage.settings, broker.NAME)
    assert kafka is not None
    asked = threading.Thread(target=_in_vain, args=(producer.commit_transaction if committed else producer.abort_transaction,))
    asked.start()
    while asked.is_alive() and not fault.waits:
        time.sleep(0.0005)
    kafka.kill()
    kafka.wait(10)
    assert fault.waits
    broker.start(stage.settings)
    proxy.clear()
    asked.join(30)
    stage.until("an end in every partition", lambda: stage.decided([topic]))
    found = Counter(record.partition() for record in reading.read(stage.config, topic))
    assert found == (dict.fromkeys(range(PARTITIONS), 1) if committed else {})
    admin.delete_topics([topic])[topic].result()


def _in_vain(call: Callable[[float], object]) -> None:
    with contextlib.suppress(KafkaException):
        call(5)
