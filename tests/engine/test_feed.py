"""`bus verify-feed` on a broker: the engine's feeds are whole, and what is wrong with one is told and decides the status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # its own documented name
from typer.testing import CliRunner

from bus.avro import varint
from bus.cli.main import app
from bus.core import topics
from tests.engine.stage import Stage
from tests.engine.test_worker import run_here

pytestmark = pytest.mark.timeout(400)


def verify(stage: Stage, topic: str, *words: str) -> tuple[int, Any]:
    told = CliRunner().invoke(app, ["--home", str(stage.settings.home), "verify-feed", topic, "--json", *words])
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return told.exit_code, json.loads(told.stdout)


def test_every_feed_of_the_engine_is_whole_for_its_own_subscriber(stage: Stage) -> None:
    run_here(stage, 600)
    stage.check()
    for name in stage.agreements:
        status, report = verify(stage, topics.agency(name))
        lanes = {lane: len(records) for lane, records in stage.lanes(topics.agency(name)).items() if records}
        assert (status, report["ok"], report["principal"]) == (0, True, f"agency-{name.split('.')[0]}")
        assert {int(lane): found["records"] for lane, found in report["lanes"].items()} == lanes
        assert {int(lane): found["last_seq"] for lane, found in report["lanes"].items()} == lanes


def test_a_record_that_does_not_belong_there_is_told_and_costs_the_status(stage: Stage) -> None:
    """Nobody but the engine may write there: the topic is one of the agency's that no agreement has."""
    name = "tax.trial"
    topic = topics.agency(name)
    stage.watch._admin.create_topics([NewTopic(topic, 4)])[topic].result(20)
    good = [b"\0\0\0\0\1" + n.to_bytes(16, "big") + varint.encode(n) + varint.encode_text(name) for n in (1, 2, 3, 5, 5)]
    stage.filling.produce((topic, b"k" * 16, value) for value in good)
    status, report = verify(stage, topic)
    (found,) = report["lanes"].values()
    assert status == 1
    assert (found["records"], found["missing_ranges"], found["repeated"], found["repeated_events"]) == (5, [[4, 4]], 1, 1)
    assert verify(stage, topic, "--since", "1")[1]["lanes"].popitem()[1]["first_seq"] == 2
    shown = CliRunner().invoke(app, ["--home", str(stage.settings.home), "verify-feed", topic])
    assert "seq 4 is missing" in shown.stdout
    assert shown.exit_code == 1
