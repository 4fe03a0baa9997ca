"""Dead letters on a broker, where they could be too large for it."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from bus.engine import deadletter
from tests.engine.stage import Stage
from tests.engine.test_worker import run_here

pytestmark = pytest.mark.timeout(400)


def test_a_record_that_is_longer_than_a_topic_takes_stops_nobody(stage: Stage) -> None:
    """Compressed it came through, and as a dead letter it would not. Its neighbours are delivered, `Stage.check` finds."""
    one = stage.sources[0]
    key, value = stage._made[one.name][0]
    bad = [value[:5] + bytes(length) for length in (7_900_000, 8_500_000, 40_000_000)]
    producer = Producer(stage.config | {"message.max.bytes": 100_000_000, "compression.type": "zstd"})
    placed: list[tuple[int | None, int | None]] = []
    for record in bad:
        stage.feed(50)
        producer.produce(one.topic, record, key, on_delivery=lambda _, m: placed.append((m.partition(), m.offset())))
        assert producer.flush(60) == 0
    run_here(stage, 50)
    stage.check()
    letters: dict[tuple[int | None, int | None], tuple[bytes, bytes | None]] = {}
    for record in stage.records(deadletter.topic(one.name)):
        found = dict(record.headers())
        letters[int(found[deadletter.PARTITION_HEADER]), int(found[deadletter.OFFSET_HEADER])] = (
            found[deadletter.CODE_HEADER],
            record.value(),
        )
    assert [letters[place] for place in placed] == [(b"TOO_LARGE", value) for value in (bad[0], None, None)]
