"""Tables that are read anew: what was published stays, nothing of other tables is lost, nothing of before holds them again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bus.avro.dataset import Dataset, Role
from bus.config import ROOT
from bus.core.failpoint import Point
from connectors.capture import columns, forget, progress, source
from connectors.capture.errors import Refusal
from connectors.capture.events import Target
from connectors.capture.pgoutput import HEADER, RELATION, tuple_bytes
from connectors.capture.progress import Progress, Segment, Streamed
from connectors.capture.session import Session
from connectors.capture.stream import Stream
from tests.capture.lab import Lab, wait
from tests.capture.test_altered import COUNT, COUNTED, add, come, first, made_anew
from tests.capture.test_events import Records
from tests.capture.test_holding import BOOK, WIDEN, Q, lab
from tests.slower import SEVERAL

__all__ = ["lab"]


def test_a_table_that_was_made_anew_waits_until_it_is_forgotten(lab: Lab) -> None:
    """It is another one of the same name: nothing of it flows before somebody says that it is to be read from its beginning."""
    with lab.connect() as db:
        with lab.capture(**Q) as capture:
            capture.streaming()
            add(db, "book", 1)
            lab.wait_for_events(1)
            made_anew(db)
            add(db, "book", 7)
            wait(lambda: any("made anew" in line for line in capture.lines))
            add(db, "author", 1)
            assert [(e.table, e.row["id"]) for e in lab.wait_for_events(2)] == [("book", 1), ("author", 1)]
            capture.stop()
        with pytest.raises(Refusal, match=r"no table 'shelf' of lab.* was captured: there are author, book"):
            forget.forget(lab.settings, lab.domain, "shelf")
        forget.forget(lab.settings, lab.domain, "book")
        with lab.capture(**Q) as capture:
            capture.streaming()
            add(db, "book", 8)
            add(db, "author", 2)
            events = lab.wait_for_events(5)
            capture.stop()
    assert [(e.op, e.row["id"]) for e in events if e.table == "book"] == [("c", 1), ("r", 7), ("c", 8)]


@SEVERAL
@pytest.mark.parametrize("how", ["made anew", "altered"])
def test_what_the_log_has_of_a_forgotten_table_does_not_hold_it_again(lab: Lab, how: str) -> None:
    """Rows of the one that was there before, or in a shape that nothing of today reads: the newest that the log has."""
    with lab.connect() as db:
        first(lab, db, "author")
        add(db, "book", 1)
        if how == "altered":
            db.execute(COUNT)
            lab.change_schema(COUNTED)
        else:
            made_anew(db)
        forget.forget(lab.settings, lab.domain, "book")
        with lab.capture(**Q) as capture:
            capture.streaming()
            db.execute("INSERT INTO book VALUES (2, NULL, 5)")
            come(lab, "book", 2 if how == "altered" else 1)
            assert not any('"table_held"' in line for line in capture.lines)
            capture.stop()
    assert [(e.op, e.row["id"]) for e in lab.events() if e.table == "book"][-1] == ("c", 2)


class Log:
    """A stream's end that is fed by hand: `book` of oid 7 was read as of 500."""

    def __init__(self) -> None:
        self.records = Records()
        self.held: list[str] = []
        book = Dataset("civil.book", "civil", "book", BOOK, ("id",), (Role("subject", "pin", {}),), False)
        progress = Progress(7, 1, None, 50, 3, {"book": (Segment(("5",), 500), Segment(None, 600))}, oids={"book": 7})
        self.session: Any = SimpleNamespace(
            db=None,
            progress=progress,
            misfits={},
            earlier={"book": ()},
            bindings={"book": columns.bind(book)},
            targets={"book": Target(book, b"", 7, "public")},
            events=self.records.events,
            log=SimpleNamespace(warning=lambda _, **said: self.held.append(said["dataset"])),
        )
        self._stream = Stream(cast(Session, self.session))

    def row(self, lsn: int, oid: int, described: bool) -> int:
        """An insert into what the log calls `book`, and describes as a column `number`; how many ordinals it takes."""
        self.records.events.transaction(lsn, lsn, 0, 0, None)
        number = oid.to_bytes(4, "big")
        if described:
            column = b"\0number\0" + (23).to_bytes(4, "big") + bytes(4)
            self._stream._control(RELATION, bytes(HEADER) + b"R" + number + b"public\0book\0f\0\1" + column)
        self._stream._insert(bytes(HEADER) + b"I" + number + b"N" + tuple_bytes([b"1"]))
        return self.records.events.ordinal


@pytest.mark.parametrize("oid", [6, pytest.param(7, id="altered")])
def test_what_a_table_was_before_it_was_read_holds_it_not(oid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another table of its name, or itself in a shape that nobody reads any more: its snapshot has what there is. From the
    snapshot on such a row holds it, though the log described it before."""
    monkeypatch.setattr(source, "base_type", lambda *_: None)
    monkeypatch.setattr(source, "check_tables", lambda *_: ({}, {"book": "no such column"}))
    log = Log()
    assert log.row(499, oid, True) == 0
    assert (log.held, log.session.progress.held) == ([], {})
    log.row(500, oid, False)
    assert (log.held, [*log.session.progress.held]) == (["civil.book"], ["book"])


def test_forgetting_asks_for_what_it_needs() -> None:
    command = [sys.executable, "-m", "connectors.capture.forget"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "forget DOMAIN [TABLE …]" in done.stderr


@SEVERAL
def test_a_table_is_not_forgotten_in_the_midst_of_a_transaction_of_others(lab: Lab) -> None:
    """Its rows take no ordinals any more when the transaction is read again: those of the others would be taken for published."""
    with lab.connect() as db:
        first(lab, db, "author")
        with db.transaction():
            for number in range(2, 7):
                add(db, "book", number)
                add(db, "author", number)
        for _ in range(3):  # a first commit may only say that a heartbeat of before has come
            if len(lab.events()) == 1:
                with lab.capture(batch_events=3, dies_at=f"{Point.CAPTURE_COMMITTED.value}:1", **Q) as capture:
                    capture.dead()
        assert [(e.table, e.row["id"]) for e in lab.events()] == [("author", 1), ("book", 2), ("author", 2), ("book", 3)]
        with pytest.raises(Refusal, match="in the midst of a transaction"):
            forget.forget(lab.settings, lab.domain, "book")
        with lab.capture(batch_events=3, **Q) as capture:
            capture.streaming()
            lab.wait_for_events(11)
            wait(lambda: lab.positions()[-1]["streamed"]["whole"])
            capture.stop()
        forget.forget(lab.settings, lab.domain, "book")
        with lab.capture(**Q) as capture:
            capture.streaming()
            events = lab.wait_for_events(16)
            capture.stop()
    assert [e.row["id"] for e in events if e.table == "author"] == [1, 2, 3, 4, 5, 6]
    assert [e.op for e in events if e.table == "book"] == [*"cccccrrrrr"]


@SEVERAL
def test_that_a_transaction_has_ended_is_on_record_while_a_table_is_held(lab: Lab) -> None:
    """Though no event came after its last commit: otherwise the held table could never be forgotten."""
    with lab.connect() as db, lab.capture(batch_events=3, **Q) as capture:
        capture.streaming()
        db.execute(WIDEN)
        add(db, "book", 1)
        capture.until("table_held")
        with db.transaction():
            add(db, "author", 1, 2, 3)
            add(db, "book", 2)
        lab.wait_for_events(3)
        wait(lambda: lab.positions()[-1]["streamed"]["whole"])
        capture.stop()
    forget.forget(lab.settings, lab.domain, "book")


READ = (Segment(None, 10),)


def test_a_table_is_not_forgotten_while_events_wait_that_are_numbered_among_its_own() -> None:
    """Of the others that are held. Forgotten together, or when they have been published, there is nothing that could be lost."""
    known = Progress(1, 1, Streamed(30, 5, 4), 20, 0, dict.fromkeys(("author", "book", "shelf"), READ), whole=True)
    known = known.hold("book", (31, 0), 31).hold("shelf", (32, 0), 32)
    with pytest.raises(Refusal, match=r"held in civil, too: book, shelf\..*forget civil author book shelf"):
        forget.without(known, "civil", ["author"])
    with pytest.raises(Refusal, match=r"held in civil, too: shelf\..*forget civil book shelf"):
        forget.without(known, "civil", ["book"])
    both = forget.without(known, "civil", ["book", "shelf"])
    assert (both.tables, both.held) == ({"author": READ}, {})
    assert forget.without(known.release(["shelf"]), "civil", ["book"]).tables == {"author": READ, "shelf": READ}


@pytest.mark.parametrize(
    ("streamed", "whole", "confirmed", "may"),
    [(None, False, 20, True), (30, True, 20, True), (30, False, 20, False), (30, False, 30, False), (30, False, 31, True)],
)
def test_a_table_is_forgotten_between_two_transactions_only(streamed: int | None, whole: bool, confirmed: int, may: bool) -> None:
    """A record of a capture that did not write `whole` yet tells it by what the slot was told."""
    at = Streamed(streamed, 5, 4) if streamed else None
    known = Progress(1, 1, at, confirmed, 0, dict.fromkeys(("author", "book"), READ), whole=whole)
    if may:
        assert forget.without(known, "civil", ["book"]).tables == {"author": READ}
    else:
        with pytest.raises(Refusal, match="in the midst of a transaction"):
            forget.without(known, "civil", ["book"])


def test_a_table_whose_schema_was_removed_is_left_under_the_same_two_conditions() -> None:
    known = Progress(1, 1, Streamed(30, 5, 4), 20, 0, dict.fromkeys(("author", "book"), READ), whole=True)
    assert progress.still_captured(known, "civil", ["author"]).tables == {"author": READ}
    assert progress.still_captured(known.hold("book", (31, 0), 31), "civil", ["author"]).held == {}
    with pytest.raises(Refusal, match=r"no schema any more of book.*author held.*put the file back"):
        progress.still_captured(known.hold("author", (31, 0), 31), "civil", ["author"])
    half = replace(known, whole=False)
    with pytest.raises(Refusal, match=r"no schema any more of book.*published in part"):
        progress.still_captured(half, "civil", ["author"])
    assert progress.still_captured(half, "civil", ["author", "book"]) == half
