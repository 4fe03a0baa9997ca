"""Dead letters that are put through again: once, in their lane, never behind something newer of the person, whatever dies."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bus import access
from bus.avro import frame
from bus.core import failpoint, topics
from bus.core.failpoint import REDRIVE
from bus.ledger import conserve, explain
from bus.ledger.conserve import Asked
from bus.ledger.entries import event_id
from bus.letters import plan, reading
from bus.letters.letter import LetterError, Place
from bus.letters.plan import Plan
from bus.letters.redrive import Run
from bus.letters.today import today
from tests.engine.stage import Stage
from tests.engine.test_worker import run_here
from tests.slower import FAILPOINTS, SEVERAL

pytestmark = pytest.mark.timeout(400)
UNKNOWN = frame.header(2_000_000_000)
_RUN = (
    "import sys, time; from pathlib import Path; from bus import config; from bus.letters.plan import Plan; "
    "from bus.letters.redrive import Run; "
    "Run(config.load(Path(sys.argv[1]), env={}), Plan.read(Path(sys.argv[2])), lambda: time.time_ns() // 1_000_000).run(1000)"
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Mended:
    """Letters of code TOO_LARGE: with `max_record_bytes` so small the engine refuses what with the stage's own it takes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.connection = access.confluent(stage.settings, "operator")
        self._left: list[Any] = []
        self.done: list[Place] = []

    def bury(self, records: list[tuple[str, bytes, bytes]]) -> None:
        """Put these in while nothing passes."""
        before = {one.place for one in self.letters()}
        self.stage.filling.produce(records)
        whole = self.stage.settings
        self.stage.settings = dataclasses.replace(whole, engine=dataclasses.replace(whole.engine, max_record_bytes=16))
        try:
            run_here(self.stage, 0)
        finally:
            self.stage.settings = whole
        found = [one for one in self.letters() if one.place not in before]
        sources = {one.topic for one in self.stage.sources}
        ours = [one for one in found if one.source in sources and not (one.value or b"").startswith(UNKNOWN)]
        alone = {item.place for item in self.plan(ours).items if item.action == "redrive"}
        self._left = [one for one in ours if one.place in alone]  # made-up rows may be the same row

    def take(self, count: int, topic: str = "") -> list[Any]:
        """As many letters that no other test has taken."""
        own = self.stage.sources[0].topic  # kept for the tests that ask for it
        found = [one for one in self._left if one.source == topic or (not topic and one.source != own)][:count]
        self._left = [one for one in self._left if one not in found]
        assert len(found) == count
        return found

    def letters(self) -> list[Any]:
        return list(reading.letters(self.connection, reading.dead_topics(self.connection)))

    def plan(self, letters: list[Any]) -> Plan:
        """Of these letters alone."""
        with today(self.stage.settings, "operator", now_ms()) as now:
            made = plan.make(self.connection, reading.dead_topics(self.connection), now, "TOO_LARGE")
        wanted = {one.place for one in letters}
        return dataclasses.replace(made, items=tuple(item for item in made.items if item.place in wanted))

    def actions(self, letters: list[Any]) -> set[str]:
        return {item.action for item in self.plan(letters).items}

    def redrive(self, made: Plan) -> Any:
        result = Run(self.stage.settings, made, now_ms, wait=lambda _: None).run(1000)
        self.done += [Place.parse(one["letter"]) for one in result.redriven]
        return result


@pytest.fixture(scope="module")
def mended(stage: Stage) -> Mended:
    """What of these letters the engine would not take today is one of an unknown schema."""
    made = Mended(stage)
    alien = [(topic, key, UNKNOWN + value[5:]) for topic, key, value in fresh(stage, 1)]
    made.bury([*fresh(stage, 60), *alien])
    return made


def fresh(stage: Stage, count: int) -> list[tuple[str, bytes, bytes]]:
    """Events of as many people, who have no other."""
    return [(topic, os.urandom(16), value) for topic, _, value in stage._events(count)]


@SEVERAL
def test_letters_go_through_once_however_often_they_are_asked_for(stage: Stage, mended: Mended, tmp_path: Path) -> None:
    letters = mended.take(12)
    made = mended.plan(letters)
    assert [item.action for item in made.items] == ["redrive"] * 12
    assert all(item.becomes and item.becomes["outcomes"] for item in made.items)
    made.write(tmp_path / "plan.yaml")
    assert Plan.read(tmp_path / "plan.yaml") == made
    assert len(mended.redrive(made).redriven) == 12
    assert mended.redrive(made).redriven == []
    assert mended.actions(letters) == {"done"}


def test_a_letter_whose_person_has_a_later_event_is_superseded(stage: Stage, mended: Mended) -> None:
    """Also by one that comes between plan and redriving."""
    early, late = mended.take(2, stage.sources[0].topic)
    later = [v for t, _, v in fresh(stage, 40) if t == early.source]
    stage.filling.produce([(early.source, early.key, later[0])])
    made = mended.plan([early, late])
    assert {item.place: item.action for item in made.items} == {early.place: "superseded", late.place: "redrive"}
    stage.filling.produce([(late.source, late.key, later[1])])
    result = mended.redrive(made)
    assert result.redriven == []
    assert "superseded" in result.left[str(late.place)]


@SEVERAL
def test_what_comes_while_the_copy_is_being_written_stops_it(
    stage: Stage, mended: Mended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look of all: with the copy written and its transaction open. Nothing of it becomes visible."""
    (letter,) = mended.take(1, stage.sources[0].topic)
    made = mended.plan([letter])
    later = next(v for t, _, v in fresh(stage, 40) if t == letter.source)
    copy = Run._copy

    def slowly(run: Run, producer: Producer, item: Any, one: Any) -> int:
        stage.filling.produce([(letter.source, letter.key, later)])
        return copy(run, producer, item, one)

    monkeypatch.setattr(Run, "_copy", slowly)
    result = mended.redrive(made)
    assert result.redriven == []
    assert "superseded" in result.left[str(letter.place)]
    assert mended.actions([letter]) == {"superseded"}


@SEVERAL
def test_a_letter_that_would_die_again_is_not_offered_and_an_altered_plan_is_refused(mended: Mended, tmp_path: Path) -> None:
    (alien,) = [one for one in mended.letters() if (one.value or b"").startswith(UNKNOWN) and one.code == "TOO_LARGE"]
    (item,) = mended.plan([alien]).items
    assert (item.action, item.becomes) == ("not_redrivable", {"dead_again": "UNKNOWN_SCHEMA"})
    file = tmp_path / "plan.yaml"
    mended.plan([alien]).write(file)
    file.write_text(file.read_text(encoding="utf-8").replace("not_redrivable", "redrive"), encoding="utf-8")
    with pytest.raises(LetterError, match="altered"):
        Plan.read(file)


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=SEVERAL, id=p.value) for p in REDRIVE],
)
def test_killed_at_any_place_and_run_again_each_letter_went_through_once(
    stage: Stage, mended: Mended, tmp_path: Path, point: failpoint.Point
) -> None:
    """That nothing went through twice the last test finds."""
    letters = mended.take(4)
    file = tmp_path / "plan.yaml"
    mended.plan(letters).write(file)
    command = [sys.executable, "-c", _RUN, str(stage.settings.home), str(file)]
    killed = subprocess.run(command, env=os.environ | {failpoint.VARIABLE: f"{point.value}:3"}, check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr[-500:]
    assert sum(str(one.place) in reading.redriven(mended.connection) for one in letters) == (
        3 if point is failpoint.Point.REDRIVE_COMMITTED else 2
    )
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-500:]
    assert mended.actions(letters) == {"done"}
    mended.done += [one.place for one in letters]


def test_afterwards_nothing_is_there_twice_and_the_ledger_and_the_story_say_what_became_of_each(
    stage: Stage, mended: Mended
) -> None:
    if not mended.done:
        mended.redrive(mended.plan(mended.take(3)))
    run_here(stage, 40 * len(stage.sources))  # `drained` knows lanes by their last records, and these end with markers
    stage.check()
    report = conserve.take(stage.settings, Asked())
    assert report["ok"], report["differences"][:5]
    assert sum(d["redriven"] for d in report["datasets"].values()) == len(reading.redriven(mended.connection))
    for name in stage.datasets:
        ids = Counter(event_id(r.value()) for r in stage.records(topics.verified(name)))
        assert set(ids.values()) <= {1}, f"events of {name} were verified twice"
    letter = reading.one(mended.connection, mended.done[0])
    story = explain.tell(stage.settings, letter.event_id.hex())
    assert story["state"] == "decided"
    assert story["dead_letter"]["letter"] == str(letter.place)
    assert story["redriven"]["lane"] == letter.place.lane == story["captured"]["lane"]
    for name, one in story["agreements"].items():
        assert (one["delivery"] is not None) == (one["outcome"] == "DELIVERED"), name


def test_an_agencys_own_event_id_leads_to_the_same_story(stage: Stage) -> None:
    stage.look()
    found = {a: stage.lanes(topics.agency(a)) for a in stage.agreements}
    newest = {a: next((r for records in lanes.values() for r in records[-1:]), None) for a, lanes in found.items()}
    chosen = [(agreement, record) for agreement, record in newest.items() if record is not None]
    for agreement, record in chosen if FAILPOINTS else chosen[:1]:
        own = event_id(record.value())
        story = explain.tell(stage.settings, own.hex())
        delivery = story["agreements"][agreement]["delivery"]
        assert (delivery["lane"], delivery["offset"]) == (record.partition(), record.offset())
        assert delivery["event_id"] == own.hex()
        assert explain.tell(stage.settings, story["event_id"])["agreements"] == story["agreements"]
