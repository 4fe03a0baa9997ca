"""What a trial of a draft says is what flows once the draft is switched on, and the trial itself leaves no trace."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import IsolationLevel, Producer
from typer.testing import CliRunner

from bus.avro import varint
from bus.avro.frame import HEADER_BYTES
from bus.cli import trial_view
from bus.cli.main import app
from bus.core import topics
from bus.engine import agreements
from bus.replay.extent import ReplayError
from bus.trial.counting import DELIVERED
from bus.trial.draft import Trial, try_draft
from tests.engine.stage import Stage
from tests.engine.test_changes import caught_up, owners
from tests.engine.test_worker import owns

pytestmark = pytest.mark.timeout(300)
BIRTHS = """\
agency: archive
name: births
purpose: Archive
legal_basis: Decree 1
valid_from: 2026-01-01T00:00:00+07:00
datasets:
  - dataset: civil.birth
    fields: [child_pin, child_name, mother_pin, mother_name, register.address, province_code]
"""


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


def births(place: Path) -> Path:
    """A draft that opens names and PINs of one dataset."""
    file = place / "archive.births.yaml"
    file.write_text(BIRTHS, encoding="utf-8")
    return file


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
    stage.feed(2_000)
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
    flowed: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    by_dataset = Counter[str]()
    people = set()
    for record in stage.records(topics.agency(name)):
        flowed[record.partition(), record.key()].append(without_seq(record.value()))
        by_dataset[stage.dataset_of(record.value())] += 1
        people.add(record.key())
    assert {n: s.outcomes[DELIVERED] for n, s in trial.sums.items() if s.outcomes[DELIVERED]} == by_dataset
    assert sum(by_dataset.values()) > 200
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


def test_a_trial_of_what_is_in_force_finds_no_difference_and_of_another_what_is_gained_and_lost(
    recorded: Stage, tmp_path: Path
) -> None:
    """What was delivered already is counted as what was not: decisions of then are no part of the question."""
    stage, name = recorded, "education.pupils.yaml"
    text = (stage.settings.agreements / name).read_text(encoding="utf-8")
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    trial, _ = trial_of(stage, file)
    assert trial.in_force is not None
    assert trial.words == {}
    assert all((b.gained, b.lost) == (0, 0) for b in trial.beside.values())
    head, cards = text.partition("datasets:\n")[0], text[text.index("  - dataset: insurance.card") :]
    file.write_text(f"{head}datasets:\n{cards}".replace('in_use: ["true"]', 'in_use: "false"'), encoding="utf-8")
    other, _ = trial_of(stage, file)
    assert other.words["insurance.card"] == ("rows where in_use: true becomes false",)
    assert other.words["civil.birth"] == ("the dataset is gone",)
    before, after = trial.sums["insurance.card"], other.sums["insurance.card"]
    beside = other.beside["insurance.card"]
    assert beside.gained - beside.lost == after.outcomes[DELIVERED] - before.outcomes[DELIVERED]
    assert min(beside.gained, beside.lost) > 0
    assert other.beside["civil.birth"].lost == trial.sums["civil.birth"].outcomes[DELIVERED] > 0
    told = {d["dataset"]: d for d in trial_view.as_json(other, stage.datasets)["difference"]}
    births = told["civil.birth"]
    assert births["rows_lost"] == {"number": trial.sums["civil.birth"].rows.count().number, "exact": True}
    assert births["rows_gained"]["number"] == 0
    card = told["insurance.card"]
    assert card["rows_gained"]["number"] - card["rows_lost"]["number"] == after.rows.count().number - before.rows.count().number


def typed(stage: Stage, *arguments: str) -> str:
    """What `bus agreement try` prints."""
    done = CliRunner().invoke(app, ["--home", str(stage.settings.home), "agreement", "try", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_a_trial_shows_hides_everybody(recorded: Stage, tmp_path: Path) -> None:
    """No PIN and no name of any row is in what is printed, though the draft grants them in the clear."""
    file = str(births(tmp_path))
    text, document = typed(recorded, file), typed(recorded, file, "--json")
    told = json.loads(document)
    records = recorded.records(topics.verified("civil.birth"))
    events = recorded.decode(records)
    own = ("child_pin", "child_name", "mother_pin", "mother_name", "province_code")
    keys = {id(e): r.key() for r, e in zip(records, events, strict=True)}
    given = [e for e in events if e["op"] != "u" or any(e["before"][c] != e["after"][c] for c in own)]
    assert (told["events"], told["deliveries"]) == (len(events), len(given))
    assert f"{len(given):,} of {len(events):,} recorded events" in text
    assert len(told["examples"]) == len(told["datasets"][0]["by_op"])
    rows = [e["after"] or e["before"] for e in given]
    people = {keys[id(e)] for e in given if (e["after"] or e["before"])["child_pin"]}  # other tests use keys of their own
    assert told["people"]["number"] == len(people) > 50
    filled = sum(e["after"] is not None and e["after"]["mother_pin"] is not None for e in given)
    assert told["datasets"][0]["filled"]["mother_pin"] == filled
    hidden = {str(r[c]) for r in rows for c in ("child_pin", "child_name", "mother_pin", "mother_name") if r[c]}
    assert len(hidden) > 100
    assert not [secret for secret in hidden if secret in text or secret in document]


def test_records_of_an_open_transaction_are_neither_read_nor_waited_for(recorded: Stage, tmp_path: Path) -> None:
    stage = recorded
    file = births(tmp_path)
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
    assert beside.events == {"civil.birth": len(stage.records(topics.verified("civil.birth")))}
    stage.until("nothing to be undecided", stage.drained)


def test_a_range_is_a_range_and_a_wrong_one_is_refused(recorded: Stage, tmp_path: Path) -> None:
    file = births(tmp_path)
    times = sorted(r.timestamp()[1] for r in recorded.records(topics.verified("civil.birth")))
    begin_ms = times[len(times) // 2]
    trial, _ = trial_of(recorded, file, since=datetime.fromtimestamp(begin_ms / 1000, UTC).isoformat())
    assert trial.events["civil.birth"] == sum(at >= begin_ms for at in times)
    with pytest.raises(ReplayError, match="neither a time nor an offset"):
        trial_of(recorded, file, since="yesterday")
