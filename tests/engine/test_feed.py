"""`bus verify-feed` on a broker: the engine's feeds are whole, and what is wrong with one is told and decides the status."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # its own documented name
from typer.testing import CliRunner

from bus.avro import varint
from bus.cli.main import app
from bus.core import topics
from bus.engine import agreements
from bus.ledger import subscriber
from bus.ledger.feed import FeedError
from tests.allowing import allowed
from tests.engine.stage import Stage
from tests.engine.test_worker import run_here

pytestmark = pytest.mark.timeout(400)
TRIAL = "tax.trial"


def verify(stage: Stage, topic: str, *words: str) -> tuple[int, Any]:
    """(exit status, report)."""
    told = CliRunner().invoke(app, ["--home", str(stage.settings.home), "verify-feed", topic, "--json", *words])
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.exit_code, json.loads(told.stdout)


def test_every_feed_of_the_engine_is_whole_for_its_own_subscriber(stage: Stage) -> None:
    run_here(stage, 600)
    stage.check()
    for name in agreements.load(stage.settings, stage.datasets):  # of others that were tried here the users are gone
        status, report = verify(stage, topics.agency(name))
        lanes = {lane: len(records) for lane, records in stage.lanes(topics.agency(name)).items() if records}
        assert (status, report["ok"], report["principal"]) == (0, True, f"agency-{name.split('.')[0]}")
        assert {int(lane): found["records"] for lane, found in report["lanes"].items()} == lanes
        assert {int(lane): found["last_seq"] for lane, found in report["lanes"].items()} == lanes


@pytest.fixture
def trial(stage: Stage) -> Iterator[str]:
    """A topic of the agency's that no agreement has: nobody but the engine may write to the others."""
    topic = topics.agency(TRIAL)
    stage.watch._admin.create_topics([NewTopic(topic, 4)])[topic].result(20)
    with allowed(stage.settings, "tax", topic):
        yield topic
    stage.watch._admin.delete_topics([topic])[topic].result(20)


def delivery(number: int, seq: int) -> bytes:
    return b"\0\0\0\0\1" + number.to_bytes(16, "big") + varint.encode(seq) + varint.encode_text(TRIAL)


def test_what_does_not_belong_there_is_told_and_costs_the_status(stage: Stage, trial: str) -> None:
    stage.filling.produce((trial, b"k" * 16, delivery(n, n)) for n in (1, 2, 3, 5, 5))
    stage.filling.produce([(trial, b"k" * 16, b"no delivery")])
    status, report = verify(stage, trial)
    (found,) = report["lanes"].values()
    assert status == 1
    assert (found["records"], found["missing_ranges"], found["repeated"], found["repeated_events"]) == (6, [[4, 4]], 1, 1)
    assert (found["late"], found["foreign"]) == (0, 1)
    shown = CliRunner().invoke(app, ["--home", str(stage.settings.home), "verify-feed", trial])
    assert "seq 4 is missing" in shown.stdout
    assert "no delivery of this agreement" in shown.stdout
    assert shown.exit_code == 1


def test_a_feed_begins_where_retention_left_it_or_where_one_says(stage: Stage, trial: str) -> None:
    assert verify(stage, trial)[0] == 0, "nothing there is nothing wrong"
    stage.filling.produce((trial, b"k" * 16, delivery(n, n)) for n in range(3, 9))
    assert verify(stage, trial)[1]["lanes"].popitem()[1]["missing_ranges"] == [[1, 2]]
    status, report = verify(stage, trial, "--since", "1")
    (lane, found) = report["lanes"].popitem()
    assert (status, found["first_seq"], found["last_seq"]) == (0, 4, 8)
    left = TopicPartition(trial, int(lane), 2)
    stage.watch._admin.delete_records([left])[left].result(20)
    status, report = verify(stage, trial)
    assert (status, report["records"], report["lanes"][lane]["first_seq"]) == (0, 4, 5)
    assert verify(stage, trial, "--since", "0s")[1]["records"] == 0


@pytest.mark.parametrize(
    ("topic", "told"),
    [
        ("agency.tax.taxpayer", "did you mean 'agency.tax.taxpayers'"),
        ("agency.nobody.taxpayers", "no agency 'nobody'"),
        ("agency.tax", "is no agency's topic"),
        ("verified.civil.birth", "is no agency's topic"),
        ("sandbox.births", "is no agency's topic"),
    ],
)
def test_a_topic_that_is_no_feed_is_refused_with_what_to_do(stage: Stage, topic: str, told: str) -> None:
    with pytest.raises(FeedError, match=re.escape(told)):
        subscriber.verify(stage.settings, topic)


def test_a_topic_that_its_agency_may_not_read_is_refused_with_where_to_look(stage: Stage) -> None:
    """Delivered by webhook or feed, or no longer in force: the topic is there, and the agency's user has no right to it."""
    topic = topics.agency("tax.served")
    stage.watch._admin.create_topics([NewTopic(topic, 1)])[topic].result(20)
    try:
        with pytest.raises(FeedError, match=r"its agency's own user may not read it: .* or is not in force"):
            subscriber.verify(stage.settings, topic)
    finally:
        stage.watch._admin.delete_topics([topic])[topic].result(20)


def test_a_time_that_is_none_is_refused(stage: Stage) -> None:
    with pytest.raises(FeedError, match="neither a time nor an offset"):
        subscriber.verify(stage.settings, "agency.tax.taxpayers", "yesterday")
