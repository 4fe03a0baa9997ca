"""The producer and its calls: whatever could be read has room in its queue, and a call that does not return is seen."""

from __future__ import annotations

import contextlib

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from bus.access import Connections
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
        if self.asleep:
            raise KafkaException(KafkaError(KafkaError._FENCED, "by a newer instance", True, False, False))


@pytest.mark.parametrize("step", ["begin", "commit", "abort"])
def test_a_producer_that_learns_of_its_end_from_a_poll_leaves_the_outcome_open(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the worker would end where it is to start over."""
    monkeypatch.setattr(transaction, "Producer", Fenced)
    made = Transactions({}, "engine-0", Stop(), Calls())
    if step != "begin":
        made.begin()
    monkeypatch.setattr(Fenced, "asleep", True)
    with pytest.raises(Indefinite, match="_FENCED"):
        {"begin": made.begin, "commit": lambda: made.commit([], None), "abort": made.abort}[step]()


@pytest.mark.parametrize(
    ("kind", "text", "lost"),
    [
        ("FAIL", "TxnCoordinator: 127.0.0.1:9: Disconnected: connection closed by peer (after 27ms in state UP)", True),
        ("FAIL", "127.0.0.1:9: Receive failed: reset by peer (after 5ms in state UP, 1 identical error(s) suppressed)", True),
        ("FAIL", "127.0.0.1:9: Disconnected (after 5ms in state REAUTH)", True),
        ("FAIL", "127.0.0.1:9: said in words that nobody knows", True),
        ("FAIL", "127.0.0.1:9: Connect to ipv4#127.0.0.1:9 failed: Connection refused (after 0ms in state CONNECT)", False),
        ("FAIL", "127.0.0.1:9: Failed to resolve 'kafka' (after 0ms in state TRY_CONNECT)", False),
        ("FAIL", "127.0.0.1:9: Disconnected (after 0ms in state APIVERSION_QUERY)", False),
        ("ADDPARTS", 'Failed to add partition "bus.audit" [1] to transaction in state UP', False),
        ("TXNERR", "Current transaction failed in state UP", False),
    ],
)
def test_a_connection_counts_as_lost_when_it_may_have_carried_a_request(kind: str, text: str, lost: bool) -> None:
    connections = Connections()
    connections.log(6, "%s [%s] %s", kind, "engine-0#producer-1", text)
    assert connections.lost == (text if lost else "")
