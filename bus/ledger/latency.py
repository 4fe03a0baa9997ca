"""End-to-end latency as a subscriber sees it: time of reception (committed reads) minus commit time at the source."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from bus.ledger.decoding import Decoder

_BUCKETS = 60_001
_BATCH_RECORDS = 500
_POLL_SECONDS = 0.1


class Probe:
    """Reads agency topics from their present end, in a thread, until `stop`. Snapshot rows are left out.

    Latencies are kept as counts of whole milliseconds up to 60 s, so memory is bounded for any length of run.
    """

    def __init__(
        self, config: Mapping[str, Any], agency_topics: Sequence[str], decoder: Decoder, clock: Callable[[], float] = time.time
    ) -> None:
        self._counts = [0] * _BUCKETS
        self._decoder, self._clock, self._stopped = decoder, clock, threading.Event()
        self._consumer = Consumer(
            dict(config)
            | {
                "group.id": "probe-unused",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        topics = self._consumer.list_topics(timeout=10).topics
        there = [name for name in agency_topics if name in topics]  # not those of a draft that was not applied
        self._consumer.assign([TopicPartition(t, p, OFFSET_END) for t in there for p in topics[t].partitions])
        self._thread = threading.Thread(target=self._run, name="latency-probe", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            messages = self._consumer.consume(_BATCH_RECORDS, _POLL_SECONDS)
            now_ms = self._clock() * 1000
            for message in messages:
                if message.error() is None and (value := message.value()) is not None:
                    delivery = self._decoder.decode(value)
                    if delivery["op"] != "r":
                        self._counts[min(_BUCKETS - 1, max(0, int(now_ms - delivery["ts_ms"])))] += 1
        self._consumer.close()

    def begin(self) -> None:
        """Forget what was measured so far."""
        self._counts = [0] * _BUCKETS

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def percentiles(self) -> dict[str, float | None]:
        """{"p50", "p99", "max"} in milliseconds, and the number of deliveries measured as "count"."""
        total = sum(self._counts)
        return {"p50": self._at(total, 0.50), "p99": self._at(total, 0.99), "max": self._at(total, 1.0), "count": total}

    def _at(self, total: int, share: float) -> float | None:
        seen = 0
        for milliseconds, count in enumerate(self._counts):
            seen += count
            if count and seen >= share * total:
                return float(milliseconds)
        return None
