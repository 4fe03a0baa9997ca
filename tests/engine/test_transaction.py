"""The producer on a real broker, and the watch over calls that do not return."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import pytest

from bus import access
from bus.access import Connections
from bus.engine import exchange
from bus.engine.client import STUCK_LOOKS, Abort, Calls, HumanNeeded, Indefinite, Stop
from bus.engine.transaction import Transactions
from bus.engine.worker import wall_clock_ms
from tests.engine import scratch
from tests.engine.scratch import committed
from tests.engine.stage import Stage


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


@pytest.fixture
def topic(stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    with scratch.topic(stage.config, request.node.name) as name:
        yield name


@pytest.fixture
def make(stage: Stage, request: pytest.FixtureRequest) -> Callable[[], Transactions]:
    """Producers of one and the same id."""
    config = access.aiokafka(stage.settings, "admin")
    return lambda: Transactions(config, f"test-{request.node.name}", Stop(), Calls(), wall_clock_ms)


@pytest.mark.parametrize("step", ["flush", "commit", "abort"])
def test_a_producer_whose_place_another_has_taken_commits_nothing(
    step: str, make: Callable[[], Transactions], stage: Stage, topic: str
) -> None:
    """And says that the outcome is open, for it was not asked: else the worker would end where it is to start over."""
    first = make()
    first.begin()
    first.produce(topic, b"never", None, 0)
    if step != "flush":
        first.flush("test")
    second = make()
    if step == "abort":
        first.abort()  # takes the place back, with a new epoch
        second.begin()
        second.produce(topic, b"never", None, 0)
        with pytest.raises(Indefinite, match=r"EPOCH|FENCED"):
            second.flush("test")
    else:
        with pytest.raises(Indefinite, match=r"EPOCH|FENCED"):
            first.flush("test") if step == "flush" else first.end()
    first.discard()
    second.discard()
    assert b"never" not in committed(stage.config, topic)


def test_a_thrown_away_producer_is_of_no_more_use(make: Callable[[], Transactions]) -> None:
    made = make()
    made.begin()
    made.discard()
    assert not made.open
    with pytest.raises(Indefinite):
        made.begin()
    made.discard()


def test_no_transaction_begins_within_another(make: Callable[[], Transactions], stage: Stage, topic: str) -> None:
    """What was sent in the one would be committed with the other."""
    made = make()
    made.begin()
    made.produce(topic, b"one", None, 0)
    made.flush("test")
    with pytest.raises(Indefinite, match="still open"):
        made.begin()
    made.abort()
    made.begin()
    made.produce(topic, b"two", None, 0)
    made.flush("test")
    made.end()
    made.discard()
    assert committed(stage.config, topic) == [b"two"]


def test_a_topic_that_is_not_there_aborts_and_the_next_transaction_goes_on(
    make: Callable[[], Transactions], stage: Stage, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "AGAIN_SECONDS", 0.3)
    made, missing = make(), f"{topic}.missing"
    made.begin()
    made.produce(missing, b"never", None, 0)
    with pytest.raises(Abort, match=f"{missing}.*bus up"):
        made.flush("test")
    made.abort()
    made.begin()
    made.produce(topic, b"taken", None, 0)
    made.flush("test")
    made.end()
    made.discard()
    assert committed(stage.config, topic) == [b"taken"]


def test_a_user_whom_the_broker_refuses_needs_a_human_and_a_broker_that_is_away_does_not(stage: Stage) -> None:
    config = access.aiokafka(stage.settings, "admin")
    about = ("test-refused", Stop(), Calls(), wall_clock_ms)
    with pytest.raises(HumanNeeded, match=r"password.*bus up"):
        Transactions(config | {"sasl_plain_password": "another"}, *about)
    with pytest.raises(Indefinite, match=r"no broker is reached.*Connect"):
        Transactions(config | {"bootstrap_servers": ["127.0.0.1:1"]}, *about)


def test_a_transaction_of_many_batches_of_one_lane_keeps_their_order(
    make: Callable[[], Transactions], stage: Stage, topic: str
) -> None:
    """Of several transactions one is aborted: its records are nowhere, and the next ones are taken."""
    made = make()
    for number in range(4):
        made.begin()
        for n in range(60):
            made.produce(topic, b"%d %d %s" % (number, n, random.Random(n).randbytes(20_000)), None, 0)
        if number == 2:
            made.abort()
        else:
            made.flush("test")
            made.end()
    made.discard()
    found = [value.split(b" ", 2)[:2] for value in committed(stage.config, topic)]
    assert found == [[b"%d" % number, b"%d" % n] for number in (0, 1, 3) for n in range(60)]


def test_a_record_that_a_topic_does_not_take_aborts_and_the_next_transaction_goes_on(
    make: Callable[[], Transactions], stage: Stage, topic: str
) -> None:
    made = make()
    made.begin()
    made.produce(topic, random.Random(1).randbytes(9_000_000), None, 0)
    with pytest.raises(Abort, match=f"MSG_SIZE_TOO_LARGE.*{topic}"):
        made.flush("test")
    made.abort()
    made.begin()
    made.produce(topic, b"taken", None, 0)
    made.flush("test")
    made.end()
    made.discard()
    assert b"taken" in committed(stage.config, topic)


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
