"""The producer and its calls: whatever could be read has room in its queue, and a call that does not return is seen."""

from __future__ import annotations

import contextlib

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from bus.engine import transaction
from bus.engine.client import STUCK_LOOKS, Calls, Stop
from bus.engine.transaction import Indefinite, Transactions


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


class Fenced:
    """A producer that is told between two tries of a step that another one has taken its place: confluent-kafka raises a fatal
    error from `poll`. On a real broker that takes a worker that sleeps within a commit, for longer than its transaction may."""

    asleep = False

    def __init__(self, _: object) -> None: ...

    def begin_transaction(self) -> None: ...

    def try_again(self, *_: object) -> None:
        if self.asleep:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "not yet", False, True, False))

    init_transactions = send_offsets_to_transaction = commit_transaction = abort_transaction = try_again

    def poll(self, _: float) -> None:
        raise KafkaException(KafkaError(KafkaError._FENCED, "by a newer instance", True, False, False))


@pytest.mark.parametrize("step", ["commit", "abort"])
def test_a_producer_that_learns_of_its_end_between_two_tries_leaves_the_outcome_open(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the worker would end where it is to start over."""
    monkeypatch.setattr(transaction, "Producer", Fenced)
    made = Transactions({}, "engine-0", Stop(), Calls())
    made.begin()
    monkeypatch.setattr(Fenced, "asleep", True)
    with pytest.raises(Indefinite, match="_FENCED"):
        made.commit([], None) if step == "commit" else made.abort()
