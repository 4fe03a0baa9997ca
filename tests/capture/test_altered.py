"""Tables that are altered, renamed, dropped or made anew: each event is published once, under one id, or waits and says why."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from bus.avro.dataset import Dataset
from bus.core.failpoint import Point
from connectors.capture import columns
from tests.capture.conftest import MakeLab
from tests.capture.lab import Event, Lab, field, schema, wait
from tests.capture.test_holding import AUTHOR, BOOK, RELEASED, SQL, WIDEN, Life, Q, comes_to_rest, lab, released
from tests.slower import SEVERAL

__all__ = ["lab"]
WIDER_AUTHOR = schema("author", ["id"], [field("id", "long"), field("pin", ["null", "string"]), field("name", "string")])
WIDEN_AUTHOR = "ALTER TABLE author ALTER id TYPE bigint"
COUNTED = schema("book", ["id"], [field("id", "int"), field("pin", ["null", "string"]), field("title", "int")])
"""What the table is after COUNT: nothing reads its titles of before as numbers."""
COUNT = "ALTER TABLE book ALTER title TYPE integer USING length(title)"
RENAMED = schema(
    "book",
    ["number"],
    [
        field("number", "int", aliases=["id"]),
        field("person", ["null", "string"], aliases=["pin"]),
        field("name", "string", aliases=["title"]),
    ],
    pin="person",
)
RENAME = "ALTER TABLE book RENAME id TO number; ALTER TABLE book RENAME pin TO person; ALTER TABLE book RENAME title TO name"
SHELVES = SQL + "CREATE TABLE shelf (id integer PRIMARY KEY, pin varchar(12), name text NOT NULL);"
SHELF = schema("shelf", ["id"], [field("id", "int"), field("pin", ["null", "string"]), field("name", "string")])


def add(db: psycopg.Connection[Any], table: str, *ids: int) -> None:
    for number in ids:
        db.execute(f"INSERT INTO {table} VALUES (%s, NULL, 'x')", (number,))


def first(lab: Lab, db: psycopg.Connection[Any], table: str) -> Event:
    """One life of capture, in which the first row of the table is published."""
    with lab.capture(**Q) as capture:
        capture.streaming()
        add(db, table, 1)
        (event,) = lab.wait_for_events(1)
        capture.stop()
    return event


def made_anew(db: psycopg.Connection[Any]) -> None:
    """Another table of the same name and shape."""
    db.execute("DROP TABLE book")
    db.execute(SQL.split(";")[0])
    db.execute("ALTER TABLE book REPLICA IDENTITY FULL; ALTER PUBLICATION bus ADD TABLE book")


def come(lab: Lab, table: str, count: int) -> None:
    wait(lambda: len([e for e in lab.events() if e.table == table]) == count, pause=0.2)


def test_what_was_not_read_yet_when_a_table_was_altered_is_published_as_what_it_was(lab: Lab) -> None:
    """Capture is down meanwhile. Rows from before wait for nothing, before the release and after it; those behind it do."""
    with lab.connect() as db:
        first(lab, db, "book")
        add(db, "book", 2)
        db.execute(WIDEN)
        add(db, "book", 3)
        with lab.capture(**Q) as capture:
            capture.until("table_held")
            add(db, "author", 1)
            assert [(e.table, e.row["id"]) for e in lab.wait_for_events(3)] == [("book", 1), ("book", 2), ("author", 1)]
            capture.stop()
        released(lab)
        with lab.capture(**Q) as capture:
            capture.streaming()
            add(db, "book", 4)
            events = comes_to_rest(lab)
            capture.stop()
    ids = {e.row["id"]: e.schema_id for e in events if e.table == "book"}
    assert ids[1] == ids[2] != ids[3] == ids[4], "each under the schema of its time"


@SEVERAL
def test_what_was_not_read_before_the_release_is_published_under_the_schema_before_it(lab: Lab) -> None:
    """Altered and released while capture is down: the log begins in the old shape."""
    with lab.connect() as db:
        first(lab, db, "book")
        add(db, "book", 2)
        db.execute("UPDATE book SET title = 'y' WHERE id = 1")
        db.execute(WIDEN)
        add(db, "book", 3)
        released(lab)
        with lab.capture(**Q) as capture:
            capture.streaming()
            events = comes_to_rest(lab)
            assert not any('"table_held"' in line for line in capture.lines)
            capture.stop()
    assert len({e.schema_id for e in events[:3]}) == 1
    assert events[3].schema_id != events[0].schema_id


def test_what_was_not_read_before_columns_were_renamed_is_published_by_their_names_of_before(lab: Lab) -> None:
    """Renamed and released while capture is down: neither a value nor the place of a row is lost, may it be null or not."""
    with lab.connect() as db:
        old = first(lab, db, "book")
        db.execute("INSERT INTO book VALUES (2, '012345678901', 'x')")
        db.execute(RENAME)
        db.execute("INSERT INTO book VALUES (3, '012345678901', 'x')")
        lab.change_schema(RENAMED)
        with lab.capture(**Q) as capture:
            capture.streaming()
            _, before, after = lab.wait_for_events(3)
            assert not any('"table_held"' in line for line in capture.lines)
            capture.stop()
    assert (before.schema_id, before.row) == (old.schema_id, {"id": 2, "pin": "012345678901", "title": "x"})
    assert after.row == {"number": 3, "person": "012345678901", "name": "x"}
    assert before.key == after.key


def test_a_schema_reads_a_field_by_its_alias_only_where_nothing_else_has_that_name() -> None:
    def bound(*fields: dict[str, Any]) -> columns.Binding:
        row = schema("book", ["id"], [field("id", "int"), *fields])
        return columns.bind(Dataset("civil.book", "civil", "book", row, ("id",), (), False))

    before = bound(field("a", "string"))
    assert columns.reads(bound(field("b", "string", aliases=["x", "a"])), before)
    assert not columns.reads(bound(field("b", "string")), before)
    assert not columns.reads(bound(field("b", "int", aliases=["a"])), before)
    assert not columns.reads(bound(field("b", ["null", "int"], aliases=["a"])), before), "it is not a new one"
    assert not columns.reads(bound(field("b", "string", aliases=["a"]), field("a", "string")), before)


@pytest.mark.parametrize("both", [pytest.param(True, marks=SEVERAL), False])
def test_two_tables_that_were_altered_keep_their_event_ids(make_lab: MakeLab, both: bool) -> None:
    """The second one's rows from before its alteration are read again for the first one's sake, in the same transactions: they
    count as they did, be the second one released as well or not."""
    lab = make_lab(SHELVES, BOOK, AUTHOR, SHELF)
    with lab.connect() as db:
        with lab.capture(**Q) as capture:
            capture.streaming()
            add(db, "author", 1)
            lab.wait_for_events(1)
            db.execute(WIDEN)
            add(db, "book", 1)
            capture.until("table_held")
            with db.transaction():
                db.execute("UPDATE author SET name = 'y' WHERE id = 1")
                add(db, "book", 2)
                db.execute("UPDATE author SET name = 'z' WHERE id = 1")
                add(db, "book", 3)
            lab.wait_for_events(3)
            db.execute(WIDEN_AUTHOR)
            add(db, "author", 2)
            capture.until("table_held")
            add(db, "shelf", 1)
            before = {e.place: e.id for e in lab.wait_for_events(4)}
            capture.stop()
        released(lab)
        if both:
            lab.change_schema(WIDER_AUTHOR)
        with lab.capture(**Q) as capture:
            capture.streaming()
            add(db, "book", 4)
            add(db, "shelf", 2)
            capture.until("table_resumed")
            events = comes_to_rest(lab, ("book", "author", "shelf") if both else ("book", "shelf"))
            capture.stop()
    assert before.items() <= {e.place: e.id for e in events}.items()


@SEVERAL
@pytest.mark.parametrize("seed", range(1, 12))
def test_whatever_is_altered_and_released_when_nothing_is_missing_twice_or_out_of_order(make_lab: MakeLab, seed: int) -> None:
    """Two tables are altered, each at some point of a life, and released at some other; capture is stopped or killed between, at
    once or after it has read everything up to then."""
    lab = make_lab(SHELVES, BOOK, AUTHOR, SHELF)
    chance, life = random.Random(seed), Life(lab, seed)
    due: list[tuple[str, Callable[[], None]]] = [
        (WIDEN, lambda: lab.change_schema(RELEASED)),
        (WIDEN_AUTHOR, lambda: lab.change_schema(WIDER_AUTHOR)),
    ]
    chance.shuffle(due)
    acts: list[Callable[[], None]] = []
    for alter, release in due:
        at = chance.randrange(len(acts) + 1)
        acts.insert(at, lambda alter=alter: life.transactions(chance.randint(1, 4), alter=alter))  # type: ignore[misc]  # mypy takes the default for an argument
        acts.insert(chance.randrange(at + 1, len(acts) + 1), release)
    life.transactions(2)
    marks = 0
    for act in acts:
        act()
        if chance.random() < 0.7:
            with lab.capture(batch_events=3, **Q) as capture:
                capture.streaming()
                life.transactions(chance.randint(0, 3))
                if chance.random() < 0.6:
                    marks += 1
                    with lab.connect() as db:
                        add(db, "shelf", marks)
                    come(lab, "shelf", marks)
                (capture.stop if chance.random() < 0.5 else capture.kill)()
    with lab.capture(batch_events=3, **Q) as capture:
        capture.streaming()
        life.transactions(2)
        comes_to_rest(lab, ("book", "author", "shelf"))
        wait(lambda: "held" not in lab.positions()[-1])
        capture.stop()


def test_rows_that_no_schema_of_today_reads_wait_and_count_as_they_did(lab: Lab) -> None:
    """A text becomes a number. What was published before keeps its place; what was not, nobody could read: it waits, says why,
    and the other table goes on."""
    with lab.connect() as db:
        with lab.capture(**Q) as capture:
            capture.streaming()
            db.execute(WIDEN_AUTHOR)
            add(db, "author", 1)  # holds the slot here
            capture.until("table_held")
            with db.transaction():
                add(db, "book", 1)
                add(db, "author", 2)
                add(db, "book", 2)
            come(lab, "book", 2)
            capture.stop()
        add(db, "book", 3)
        db.execute(COUNT)
        db.execute("INSERT INTO book VALUES (4, NULL, 5)")
        lab.change_schema(COUNTED)
        lab.change_schema(WIDER_AUTHOR)
        with lab.capture(**Q) as capture:
            told = capture.until("table_held")
            add(db, "author", 3)
            come(lab, "author", 3)
            capture.stop()
    assert "column title" in told["reason"]
    events = lab.events()
    assert [e.row["id"] for e in events if e.table == "book"] == [1, 2]
    assert len({e.id for e in events}) == len({e.place for e in events}) == len(events) == 5


def test_a_table_that_is_dropped_or_renamed_stops_nobody_else(lab: Lab) -> None:
    """What was not read yet when it went is published; renamed, it is still the same table."""
    with lab.connect() as db, lab.capture(**Q) as capture:
        capture.streaming()
        add(db, "book", 1)
        lab.wait_for_events(1)
        db.execute("ALTER TABLE book RENAME TO volume")
        assert "there is no table public.book" in capture.until("table_held")["reason"]
        add(db, "volume", 2)
        add(db, "author", 1)
        assert {e.row["id"] for e in lab.wait_for_events(3) if e.table == "book"} == {1, 2}
        capture.kill()
        add(db, "volume", 3)
        db.execute("DROP TABLE volume")
        with lab.capture(**Q) as later:
            assert "there is no table public.book" in later.until("table_held")["reason"]
            add(db, "author", 2)
            assert {e.row["id"] for e in lab.wait_for_events(5) if e.table == "book"} == {1, 2, 3}
            wait(lambda: later.child.poll() is None and "held" not in lab.positions()[-1])
            later.stop()


def test_a_table_that_was_made_anew_before_it_was_read_is_read_as_it_is(lab: Lab) -> None:
    """Capture only knew that there was one. Nothing has to be forgotten."""
    with lab.capture(dies_at=f"{Point.SNAPSHOT_EXPORTED.value}:1", **Q) as capture:
        capture.dead()
    assert lab.positions()[-1]["tables"] == {}
    with lab.connect() as db:
        made_anew(db)
        add(db, "book", 1)
        with lab.capture(**Q) as capture:
            capture.streaming()
            assert not any('"table_held"' in line for line in capture.lines)
            add(db, "book", 2)
            assert [(e.op, e.row["id"]) for e in lab.wait_for_events(2)] == [("r", 1), ("c", 2)]
            capture.stop()
