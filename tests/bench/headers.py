"""What CloudEvents headers on a delivery would cost: `python -m tests.bench.headers`, with a bus of its own.

The attributes of the Kafka protocol binding (`ce_id`, `ce_source`, `ce_type`, `ce_specversion`, `ce_time`, `content-type`) beside
none, in turn, on records as large as deliveries, idempotent and compressed as the engine's. CPU time of this process an event,
and bytes on the broker's disk.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its own documented name

from bus import access, config, platform
from bus.config import Settings

RECORDS, ROUNDS, VALUE_BYTES, LANES = 100_000, 7, 220, 8
FLUSH_SECONDS = 60.0
Headers = list[tuple[str, str | bytes | None]]


def value(number: int) -> bytes:
    """Half of it is another one's each time, as event ids, keys and names are."""
    return number.to_bytes(8, "big") * (VALUE_BYTES // 16) + bytes(VALUE_BYTES // 2)


def headers(number: int) -> Headers:
    return [
        ("ce_id", number.to_bytes(16, "big").hex()),
        ("ce_source", "/agreements/tax.taxpayers"),
        ("ce_type", "vn.lienthong.civil.birth.updated"),
        ("ce_specversion", "1.0"),
        ("ce_time", f"2026-01-01T00:00:{number % 60:02d}.000Z"),
        ("content-type", "application/avro"),
    ]


def produce(settings: Settings, topic: str, with_headers: bool) -> float:
    """CPU microseconds an event."""
    own = {"enable.idempotence": True, "compression.type": "lz4", "linger.ms": 5, "queue.buffering.max.messages": RECORDS + 1}
    producer = Producer(access.confluent(settings, "admin") | own)
    began = time.process_time()
    for number in range(RECORDS):
        about = headers(number) if with_headers else None
        producer.produce(topic, value(number), number.to_bytes(16, "big"), number % LANES, headers=about)
    if producer.flush(FLUSH_SECONDS):
        sys.exit("the broker did not take everything")
    return (time.process_time() - began) / RECORDS * 1e6


def size(home: Path, topic: str) -> int:
    return sum(path.stat().st_size for path in home.glob(f"kafka/**/{topic}-*/*.log"))


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        settings = config.load(Path(place) / "home", env={})
        platform.start_kafka(settings)
        try:
            admin = AdminClient(access.confluent(settings, "admin"))
            for name in ("sandbox.without", "sandbox.with"):
                admin.create_topics([NewTopic(name, LANES, 1)])[name].result(FLUSH_SECONDS)
            found: dict[str, list[float]] = {"without": [], "with": []}
            for _ in range(ROUNDS):
                for name, costs in found.items():
                    costs.append(produce(settings, f"sandbox.{name}", name == "with"))
            for name, costs in found.items():
                on_disk = size(settings.home, f"sandbox.{name}") / RECORDS / ROUNDS
                print(f"{name:8} {statistics.median(costs):6.2f} CPU µs an event, {on_disk:6.1f} bytes on disk")
        finally:
            platform.stop(settings)


if __name__ == "__main__":
    main()
