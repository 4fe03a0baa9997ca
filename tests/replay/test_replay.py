"""Laws of a replay on a real broker: what is committed in the range, all of it and unchanged, into a sandbox and nowhere else."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Message, Producer
from confluent_kafka.admin import ConfigResource, NewTopic  # type: ignore[attr-defined]  # re-exported without saying so
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bus import access
from bus.replay.extent import ReplayError
from bus.replay.job import Order, as_text, parse_speed
from bus.replay.job import replay as run_replay
from bus.replay.run import REPLAY_HEADER
from bus.replay.sandbox import retention_ms
from tests.replay.conftest import LANES, RECORDS, Recorded, write

_names = itertools.count()


def _sandbox() -> str:
    return f"sandbox.t{next(_names)}"


def _time(recorded: Recorded, number: float) -> str:
    return datetime.fromtimestamp(recorded.at_ms(number) / 1000, UTC).isoformat()


def _content(message: Message, extra: tuple[tuple[str, bytes], ...] = ()) -> tuple[Any, ...]:
    return message.partition(), message.key(), message.value(), message.timestamp(), [*(message.headers() or ()), *extra]


def _expected(recorded: Recorded, begin: float, end: float, replay_id: str) -> list[tuple[Any, ...]]:
    within = range(recorded.at_ms(begin), recorded.at_ms(end))
    header = ((REPLAY_HEADER, replay_id.encode()),)
    return [_content(m, header) for m in recorded.read(recorded.topic) if m.timestamp()[1] in within]


def test_the_recording_is_what_the_laws_speak_of(recorded: Recorded) -> None:
    assert len(recorded.read(recorded.topic)) == RECORDS


def test_everything_committed_comes_over_unchanged_and_nothing_aborted(recorded: Recorded) -> None:
    into = _sandbox()
    report = run_replay(recorded.settings, Order(recorded.topic, "beginning", "now", into), "run-1")
    found = recorded.read(into)
    assert report["records"] == len(found) == RECORDS
    assert [_content(m) for m in found] == _expected(recorded, 0, RECORDS, "run-1")


@settings(max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, RECORDS), st.integers(0, RECORDS), st.sampled_from(["max", "100000x"]))
def test_a_range_of_time_takes_its_beginning_and_leaves_its_end(recorded: Recorded, begin: int, end: int, speed: str) -> None:
    into = _sandbox()
    report = run_replay(
        recorded.settings, Order(recorded.topic, _time(recorded, begin), _time(recorded, end), into, speed), "run-2"
    )
    expected = _expected(recorded, begin, end, "run-2")
    if expected:
        assert [_content(m) for m in recorded.read(into)] == expected
    else:
        assert report["records"] == 0
        assert "no record replayed" in as_text(report)
        assert into not in recorded.admin.list_topics(timeout=20).topics, "an empty range makes no sandbox"


@pytest.mark.parametrize("speed", ["max", "100000x"])
def test_times_are_the_records_own_even_long_before_their_transactions_end(recorded: Recorded, speed: str) -> None:
    """A producer that is an hour late, or writes old times: the broker's index of times then points at ends of transactions."""
    topic = f"verified.trial.late{speed}"
    recorded.admin.create_topics([NewTopic(topic, LANES)], operation_timeout=20)[topic].result(20)
    late = replace(recorded, topic=topic, base_ms=recorded.base_ms - 3_600_000)
    with late.writer() as producer:
        for begin in range(0, 2_000, 50):
            write(late, producer, range(begin, begin + 50), commit=True)
    into = _sandbox()
    report = run_replay(late.settings, Order(topic, _time(late, 100), _time(late, 300), into, speed), "x")
    assert report["records"] == len(recorded.read(into)) == 200
    assert [_content(m) for m in recorded.read(into)] == _expected(late, 100, 300, "x")


def test_offsets_bound_every_lane(recorded: Recorded) -> None:
    into = _sandbox()
    run_replay(recorded.settings, Order(recorded.topic, "30", "60", into), "run-3")
    expected = [_content(m)[:4] for m in recorded.read(recorded.topic) if 30 <= (m.offset() or 0) < 60]
    assert [_content(m)[:4] for m in recorded.read(into)] == expected
    assert expected


def test_the_end_is_fixed_at_the_start(recorded: Recorded) -> None:
    """Records committed, and a transaction left open, while it runs change nothing and hold nothing up."""
    into = _sandbox()
    with recorded.writer() as producer:
        producer.begin_transaction()
        producer.produce(recorded.topic, b"open", partition=0, timestamp=recorded.at_ms(RECORDS))
        producer.flush(20)
        report = run_replay(recorded.settings, Order(recorded.topic, "beginning", "now", into), "run-4")
        producer.abort_transaction(20)
    assert report["records"] == len(recorded.read(into)) >= RECORDS


def test_targets_and_sandboxes_that_would_mix(recorded: Recorded) -> None:
    source = recorded.topic
    for target in (source, "change.civil.birth", "sandbox", "sandbox.", "agency.tax.taxpayers"):
        with pytest.raises(ReplayError, match=r"sandbox\.NAME only"):
            run_replay(recorded.settings, Order(source, "beginning", "now", target), "x")
    into = _sandbox()
    once = Order(source, "0", "40", into)
    count = run_replay(recorded.settings, once, "a")["records"]
    with pytest.raises(ReplayError, match="already holds records"):
        run_replay(recorded.settings, once, "b")
    assert len(recorded.read(into)) == count, "a refused replay writes nothing"
    run_replay(recorded.settings, Order(source, "0", "40", into, append=True), "c")
    assert len(recorded.read(into)) == 2 * count
    with pytest.raises(ReplayError, match="lanes"):
        run_replay(recorded.settings, Order("_schemas", "beginning", "now", into, append=True), "d")


def test_a_sandbox_is_kept_a_week_beside_the_age_of_its_oldest_record(recorded: Recorded) -> None:
    into = _sandbox()
    now = datetime.fromtimestamp(recorded.at_ms(RECORDS) / 1000 + 86_400, UTC)
    run_replay(recorded.settings, Order(recorded.topic, _time(recorded, 100), _time(recorded, 120), into), "x", now)
    resource = ConfigResource(ConfigResource.Type.TOPIC, into)
    retention = int(recorded.admin.describe_configs([resource])[resource].result(20)["retention.ms"].value)
    assert abs(retention - retention_ms(recorded.at_ms(100), int(now.timestamp() * 1000))) <= 2
    older = now + timedelta(days=7)
    with pytest.raises(ReplayError, match="younger records"):
        run_replay(recorded.settings, Order(recorded.topic, _time(recorded, 1), "now", into, append=True), "y", older)


def test_a_topic_that_is_not_for_replays_says_so(recorded: Recorded) -> None:
    with pytest.raises(ReplayError, match=r"'bus\.audit' cannot be replayed, only change\.\*"):
        run_replay(recorded.settings, Order("bus.audit", "beginning", "now", _sandbox()), "x")


def test_the_broker_itself_refuses_the_developer_any_other_topic(recorded: Recorded) -> None:
    """The check of the name is not the only fence."""
    refused = list[Any]()
    producer = Producer(access.confluent(recorded.settings, "developer") | {"message.timeout.ms": 5000})
    for topic in (recorded.topic, "bus.audit", "change.civil.birth"):
        producer.produce(topic, b"x", on_delivery=lambda error, _: refused.append(error))
    producer.flush(20)
    assert len(refused) == 3
    assert all(error is not None for error in refused)


def test_unknown_topics_are_named_with_near_ones(recorded: Recorded) -> None:
    with pytest.raises(ReplayError, match=r"did you mean 'verified\.trial\.recorded'"):
        run_replay(recorded.settings, Order("verified.trial.recordet", "beginning", "now", _sandbox()), "x")


def test_no_group_is_made_and_none_is_moved(recorded: Recorded) -> None:
    run_replay(recorded.settings, Order(recorded.topic, "beginning", "now", _sandbox()), "x")
    admin = recorded.admin
    groups = {g.group_id for g in admin.list_consumer_groups().result(20).valid}
    for group in ("developer-replay", "developer"):
        assert group not in groups
        committed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(20)
        assert not committed.topic_partitions


def test_pacing_keeps_the_distances(recorded: Recorded) -> None:
    """20 records, 100 ms apart, ten times as fast, take 0.19 s and no less; in the order of their times over all lanes."""
    into = _sandbox()
    began = time.monotonic()
    report = run_replay(recorded.settings, Order(recorded.topic, _time(recorded, 100), _time(recorded, 120), into, "10x"), "x")
    assert report["records"] == 20
    assert report["seconds"] >= 0.19
    assert time.monotonic() - began < 20


@pytest.fixture
def slow(recorded: Recorded) -> Iterator[tuple[subprocess.Popen[str], str]]:
    into = _sandbox()
    words = [
        "--home",
        str(recorded.settings.home),
        "replay",
        recorded.topic,
        "--from",
        "beginning",
        "--into",
        into,
        "--speed",
        "1x",
    ]
    program = [sys.executable, "-m", "bus.cli.main", *words]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, into
    finally:
        process.kill()
        process.wait()


def test_an_interrupt_says_how_far_it_got(recorded: Recorded, slow: tuple[subprocess.Popen[str], str]) -> None:
    process, into = slow
    deadline = time.monotonic() + 60
    while into not in recorded.admin.list_topics(timeout=20).topics or not recorded.read(into):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    held = recorded.read(into)
    assert f"Interrupted: {into} holds {len(held)} records" in told
    assert 0 < len(held) < RECORDS


@pytest.mark.parametrize("text", ["0x", "-1x", "10", "fast", "nanx", "infx", "", "x"])
def test_speeds_that_make_no_sense(text: str) -> None:
    with pytest.raises(ReplayError, match="speed"):
        parse_speed(text)


def test_a_replay_of_the_aborted_alone_is_empty(recorded: Recorded) -> None:
    with recorded.writer() as producer:
        write(recorded, producer, range(10_000, 10_020), commit=False)
    report = run_replay(recorded.settings, Order(recorded.topic, _time(recorded, 10_000), "now", _sandbox()), "x")
    assert (report["records"], report["complete"]) == (0, True)
