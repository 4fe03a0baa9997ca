"""The producer and its calls: whatever could be read has room in its queue, and a call that does not return is seen."""

from __future__ import annotations

import contextlib

from confluent_kafka import Producer

from bus.engine import transaction
from bus.engine.client import STUCK_LOOKS, Calls


def test_a_record_of_the_greatest_size_finds_room_in_the_queue() -> None:
    """Else it would be refused for ever: an empty queue has no more room than this."""
    producer = Producer(transaction.PRODUCER | {"bootstrap.servers": "127.0.0.1:9"})
    room = 1_024  # for the key and the headers, which count too
    producer.produce("any", bytes(transaction.MAX_MESSAGE_BYTES - room), bytes(16), headers={"x-dead-code": b"TOO_LARGE"})
    producer.purge()


def looks(calls: Calls, count: int) -> bool:
    """What the last of so many looks says."""
    return [calls.stuck() for _ in range(count)][-1]


def test_a_call_is_stuck_once_it_was_seen_too_often_by_itself_and_never_after_it() -> None:
    calls = Calls()
    assert not looks(calls, 10 * STUCK_LOOKS)
    with calls:
        assert not looks(calls, STUCK_LOOKS)
        with calls:  # a callback
            assert not looks(calls, STUCK_LOOKS)
            assert calls.stuck()
        assert not looks(calls, STUCK_LOOKS)
        assert calls.stuck()
    assert not looks(calls, 10 * STUCK_LOOKS)


def test_a_call_that_raises_is_over() -> None:
    calls = Calls()
    with contextlib.suppress(ValueError), calls:
        raise ValueError
    assert not looks(calls, 10 * STUCK_LOOKS)


def test_one_call_after_the_other_is_not_one_that_is_stuck() -> None:
    calls = Calls()
    for _ in range(10 * STUCK_LOOKS):
        with calls:
            assert not calls.stuck()
