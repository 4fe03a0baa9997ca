"""The register process: everybody is there before it says so, what it took in survives it, and who leaves is gone."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bus import telemetry
from bus.avro import dataset, derive
from bus.avro.catalogue import value_subject
from bus.bench.events import person
from bus.core import topics
from bus.core.identity import person_key
from bus.engine.register import Follower
from bus.engine.replica import ReplicaReader
from bus.registry import log as registry
from tests.engine.stage import PEOPLE, Stage

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def home(stage: Stage, tmp_path: Path) -> Path:
    """A second home on the same broker, with an empty replica."""
    for name in ("secrets", "run"):
        (tmp_path / name).symlink_to(stage.settings.home / name)
    return tmp_path


class Following:
    """A register process, step by step in this one; `people` reads what it left when it is closed."""

    def __init__(self, stage: Stage, home: Path, schemas: Path | None = None) -> None:
        self.home = home
        self.follower = Follower.open(dataclasses.replace(stage.settings, home=home, schemas=schemas or stage.settings.schemas))

    def until_ready(self, steps: int = 2_000) -> None:
        for _ in range(steps):
            self.follower.step()
            if self.follower._ready:
                return
        raise AssertionError("never ready")

    def close(self) -> None:
        self.follower.close()


def replica(home: Path) -> Iterator[Any]:
    reader = ReplicaReader(home)
    assert reader.ready()
    with reader.view() as get:
        yield get
    reader.close()


def key(stage: Stage, number: int) -> bytes:
    return person_key(stage.settings.secret("person-key"), person(number).pin.encode())


def test_everybody_is_in_the_replica_when_it_says_ready(stage: Stage, home: Path) -> None:
    following = Following(stage, home)
    assert following.follower._writer.people() == 0
    following.until_ready()
    following.close()
    for get in replica(home):
        found = [get(key(stage, n)) for n in range(PEOPLE)]
        assert all(
            name.encode() in (row or b"") for row, name in zip(found, (person(n).full_name for n in range(PEOPLE)), strict=True)
        )


def test_it_goes_on_where_it_stopped_and_a_d_removes(stage: Stage, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Following(stage, home)
    first.until_ready()
    first.close()
    everything = first.follower._next
    events = stage.filling.events(stage.register)
    row = events.person_row(3, random.Random(3))
    gone = events.encoder.encode(900_003, "d", row, None)
    stage.filling.produce([(stage.register.topic, key(stage, 3), gone), (stage.register.topic, key(stage, 4), b"\0 broken")])
    again = Following(stage, home)
    assert again.follower._writer.rebuilt is False
    assert again.follower._next == everything
    read: list[Any] = []
    take = again.follower._take

    def noting(messages: list[Any]) -> None:
        read.extend(m for m in messages if m.error() is None)
        take(messages)

    monkeypatch.setattr(again.follower, "_take", noting)
    again.until_ready()
    again.close()
    assert sorted(m.key() for m in read) == sorted((key(stage, 3), key(stage, 4)))
    for get in replica(home):
        assert get(key(stage, 3)) is None
        assert get(key(stage, 4)) is not None, "a malformed record leaves the person as known"
    back = events.encoder.encode(900_004, "c", None, row)
    stage.filling.produce([(stage.register.topic, key(stage, 3), back)])


def test_under_another_schema_it_reads_everybody_anew_and_says_so(
    stage: Stage, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the topic is of the schema before."""
    told: list[str] = []
    monkeypatch.setattr(telemetry, "logger", lambda _: SimpleNamespace(info=lambda event, **_: told.append(event)))
    first = Following(stage, home)
    first.until_ready()
    first.close()
    before = {n: get(key(stage, n)) for get in replica(home) for n in range(PEOPLE)}
    schemas = tmp_path / "other-schemas"
    shutil.copytree(stage.settings.schemas, schemas)
    file = schemas / stage.register.domain / f"{stage.register.table}.avsc"
    row = json.loads(file.read_text(encoding="utf-8"))
    row["fields"].append({"name": "blood_group", "type": ["null", "string"], "default": None, "doc": "", "pii": "sensitive"})
    file.write_text(json.dumps(row), encoding="utf-8")
    subject = value_subject(stage.register.topic)
    registry.ensure(stage.settings, {subject: derive.change(dataset.read(file))})
    try:
        told.clear()
        other = Following(stage, home, schemas)
        other.until_ready()
        other.close()
    finally:
        registry.ensure(stage.settings, {subject: derive.change(stage.register)})
    assert told == ["register_read_anew", "register_ready"]
    for get in replica(home):
        for n, packed in before.items():
            assert (get(key(stage, n)) is None) is (packed is None)
            assert packed is None or person(n).full_name.encode() in (get(key(stage, n)) or b"")
    assert any(before.values())


@pytest.mark.parametrize("upto", ["sealed", "absent"])
def test_it_is_not_ready_while_the_snapshot_runs(stage: Stage, home: Path, upto: str) -> None:
    tables = {stage.register.table: [{"upto": "k", "lsn": "0/0"}]} if upto == "sealed" else {}
    unfinished = json.dumps({"tables": tables}).encode()
    stage.filling.produce([(topics.POSITIONS, stage.register.domain.encode(), unfinished)])
    try:
        following = Following(stage, home)
        with pytest.raises(AssertionError, match="never ready"):
            following.until_ready(60)
        assert following.follower._writer.people() >= PEOPLE - 1
        stage.filling.streams(stage.register)
        following.until_ready()
        following.close()
    finally:
        stage.filling.streams(stage.register)
