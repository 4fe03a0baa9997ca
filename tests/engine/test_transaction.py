"""The producer's settings: whatever could be read has room in its queue."""

from __future__ import annotations

from confluent_kafka import Producer

from bus.engine import transaction


def test_a_record_of_the_greatest_size_finds_room_in_the_queue() -> None:
    """Else it would be refused for ever: an empty queue has no more room than this."""
    producer = Producer(transaction.PRODUCER | {"bootstrap.servers": "127.0.0.1:9"})
    room = 1_024  # for the key and the headers, which count too
    producer.produce("any", bytes(transaction.MAX_MESSAGE_BYTES - room), bytes(16), headers={"x-dead-code": b"TOO_LARGE"})
    producer.purge()
