"""What a trial of a draft says is what flows once the draft is switched on, and the trial itself leaves no trace."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import IsolationLevel, Producer

from bus.avro import varint
from bus.avro.frame import HEADER_BYTES
from bus.cli import trial_view
from bus.core import topics
from bus.engine import agreements
from bus.replay.extent import ReplayError
from bus.trial.counting import DELIVERED
from bus.trial.draft import Trial, try_draft
from tests.engine.stage import Stage
from tests.engine.test_changes import caught_up, owners
from tests.engine.test_worker import owns

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def afterwards(stage: Stage) -> Iterator[None]:
    """The agreements of the checkout are in force again."""
    yield
    stage.stop_workers()
    stage.apply()


def without_seq(value: bytes) -> bytes:
    """Event id, then what follows the sequence number."""
    at = HEADER_BYTES + 16
    return value[HEADER_BYTES:at] + value[varint.decode(value, at)[1] :]


def ends(stage: Stage) -> dict[tuple[str, int], int]:
    return stage.watch.ends(stage.watch.names(), IsolationLevel.READ_UNCOMMITTED)


def committed(stage: Stage) -> dict[tuple[str, int], int]:
    return stage.watch.committed((d.topic, lane) for d in stage.datasets.values() for lane in range(4))


def trial_of(stage: Stage, file: Path, **how: Any) -> tuple[Trial, dict[tuple[int, bytes], list[bytes]]]:
    given: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)

    def deliver(lane: int, record: tuple[str, bytes, bytes]) -> None:
        given[lane, record[2]].append(without_seq(record[1]))

    draft = agreements.read(file, stage.datasets)
    return try_draft(stage.settings, draft, datetime.now(UTC), deliver=deliver, **how), given


@pytest.fixture(scope="module")
def recorded(stage: Stage) -> Stage:
    """Some thousands of verified events, at rest, and some that were never committed behind them."""
    stage.start("engine-0")
    stage.until("lanes", lambda: owns(stage, "engine-0", 4))
    stage.feed(3_000)
    stage.until("the end of the inputs", stage.drained)
    stage.look()
    return stage


def test_what_a_trial_says_is_what_flows_once_the_draft_is_switched_on(recorded: Stage, tmp_path: Path) -> None:
    """As many deliveries of each dataset, the same bytes, each person's in the same order, the same reasons."""
    stage, files = recorded, shutil.copytree(recorded.settings.agreements, tmp_path / "agreements")
    name = owners(files, "tried", "past: all\n")
    before, places = ends(stage), committed(stage)
    trial, said = trial_of(stage, files / f"{name}.yaml")
    assert (ends(stage), committed(stage)) == (before, places), "a trial writes nothing and moves nobody"
    assert trial.in_force is None
    assert not trial.stops
    stage.apply(files)
    stage.until("the past to be given", lambda: caught_up(stage, name))
    stage.check()
    flowed: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    by_dataset = Counter[str]()
    people = set()
    for record in stage.records(topics.agency(name)):
        flowed[record.partition(), record.key()].append(without_seq(record.value()))
        by_dataset[stage.dataset_of(record.value())] += 1
        people.add(record.key())
    assert {n: s.outcomes[DELIVERED] for n, s in trial.sums.items() if s.outcomes[DELIVERED]} == by_dataset
    assert sum(by_dataset.values()) > 500
    # between topics no order is promised: within each dataset of a person the order is compared, by the bytes' own dataset
    assert {place: sorted(found) for place, found in said.items()} == {place: sorted(found) for place, found in flowed.items()}
    assert in_order(said) == in_order(flowed)
    outcomes = {(dataset, o): n for (a, dataset, o), n in stage.past_outcomes().items() if a == name}
    assert outcomes == {(n, o): count for n, s in trial.sums.items() for o, count in s.outcomes.items()}


def in_order(given: dict[tuple[int, bytes], list[bytes]]) -> dict[Any, list[bytes]]:
    """By lane, key and row: deliveries without their event ids tell nothing of the dataset, row keys do."""
    found: dict[Any, list[bytes]] = defaultdict(list)
    for (lane, key), values in given.items():
        for value in values:
            found[lane, key, row_key(value)].append(value)
    return found


def row_key(value: bytes) -> bytes:
    """Of a delivery without frame and seq: event id, agreement, grant hash, op, commit time, row key."""
    length, at = varint.decode(value, 16)
    at += length + 32
    at = varint.decode(value, at)[1]
    at = varint.decode(value, at)[1]
    return value[at : at + 16]


def test_a_trial_of_what_is_in_force_finds_no_difference_and_of_less_what_is_lost(recorded: Stage, tmp_path: Path) -> None:
    stage, name = recorded, "tax.taxpayers.yaml"
    file = Path(shutil.copy(stage.settings.agreements / name, tmp_path / name))
    trial, _ = trial_of(stage, file)
    assert trial.in_force is not None
    assert trial.words == {}
    assert all((b.gained, b.lost) == (0, 0) for b in trial.beside.values())
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("participation: [compulsory, household]", "participation: household"), encoding="utf-8")
    less, _ = trial_of(stage, file)
    before, after = trial.sums["insurance.member"], less.sums["insurance.member"]
    beside = less.beside["insurance.member"]
    assert less.words == {"insurance.member": ("rows where participation: compulsory or household becomes household",)}
    assert beside.lost == before.outcomes[DELIVERED] - after.outcomes[DELIVERED] > 0
    assert beside.gained == 0
    told = trial_view.as_json(less, stage.datasets)
    lost = next(d for d in told["difference"] if d["dataset"] == "insurance.member")["rows_lost"]["number"]
    assert lost == before.rows.count().number - after.rows.count().number > 0


def test_what_a_trial_shows_hides_everybody(recorded: Stage, tmp_path: Path) -> None:
    """No PIN and no name of any row is in what is printed, though the draft grants them in the clear."""
    name = owners(tmp_path, "shown")
    trial, _ = trial_of(recorded, tmp_path / f"{name}.yaml")
    shown = "\n".join(str(line) for line in trial_view.lines(trial, recorded.datasets)) + str(
        trial_view.as_json(trial, recorded.datasets)
    )
    assert trial.people.count().number > 100
    hidden = set()
    for record in recorded.records(topics.verified("civil.birth")):
        row = recorded.decoder.decode(record.value())["after"] or {}
        hidden |= {row.get(c) for c in ("child_pin", "child_name", "mother_pin")} - {None, ""}
    assert len(hidden) > 100
    assert not [text for text in hidden if text in shown]


def test_records_of_an_open_transaction_are_neither_read_nor_waited_for(recorded: Stage, tmp_path: Path) -> None:
    stage = recorded
    file = tmp_path / f"{owners(tmp_path, 'patient')}.yaml"
    whole, _ = trial_of(stage, file)
    sample = stage.records(topics.verified("civil.birth"))[0]
    producer = Producer(stage.config | {"transactional.id": "left open"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(sample.topic(), sample.value(), sample.key(), partition=sample.partition())
    producer.flush(30)
    try:
        beside, _ = trial_of(stage, file)
    finally:
        producer.abort_transaction(30)
    assert beside.events == whole.events
    stage.until("nothing to be undecided", stage.drained)


def test_a_range_is_a_range_and_a_wrong_one_is_refused(recorded: Stage, tmp_path: Path) -> None:
    file = tmp_path / f"{owners(tmp_path, 'ranged')}.yaml"
    middle = sorted(r.timestamp()[1] for r in recorded.records(topics.verified("land.ownership")))
    at = datetime.fromtimestamp(middle[len(middle) // 2] / 1000, UTC).isoformat()
    trial, _ = trial_of(recorded, file, since=at)
    assert trial.events["land.ownership"] == sum(ms >= middle[len(middle) // 2] for ms in middle)
    with pytest.raises(ReplayError, match="neither a time nor an offset"):
        trial_of(recorded, file, since="yesterday")
