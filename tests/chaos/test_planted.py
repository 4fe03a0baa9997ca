"""The checks see: the running engine and capture, broken in one way after the other, and each time something is found wrong.

`make planted` tries every bug and prints which check found it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.capture import test_handover as handover
from tests.capture.conftest import MakeLab, make_lab
from tests.capture.lab import Lab
from tests.chaos import planting
from tests.chaos.theatre import Theatre

__all__ = ["make_lab"]
pytestmark = pytest.mark.timeout(600)
ALL = os.environ.get("LT_PLANTED") == "1"
"""'' is no bug: a check that always finds something would be found out by it."""
ENGINE = [(d, "") for d in (planting.CALM, planting.KILLS, planting.ABORTS, planting.EXPIRY)] + [
    (b.shows_under, b.name) for b in planting.ALL if b.shows_under != planting.CAPTURE
]
DEATHS = (
    *(("before-position:3", True), ("after-position:2:100", True), ("capture-committed:3", True)),
    *(("before-position:9:100", False), ("before-position:12:100", False)),
)
"""Where capture dies, one life after the other; within a source transaction larger than a batch, or among small ones."""
Table = list[tuple[str, str, list[str]]]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """(bug, disturbance, what found it); printed in the end."""
    made: Table = []
    yield made
    wide = max((len(bug) for bug, *_ in made), default=0)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print()
        for bug, shows_under, found in made:
            print(f"{bug or '(none)':<{wide}}  under: {shows_under:<20}  found by: {'; '.join(found) or 'nothing'}")


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    home = Path(tmp_path_factory.mktemp("nhà hát")) / ".bus"
    home.mkdir()
    made = Theatre(home)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.skipif(not ALL, reason="make planted")
@pytest.mark.parametrize(("shows_under", "bug"), ENGINE)
def test_a_broken_engine_is_found_out(theatre: Theatre, table: Table, shows_under: str, bug: str) -> None:
    found = theatre.play(shows_under, bug)
    table.append((bug, shows_under, found))
    assert bool(found) == bool(bug), found


@pytest.mark.skipif(not ALL, reason="make planted")
@pytest.mark.parametrize("bug", ["", *(b.name for b in planting.under([planting.CAPTURE]))])
def test_a_broken_capture_is_found_out(make_lab: MakeLab, table: Table, bug: str) -> None:
    """Source transactions larger than a batch, and a process that dies around its commits."""
    lab = make_lab(handover.SQL, handover.PARCEL, handover.PERSON)
    handover.fill(lab, 100)
    writer = handover.Writer(lab, 3)
    found = []
    try:
        play(lab, writer, bug)
        handover.judge(lab)
    except AssertionError as error:
        found = [f"history of each row ({str(error).splitlines()[0]})"]
    finally:
        writer.stopping.set()
    table.append((bug, planting.CAPTURE, found))
    assert bool(found) == bool(bug), found


def play(lab: Lab, writer: handover.Writer, bug: str) -> None:
    batch: dict[str, Any] = {"batch_events": 7, "heartbeat_seconds": 0.5}
    with lab.capture(bug=bug, **batch) as capture:
        capture.streaming()
    writer.start()
    for place, large in DEATHS:
        with lab.capture(bug=bug, dies_at=place, **batch) as capture:
            if large:
                with lab.connect() as db:
                    db.execute("UPDATE parcel SET version = version + 1, note = 'all' WHERE part <= 60")
            capture.dead()
            threading.Event().wait(0.2)
    with lab.capture(bug=bug, **batch) as capture:
        capture.streaming()
        handover.settled(lab, [writer])
        capture.stop()
