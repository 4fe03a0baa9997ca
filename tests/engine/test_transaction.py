"""The producer and its calls: whatever could be read has room in its queue, and a call that does not return is seen."""

from __future__ import annotations

import contextlib

from confluent_kafka import Producer

from bus.engine import transaction
from bus.engine.client import STUCK_SECONDS, Calls


def test_a_record_of_the_greatest_size_finds_room_in_the_queue() -> None:
    """Else it would be refused for ever: an empty queue has no more room than this."""
    producer = Producer(transaction.PRODUCER | {"bootstrap.servers": "127.0.0.1:9"})
    room = 1_024  # for the key and the headers, which count too
    producer.produce("any", bytes(transaction.MAX_MESSAGE_BYTES - room), bytes(16), headers={"x-dead-code": b"TOO_LARGE"})
    producer.purge()


def test_a_call_is_stuck_once_it_takes_too_long_by_itself_and_never_after_it() -> None:
    now = [0.0]
    calls = Calls(lambda: now[0])

    def wait(seconds: float) -> bool:
        now[0] += seconds
        return calls.stuck()

    assert not wait(10 * STUCK_SECONDS)
    with calls:
        assert not wait(STUCK_SECONDS)
        with calls:  # a callback
            assert not wait(STUCK_SECONDS)
            assert wait(1)
        assert not wait(STUCK_SECONDS)
        assert wait(1)
    assert not wait(10 * STUCK_SECONDS)


def test_a_call_that_raises_is_over() -> None:
    now = [0.0]
    calls = Calls(lambda: now[0])
    with contextlib.suppress(ValueError), calls:
        raise ValueError
    now[0] += 10 * STUCK_SECONDS
    assert not calls.stuck()
