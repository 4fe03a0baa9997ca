"""Offsets are committed as a member of the group, and only as the member that the group knows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from bus import access
from bus.engine import client
from bus.engine.client import Abort, Calls, HumanNeeded, Stop
from bus.engine.membership import Membership
from bus.engine.transaction import Transactions
from bus.engine.worker import wall_clock_ms
from tests.engine import scratch
from tests.engine.stage import Stage

pytestmark = pytest.mark.timeout(120)
WAIT_SECONDS = 30.0


@pytest.fixture
def topic(stage: Stage, request: pytest.FixtureRequest) -> Iterator[str]:
    with scratch.topic(stage.config, request.node.name) as name:
        yield name


@pytest.fixture
def member(stage: Stage, topic: str, request: pytest.FixtureRequest) -> Iterator[Consumer]:
    """Of the group that is called as the topic, with a name for good or without one."""
    named = {"group.instance.id": "thường trú"} if request.param else {}
    made = Consumer(stage.config | client.MEMBER | {"group.id": topic} | named)
    made.subscribe([topic])
    deadline = time.monotonic() + WAIT_SECONDS
    while not made.assignment():
        assert time.monotonic() < deadline
        made.poll(0.1)
    yield made
    made.close()


@pytest.fixture
def producer(stage: Stage, topic: str) -> Iterator[Transactions]:
    made = Transactions(access.aiokafka(stage.settings, "admin"), topic, Stop(), Calls(), wall_clock_ms)
    yield made
    made.discard()


def committed(stage: Stage, topic: str) -> int:
    asker = Consumer(stage.config | {"group.id": topic})
    [found] = asker.committed([TopicPartition(topic, 0)], 10)
    asker.close()
    return int(found.offset)


@pytest.mark.parametrize("member", [True, False], indirect=True)
def test_offsets_are_committed_as_the_member_and_refused_as_any_other(
    stage: Stage, topic: str, member: Any, producer: Transactions
) -> None:
    """KIP-447: else an owner that has lost its lanes could commit in them."""
    metadata = member.consumer_group_metadata()
    mine = Membership.of(metadata)
    assert (mine.group, mine.member) == (topic, member.memberid())
    assert mine.instance in ("thường trú", None)
    assert mine.generation > 0
    producer.begin()
    producer.produce(topic, b"one", None, 0)
    producer.commit({(topic, 0): 1}, metadata)
    assert committed(stage, topic) == 1
    for other in (
        dataclasses.replace(mine, generation=mine.generation - 1),
        dataclasses.replace(mine, generation=mine.generation + 1),
        dataclasses.replace(mine, member="somebody else"),
    ):
        producer.begin()
        producer.produce(topic, b"never", None, 0)
        producer.flush(topic)
        with pytest.raises(Abort, match=r"ILLEGAL_GENERATION|UNKNOWN_MEMBER_ID|FENCED_INSTANCE_ID"):
            producer._run(producer._exchange.commit_offsets({(topic, 0): 9}, other))
        producer.abort()
    assert committed(stage, topic) == 1
    assert scratch.committed(stage.config, topic) == [b"one"]


def test_who_is_no_member_commits_nothing(stage: Stage, topic: str, producer: Transactions) -> None:
    """Though a broker takes offsets from anybody who claims no membership and no instance."""
    stranger = Consumer(stage.config | {"group.id": topic})
    metadata = stranger.consumer_group_metadata()
    producer.begin()
    with pytest.raises(Abort, match="no member"):
        producer.commit({(topic, 0): 9}, metadata)
    producer.flush(topic)
    producer._run(producer._exchange.commit_offsets({(topic, 0): 9}, Membership.of(metadata)))
    producer.end()
    stranger.close()
    assert committed(stage, topic) == 9  # so it is up to us


KNOWN = b"CGMDv2:\1\0\0\0group\0member\0\0instance\0"


@given(st.one_of(st.binary(max_size=60), st.integers(0, len(KNOWN) - 1).map(lambda n: KNOWN[:n])))
def test_a_metadata_of_another_form_is_refused_and_not_guessed_at(metadata: bytes) -> None:
    with pytest.raises(HumanNeeded, match=r"uv\.lock"):
        Membership.of(metadata)


def test_a_metadata_of_the_known_form_is_read() -> None:
    assert Membership.of(KNOWN) == Membership("group", 1, "member", "instance")
    assert Membership.of(b"CGMDv2:\xff\xff\xff\xffgroup\0\0\1") == Membership("group", -1, "", None)
