"""A table that is altered so that its schema does not fit stops alone; once the schema is released, nothing of it is missing."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import psycopg
import pytest

from bus.core.failpoint import Point
from connectors.capture import progress
from connectors.capture.progress import BEHIND_THE_LAST_ROW, Held, Progress, Segment, Streamed
from tests.capture.conftest import MakeLab
from tests.capture.lab import Event, Lab, field, schema, wait
from tests.slower import SEVERAL

SQL = """
CREATE TABLE book (id integer PRIMARY KEY, pin varchar(12), title text NOT NULL);
CREATE TABLE author (id integer PRIMARY KEY, pin varchar(12), name text NOT NULL);
"""
BOOK = schema("book", ["id"], [field("id", "int"), field("pin", ["null", "string"]), field("title", "string")])
AUTHOR = schema("author", ["id"], [field("id", "int"), field("pin", ["null", "string"]), field("name", "string")])
RELEASED = schema("book", ["id"], [field("id", "long"), field("pin", ["null", "string"]), field("title", "string")])
"""What the table is after WIDEN."""
WIDEN = "ALTER TABLE book ALTER id TYPE bigint"
Q: dict[str, Any] = {"heartbeat_seconds": 0.2}


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab(SQL, BOOK, AUTHOR)


class Life:
    """Transactions that change both tables, from a seed; PINs and primary keys among what changes."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab, self._random, self._next = lab, random.Random(seed), 0
        self._ids: dict[str, list[int]] = {"book": [], "author": []}

    def transactions(self, count: int, alter: str = "") -> None:
        """`alter` is carried out in the midst of the first one."""
        with self._lab.connect() as db:
            for _ in range(count):
                with db.transaction():
                    for step in range(self._random.randint(1, 6)):
                        self._change(db, self._random.choice(("book", "author")))
                        if alter and step == 0:
                            db.execute(alter.encode())
                            alter = ""

    def _change(self, db: psycopg.Connection[Any], table: str) -> None:
        ids, column = self._ids[table], "title" if table == "book" else "name"
        kind = self._random.random()
        if kind < 0.4 or not ids:
            self._next += 1
            ids.append(self._next)
            db.execute(f"INSERT INTO {table} VALUES (%s, %s, 'x')", (self._next, self._pin()))
        elif kind < 0.6:
            db.execute(f"UPDATE {table} SET {column} = {column} || 'y' WHERE id = %s", (self._random.choice(ids),))
        elif kind < 0.7:
            db.execute(f"UPDATE {table} SET pin = %s WHERE id = %s", (self._pin(), self._random.choice(ids)))
        elif kind < 0.8:
            self._next += 1
            place = self._random.randrange(len(ids))
            db.execute(f"UPDATE {table} SET id = %s WHERE id = %s", (self._next, ids[place]))
            ids[place] = self._next
        else:
            db.execute(f"DELETE FROM {table} WHERE id = %s", (ids.pop(self._random.randrange(len(ids))),))

    def _pin(self) -> str:
        return f"{self._random.randrange(10**12):012}"


def rows(lab: Lab, table: str) -> dict[int, dict[str, Any]]:
    with lab.connect() as db:
        db.row_factory = psycopg.rows.dict_row
        return {row["id"]: row for row in db.execute(f"SELECT * FROM {table}")}


def whole(events: list[Event], table: str) -> dict[int, dict[str, Any]] | str:
    """The table as its events tell it, in order, or what is wrong with them."""
    found: dict[int, dict[str, Any]] = {}
    for e in events:
        if e.table != table:
            continue
        if e.before is not None and found.pop(e.before["id"], None) != e.before:
            return f"{e.op} at {e.place}: not the row that was there"
        if e.after is not None:
            if e.after["id"] in found:
                return f"{e.op} at {e.place}: the row is there already"
            found[e.after["id"]] = e.after
    return found


def comes_to_rest(lab: Lab, tables: tuple[str, ...] = ("book", "author")) -> list[Event]:
    """Every table is as its events say; no event stands twice, no place was given twice."""
    wanted = {table: rows(lab, table) for table in tables}
    events: list[Event] = []

    def there() -> bool:
        events[:] = lab.events()
        return all(whole(events, table) == wanted[table] for table in tables)

    try:
        wait(there, pause=0.3)
    except AssertionError:
        pytest.fail(f"{[(t, whole(events, t), wanted[t]) for t in tables]}")
    for what in (Counter(e.id for e in events), Counter(e.place for e in events)):
        assert what.most_common(1)[0][1] == 1
    in_topic = sorted((e.table, e.partition, e.offset, e.place) for e in events)
    for one, other in itertools.pairwise(in_topic):
        assert one[:2] != other[:2] or one[3] < other[3], "out of order in a lane"
    return events


def released(lab: Lab) -> None:
    lab.change_schema(RELEASED)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=SEVERAL) for seed in range(1, 6))])
def test_a_held_table_stops_alone_and_is_whole_after_the_schema_is_released(lab: Lab, seed: int) -> None:
    """Altered in the midst of a transaction that changes both tables, with small batches; changes go on before and after."""
    life = Life(lab, seed)
    with lab.capture(batch_events=3, **Q) as capture:
        capture.streaming()
        life.transactions(5)
        comes_to_rest(lab)
        life.transactions(10, alter=WIDEN)
        told = capture.until("table_held")
        assert told["dataset"].endswith(".book")
        assert "column id" in told["reason"]
        comes_to_rest(lab, ("author",))
        capture.stop()
    confirmed = lab.positions()[-1]["confirmed"]
    with lab.capture(batch_events=3, **Q) as capture:  # a restart changes nothing
        capture.streaming()
        life.transactions(5)
        comes_to_rest(lab, ("author",))
        capture.stop()
    assert lab.positions()[-1]["confirmed"] == confirmed, "the log of the held table's changes must be kept"
    released(lab)
    with lab.capture(batch_events=3, **Q) as capture:
        capture.streaming()
        life.transactions(5)
        capture.until("table_resumed")
        comes_to_rest(lab)
        wait(lambda: "held" not in lab.positions()[-1] and lab.positions()[-1]["confirmed"] > confirmed)
        capture.stop()


@pytest.mark.parametrize(
    "point",
    [
        Point.AFTER_POSITION,
        *(
            pytest.param(point, marks=SEVERAL)
            for point in (Point.STREAM_STARTED, Point.TRANSACTION_BEGUN, Point.BEFORE_POSITION, Point.CAPTURE_COMMITTED)
        ),
    ],
)
def test_a_capture_that_dies_while_a_table_catches_up_loses_and_repeats_nothing(lab: Lab, point: Point) -> None:
    life = Life(lab, 7)
    with lab.capture(batch_events=3, **Q) as capture:
        capture.streaming()
        life.transactions(12, alter=WIDEN)
        capture.until("table_held")
        comes_to_rest(lab, ("author",))
        capture.kill()
    released(lab)
    for count in (1, 1 if point is Point.STREAM_STARTED else 3):
        with lab.capture(batch_events=3, dies_at=f"{point.value}:{count}", **Q) as capture:
            capture.dead()
    with lab.capture(batch_events=3, **Q) as capture:
        capture.streaming()
        life.transactions(3)
        capture.until("table_resumed")
        comes_to_rest(lab)
        capture.stop()


def test_a_compatible_change_goes_on_without_a_restart_and_the_new_column_does_not_flow(lab: Lab) -> None:
    with lab.connect() as db, lab.capture(**Q) as capture:
        capture.streaming()
        db.execute("INSERT INTO book VALUES (1, NULL, 'x')")
        lab.wait_for_events(1)
        db.execute("ALTER TABLE book ADD COLUMN secret text DEFAULT 'CANARY'")
        db.execute("INSERT INTO book VALUES (2, NULL, 'y')")
        assert capture.until("columns_ignored")["columns"] == ["secret"]
        assert [e.row for e in lab.wait_for_events(2)][-1] == {"id": 2, "pin": None, "title": "y"}
        capture.stop()
    assert "CANARY" not in "".join(capture.lines)


def test_a_table_that_fits_again_by_itself_is_read_on_without_a_restart(lab: Lab) -> None:
    """What no row message shows: the heartbeat finds it, and finds it mended."""
    with lab.connect() as db, lab.capture(**Q) as capture:
        capture.streaming()
        db.execute("INSERT INTO book VALUES (1, NULL, 'x')")
        lab.wait_for_events(1)
        db.execute("ALTER TABLE book ALTER title DROP NOT NULL")
        capture.until("table_held")
        db.execute("INSERT INTO book VALUES (2, NULL, 'y')")
        db.execute("INSERT INTO author VALUES (1, NULL, 'z')")
        assert [e.table for e in lab.wait_for_events(2)] == ["book", "author"]
        db.execute("ALTER TABLE book ALTER title SET NOT NULL")
        capture.until("table_resumed")
        comes_to_rest(lab)
        capture.stop()


def test_a_table_that_does_not_fit_before_its_snapshot_is_read_when_it_does(lab: Lab) -> None:
    with lab.connect() as db:
        db.execute("INSERT INTO book VALUES (1, NULL, 'x')")
        db.execute("INSERT INTO author VALUES (1, NULL, 'z')")
        db.execute(WIDEN)
        with lab.capture(**Q) as capture:
            capture.until("table_held")
            db.execute("INSERT INTO author VALUES (2, NULL, 'z')")
            db.execute("INSERT INTO book VALUES (2, NULL, 'y')")
            assert [(e.table, e.op) for e in lab.wait_for_events(2)] == [("author", "r"), ("author", "c")]
            db.execute("ALTER TABLE book ALTER id TYPE integer")
            assert Counter((e.table, e.op) for e in lab.wait_for_events(4))["book", "r"] == 2
            db.execute("INSERT INTO book VALUES (3, NULL, 'y')")
            assert lab.wait_for_events(5)[-1].op == "c"
            comes_to_rest(lab)
            capture.stop()


def test_a_position_with_held_tables_is_not_for_an_older_capture() -> None:
    secret = bytes(32)
    tables = {"book": (Segment(None, 5),)}
    one = Progress(1, 1, Streamed(9, 2, 3), 4, 0, tables)
    held = one.hold("book", (8, 1), 7)
    assert held.held == {"book": Held((9, 4), BEHIND_THE_LAST_ROW, (9, 4))}, "what is published is not owed"
    for made, number in ((one, b'"format":1'), (held, b'"format":2')):
        text = progress.to_json(made, secret, bytes)
        assert number in text
        assert progress.from_json(text, secret) == made


def test_segments_are_kept_until_the_changes_of_a_held_table_have_been_read() -> None:
    """Of all tables: those read again for its sake have rows that counted, and rows that did not."""
    found = {"book": (Segment(("5",), 10), Segment(None, 20)), "author": (Segment(("5",), 10), Segment(None, 20))}
    made = Progress(1, 1, Streamed(12, 1, 0), 9, 0, found).hold("book", (12, 1), 11)
    later = Progress(1, 1, Streamed(30, 1, 0), 9, 0, found, made.held).settled()
    assert later.tables == found
    assert later.release(["book"]).settled().tables == dict.fromkeys(found, (Segment(None, 20),))
