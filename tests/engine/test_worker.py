"""The engine on a real broker: exactly once, dense numbers and a true audit, whatever dies and whenever."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastavro
import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition

from bus.avro import catalogue, derive, frame
from bus.bench import product
from bus.core import topics
from bus.engine import lanes
from bus.engine.batch import Batch
from bus.engine.client import Stop
from bus.engine.past import Backfill
from bus.engine.transaction import Transactions
from bus.engine.worker import Worker
from bus.platform import broker
from bus.registry import log as registry
from tests.engine.feeding import feeding
from tests.engine.stage import Stage
from tests.slower import SEVERAL

pytestmark = pytest.mark.timeout(400)


def test_every_event_is_verified_once_and_every_delivery_numbered_though_workers_are_killed(stage: Stage) -> None:
    rng = random.Random(7)
    stage.feed(500)
    for index in range(2):
        stage.start(f"engine-{index}")
    for _ in range(5):
        stage.feed(1_500)
        victim = f"engine-{rng.randrange(2)}"
        time.sleep(rng.random() * 1.5)  # a moment nobody chose: in the start, in a transaction, or between two
        stage.kill(victim)
        stage.feed(300)
        stage.start(victim)
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained)
    outcomes = stage.check()
    assert {outcome for _, _, outcome in outcomes} >= {"DELIVERED", "ROW_FILTER", "VERDICT", "INVISIBLE"}
    for index in range(2):
        stage.stop(f"engine-{index}")
    stage.check()


@SEVERAL
def test_lanes_of_a_worker_that_does_not_come_back_are_taken_over_and_given_back(stage: Stage) -> None:
    stage.start("engine-0")
    stage.start("engine-1")
    stage.until("both to own lanes", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
    stage.feed(3_000)
    stage.kill("engine-1")
    stage.feed(1_000)
    stage.until("the other to own all lanes", lambda: owns(stage, "engine-0", 4))
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    stage.start("engine-1")
    stage.feed(3_000)
    stage.until("both to own lanes again", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
    stage.feed(1_000)
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    stage.stop("engine-0")
    stage.stop("engine-1")


@SEVERAL
def test_a_worker_that_wakes_up_after_its_lanes_went_elsewhere_does_no_harm(stage: Stage) -> None:
    stage.start("engine-0")
    stage.start("engine-1")
    stage.until("both to own lanes", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
    stage.feed(2_000)
    sleeper = stage.running["engine-1"]
    sleeper.send_signal(signal.SIGSTOP)
    stage.feed(1_000)
    stage.until("the other to own all lanes", lambda: owns(stage, "engine-0", 4))
    stage.feed(1_000)
    sleeper.send_signal(signal.SIGCONT)
    stage.until("both to own lanes again", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    stage.stop("engine-0")
    stage.stop("engine-1")


@SEVERAL
def test_a_broker_that_is_restarted_under_load_costs_time_and_nothing_else(stage: Stage) -> None:
    """At moments that nobody chose: told to stop, and killed. At chosen ones it is killed in `strength/test_restarts.py`."""
    for index in range(2):
        stage.start(f"engine-{index}")
    stage.until("both to own lanes", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
    for pause_seconds, end in ((0.3, psutil.Process.terminate), (1.1, psutil.Process.kill)):
        stage.feed(2_500)
        time.sleep(pause_seconds)
        kafka = broker.start(stage.settings)
        end(kafka)
        kafka.wait(60)
        broker.start(stage.settings)
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained, restarting=True)
    stage.until("both to own lanes again", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)), restarting=True)
    stage.check()
    for index in range(2):
        stage.stop(f"engine-{index}")


@SEVERAL
def test_of_two_workers_with_one_index_one_gives_up_and_says_why(stage: Stage) -> None:
    stage.start("engine-0")
    stage.until("lanes", lambda: owns(stage, "engine-0", 4))
    rival = product.start(stage.settings, "engine-0")
    first = stage.running.pop("engine-0")
    stage.feed(1_000)
    stage.until("one to give up", lambda: first.poll() is not None or rival.poll() is not None)
    loser, winner = (first, rival) if first.poll() is not None else (rival, first)
    stage.running["engine-0"] = winner
    assert loser.returncode == 1
    reasons = [line["reason"] for line in stage.log("engine-0") if line["event"] == "process_failed"]
    assert reasons[-1] == "another process runs as engine-0: give every worker its own index"
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    stage.stop("engine-0")


def owns(stage: Stage, process: str, count: int) -> bool:
    moves = [line for line in stage.log(process) if line["event"] in ("lanes_assigned", "lanes_revoked", "process_started")]
    return bool(moves) and moves[-1]["event"] == "lanes_assigned" and len(moves[-1]["lanes"]) == count


@pytest.mark.parametrize("offset", [0, pytest.param(1, marks=SEVERAL)])
def test_the_lane_record_counts_and_not_the_groups_offsets(stage: Stage, offset: int) -> None:
    """An operator's reset of the group, or its loss, repeats nothing."""
    run_here(stage, 600)
    stage.check()
    stage.until("the group to be empty", lambda: group_is_empty(stage))
    stage.set_group_offsets(offset)
    run_here(stage, 120)  # with records to read: a worker that began at the group's offsets would repeat the others
    stage.check()


@pytest.mark.parametrize(
    ("shift", "fresh"),
    [pytest.param(-7, False, marks=SEVERAL), pytest.param(7, False, marks=SEVERAL), pytest.param(7, True, marks=SEVERAL)],
)
def test_a_client_that_begins_at_the_wrong_place_costs_an_abort_and_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, shift: int, fresh: bool
) -> None:
    """The group's client is trusted with nothing, even where the lane record knows no topic yet (`fresh`)."""
    stage.feed(1_200)
    run_here(stage, 600)
    honest, back = lanes.recover, Worker._back_to_last_commit
    recovered: list[lanes.Recovered] = []
    told: list[str] = []

    class Misled(Consumer):
        def assign(self, places: list[TopicPartition]) -> None:
            if places and len(recovered) == 1:
                ends = stage.watch.ends(d.topic for d in stage.datasets.values())
                at = [(p.topic, p.partition, min(max(0, p.offset + shift), ends[p.topic, p.partition])) for p in places]
                places = [TopicPartition(*place) for place in at]
            super().assign(places)

    def recover(*given: Any, **named: Any) -> lanes.Recovered:
        found = honest(*given, **named)
        recovered.append(found)
        if fresh and len(recovered) == 1:
            return dataclasses.replace(found, states={n: dataclasses.replace(s, inputs={}) for n, s in found.states.items()})
        return found

    def listen(worker: Worker, transactions: Transactions, reason: str) -> None:
        told.append(reason)
        back(worker, transactions, reason)

    monkeypatch.setattr(lanes, "recover", recover)
    monkeypatch.setattr("bus.engine.member.Consumer", Misled)
    monkeypatch.setattr(Worker, "_back_to_last_commit", listen)
    run_here(stage, 1_200)
    stage.check()
    assert re.search(r"went (on at|back to) offset", told[0])
    assert len(told) == 1


@SEVERAL
def test_a_client_that_skips_between_two_reads_of_one_batch_costs_an_abort_and_nothing_else(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that a batch begins with and what is read after it are compared, too."""
    honest = Worker._back_to_last_commit
    told: list[str] = []
    skipped: list[int] = []

    class Skipping(Consumer):
        polled: tuple[str | None, int | None] = (None, None)

        def consume(self, count: int = 1, timeout: float = -1) -> list[Any]:
            found = super().consume(count, timeout)
            places = [(m.topic(), m.partition()) for m in found]
            polled, self.polled = self.polled, (None, None)
            if not skipped and len(places) > 7 and places[0] == places[7] == polled:
                skipped.append(7)
                return found[7:]
            return found

        def poll(self, timeout: float = -1) -> Any:
            message = super().poll(timeout)
            self.polled = (None, None) if message is None else (message.topic(), message.partition())
            return message

    def listen(worker: Worker, transactions: Transactions, reason: str) -> None:
        told.append(reason)
        honest(worker, transactions, reason)

    monkeypatch.setattr("bus.engine.member.Consumer", Skipping)
    monkeypatch.setattr(Worker, "_back_to_last_commit", listen)
    run_here(stage, 1_200)
    stage.check()
    assert skipped
    assert "went on at offset" in told[0]


@SEVERAL
def test_a_batch_gathers_input_before_it_produces(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the pause that is left since the last commit: fewer transactions cost less."""
    steps: list[str] = []
    pauses: list[float] = []

    class Noting(Consumer):
        def consume(self, count: int = 1, timeout: float = -1) -> list[Any]:
            steps.append("consume")
            pauses.append(timeout)
            return super().consume(count, timeout)

    def noted(step: str, of: type, name: str) -> None:
        honest = getattr(of, name)

        def note(*given: Any, **named: Any) -> Any:
            steps.append(step)
            return honest(*given, **named)

        monkeypatch.setattr(of, name, note)

    monkeypatch.setattr("bus.engine.member.Consumer", Noting)
    noted("begin", Transactions, "begin")
    noted("produce", Batch, "take")
    noted("produce", Backfill, "give")
    with working(stage), feeding(stage):
        stage.until("a short pause after a commit", lambda: max(pauses, default=0.0) > 0)
    run_here(stage, 40)
    stage.check()
    after = [steps[at + 1] for at, step in enumerate(steps[:-1]) if step == "begin"]
    assert set(after) == {"consume"}
    assert "produce" in steps
    assert max(pauses) <= stage.settings.engine.poll_ms / 1000


@SEVERAL
def test_lanes_that_change_hands_under_load_skip_and_repeat_nothing(stage: Stage) -> None:
    """Each join and each leave assigns every lane anew, while records arrive at the ends of all of them."""
    stage.start("engine-0")
    stage.until("lanes", lambda: owns(stage, "engine-0", 4))
    with feeding(stage):
        for _ in range(2):
            stage.start("engine-1")
            stage.until("both to own lanes", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
            stage.kill("engine-1")
            stage.until("one to own all lanes", lambda: owns(stage, "engine-0", 4))
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    lines = [line for index in range(2) for line in stage.log(f"engine-{index}")]
    told = [line["reason"] for line in lines if line["event"] == "transaction_aborted"]
    assert not any("went on at offset" in reason for reason in told), told
    stage.stop("engine-0")


def group_is_empty(stage: Stage) -> bool:
    described = stage.watch._admin.describe_consumer_groups(["bus-engine"])["bus-engine"].result(10)
    return not described.members


def run_here(stage: Stage, events: int, clock_ms: int | None = None) -> None:
    """A worker in this process, from its start to the end of the inputs."""
    stage.feed(events)
    with working(stage, clock_ms) as failed:
        stage.until("the end of the inputs", lambda: bool(failed) or stage.drained())


@contextmanager
def working(stage: Stage, clock_ms: int | None = None) -> Iterator[list[BaseException]]:
    """A worker in a thread of this process; gives what it has failed with."""
    stop = Stop()
    worker = Worker(stage.settings, 0, stop, *([lambda: clock_ms] if clock_ms is not None else []))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            worker.work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failed
    finally:
        stop.asked = True
        thread.join(60)
        worker.close()
    assert not failed


def test_nothing_is_delivered_before_an_agreement_begins_or_after_it_has_ended(stage: Stage) -> None:
    run_here(stage, 240)
    before = stage.check()
    for clock_ms in (1_000_000_000_000, 1_909_069_200_000):  # 2001; the very millisecond that tax.taxpayers ends
        run_here(stage, 240, clock_ms)
        after = stage.check()
        gained = {key: n - before[key] for key, n in after.items() if n != before[key]}
        in_force = {key for key in gained if key[2] == "DELIVERED"}
        assert any(key[0] == "tax.taxpayers" and key[2] == "NOT_IN_FORCE" for key in gained)
        assert not any(key[0] == "tax.taxpayers" for key in in_force)
        if clock_ms < 1_700_000_000_000:
            assert {key[2] for key in gained} == {"NOT_IN_FORCE"}
        else:
            assert any(key[0] == "statistics.indicators" for key in in_force)
        before = after


def test_records_that_cannot_be_processed_become_dead_letters_with_their_own_bytes(stage: Stage) -> None:
    one = stage.sources[0]
    key, value = stage._made[one.name][0]
    bad = [
        b"",
        b"\0",
        b"\1" + value[1:],
        value[:1] + b"\x7f\x7f\x7f\x7f" + value[5:],
        value[:-1],
        value + b"\0",
        value[:5] + b"\xff" * 40,
        value[:40],
        value[:5] + bytes(1_100_000),
    ]
    stage.look()
    before = {lane: len(found) for lane, found in stage.lanes(f"dead.{one.name}").items()}
    stage.filling.produce([(one.topic, key, b) for b in bad])
    run_here(stage, 60)
    stage.check()
    found = [r for lane, records in stage.lanes(f"dead.{one.name}").items() for r in records[before.get(lane, 0) :]]
    assert [r.value() or b"" for r in found] == bad
    codes = [dict(r.headers())["x-dead-code"].decode() for r in found]
    assert codes == ["BAD_FRAME"] * 3 + ["UNKNOWN_SCHEMA"] + ["MALFORMED"] * 4 + ["TOO_LARGE"]


def test_events_of_an_earlier_schema_that_were_not_read_when_a_new_one_came_are_delivered_in_order(stage: Stage) -> None:
    """Among new ones and before them; nothing of them is a dead letter."""
    one = next(d for d in stage.sources if d.name == "insurance.member")
    subject, today = catalogue.value_subject(one.topic), derive.change(one)
    old = json.loads(json.dumps(today))
    row = next(f for f in old["fields"] if f["name"] == "before")["type"][1]
    row["fields"] = [f for f in row["fields"] if f["name"] != "monthly_salary"]
    registry.ensure(stage.settings, {subject: old})
    number = registry.ensure(stage.settings, {subject: today})[subject]
    earlier = next(e.id for e in registry.read(stage.config).versions(subject) if e.id != number)
    stage.stop_workers()
    events = [(t, k, v) for t, k, v in stage._events(400) if t == one.topic]
    writer, reader = (fastavro.parse_schema(json.loads(json.dumps(schema))) for schema in (old, today))
    mixed = []
    for place, (topic, key, value) in enumerate(events):
        if place % 3 == 0 or place < 20:
            out = io.BytesIO()
            fastavro.schemaless_writer(out, writer, fastavro.schemaless_reader(io.BytesIO(value[5:]), reader, None))
            mixed.append((topic, key, frame.header(earlier) + out.getvalue()))
        else:
            mixed.append((topic, key, value))
    stage.look()
    dead = len(stage.records(topics.dead(one.name)))
    stage.filling.produce(mixed)
    stage.refresh()
    run_here(stage, 60)
    stage.check()
    assert len(stage.records(topics.dead(one.name))) == dead
    assert stage.account() == []
