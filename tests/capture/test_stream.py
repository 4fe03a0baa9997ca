"""Laws of the stream: what is committed comes, in order, once; what is not never does; what Avro cannot say is a dead letter."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections import Counter
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from bus import platform
from bus.config import Settings
from bus.core.position import Position, event_id
from bus.platform import broker, database, processes
from tests.capture.conftest import MakeLab
from tests.capture.lab import Lab, field, schema, wait

SQL = """
CREATE TABLE book (id integer PRIMARY KEY, pin varchar(12), title text, day date, extra text, big text, n integer);
ALTER TABLE book ALTER big SET STORAGE EXTERNAL;
CREATE TABLE shelf (code varchar(9) PRIMARY KEY, place text);
"""
BOOK = schema(
    "book",
    ["id"],
    [
        field("id", "int"),
        field("pin", ["null", "string"]),
        field("title", ["null", "string"]),
        field("day", ["null", {"type": "int", "logicalType": "date"}]),
        field("big", ["null", "string"]),
        field("n", ["null", "int"]),
    ],
)
SHELF = schema("shelf", ["code"], [field("code", "string"), field("place", ["null", "string"])], pin=None)
PIN, OTHER = "001199000001", "001199000002"


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    return make_lab(SQL, BOOK, SHELF)


def ops(lab: Lab, count: int) -> list[tuple[str, str, int]]:
    return [(e.op, e.table, e.source["ordinal"]) for e in lab.wait_for_events(count)]


def confirmed(lab: Lab, db: psycopg.Connection[Any], lsn: str) -> bool:
    query = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    return db.execute(query, (lsn, f"bus_{lab.domain}")).fetchone() == (True,)


def now(db: psycopg.Connection[Any]) -> str:
    row = db.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row
    return str(row[0])


def test_only_committed_transactions_come_each_with_ordinals_from_zero(lab: Lab) -> None:
    with lab.capture() as capture, lab.connect() as db:
        capture.streaming()
        with db.transaction(), db.transaction(force_rollback=True):
            db.execute("INSERT INTO book (id, pin) VALUES (1, %s)", (PIN,))
        with db.transaction(force_rollback=True):
            db.execute("INSERT INTO book (id, pin) VALUES (2, %s)", (PIN,))
        with db.transaction():
            db.execute("INSERT INTO book (id, pin) VALUES (3, %s), (4, NULL)", (PIN,))
            db.execute("INSERT INTO shelf VALUES ('a', 'x')")
            with db.transaction(force_rollback=True):
                db.execute("DELETE FROM book")
            db.execute("UPDATE book SET title = 'x' WHERE id = 4")
        db.execute("DELETE FROM book WHERE id = 3")
        found = lab.wait_for_events(5)
    assert [(e.op, e.table, e.source["ordinal"]) for e in found] == [
        ("c", "book", 0), ("c", "book", 1), ("c", "shelf", 2), ("u", "book", 3), ("d", "book", 0),
    ]  # fmt: skip
    assert found[3].before == {**found[1].row, "title": None}
    assert found[3].after == {**found[1].row, "title": "x"}
    assert found[4].after is None
    for e in found:
        place = Position(e.source["system_id"], *e.place)
        assert e.id == event_id(lab.domain, place)
        assert abs(e.source["ts_ms"] / 1000 - time.time()) < 300


def test_a_change_of_pin_or_primary_key_is_a_delete_then_a_create(lab: Lab) -> None:
    with lab.capture() as capture, lab.connect() as db:
        capture.streaming()
        db.execute("INSERT INTO book (id, pin) VALUES (1, %s), (2, NULL)", (PIN,))
        db.execute("UPDATE book SET pin = %s WHERE id = 1", (OTHER,))
        db.execute("UPDATE book SET id = 3 WHERE id = 2")
        db.execute("UPDATE book SET id = 4 WHERE id = 1")
        found = lab.wait_for_events(8)
    assert [e.op for e in found] == ["c", "c", "d", "c", "d", "c", "d", "c"]
    assert [e.source["ordinal"] for e in found] == [0, 1, *[0, 1] * 3]
    assert [e.key for e in found[2:4]] == [found[0].key, found[6].key]
    assert found[4].key == found[1].key
    assert found[6].key == found[7].key, "the person is the same, so is the lane"
    assert len({e.key for e in found}) == 4


def test_whoever_knows_rows_by_their_key_only_has_the_table(lab: Lab) -> None:
    """After any updates of primary keys none is left that has no row; with PIN and without, of one row and of many."""
    with lab.capture() as capture, lab.connect() as db:
        capture.streaming()
        db.execute("INSERT INTO book (id, pin) SELECT i, CASE WHEN i %% 3 > 0 THEN %s END FROM generate_series(1, 9) i", (PIN,))
        db.execute("INSERT INTO shelf VALUES ('a', 'x'), ('b', 'y')")
        db.execute("UPDATE book SET id = id + 100, title = 'moved'")
        with db.transaction():
            db.execute("UPDATE book SET id = id + 100, pin = %s WHERE id < 104", (OTHER,))
            db.execute("UPDATE book SET id = 102 WHERE id = 104")
            db.execute("UPDATE shelf SET code = 'c' WHERE code = 'a'")
            db.execute("DELETE FROM book WHERE id = 102")
        found = lab.wait_for_events(11 + 18 + 6 + 2 + 2 + 1)
        table = {("book", i): (pin, title) for i, pin, title in db.execute("SELECT id, pin, title FROM book").fetchall()}
        table |= {("shelf", code): place for code, place in db.execute("SELECT * FROM shelf").fetchall()}
    known: dict[tuple[str, Any], Any] = {}
    for e in found:
        at = e.table, e.row["id" if e.table == "book" else "code"]
        if e.op == "d":
            del known[at]
        else:
            assert (e.op == "c") == (at not in known)
            known[at] = (e.row["pin"], e.row["title"]) if e.table == "book" else e.row["place"]
    assert known == table


def test_unchanged_large_values_are_values_not_placeholders(lab: Lab) -> None:
    big = "".join(chr(65 + i % 26) for i in range(50_000))
    with lab.capture() as capture, lab.connect() as db:
        capture.streaming()
        db.execute("INSERT INTO book (id, big) VALUES (1, %s)", (big,))
        db.execute("UPDATE book SET title = 'x'")
        db.execute("UPDATE book SET big = NULL")
        found = lab.wait_for_events(3)
    assert [(e.row["title"], e.row["big"]) for e in found] == [(None, big), ("x", big), ("x", None)]
    assert found[2].before == found[1].after


@pytest.mark.parametrize("kill", [False, True])
def test_a_transaction_of_20_000_rows_over_many_batches(lab: Lab, kill: bool) -> None:
    """Killed in the middle, the rest follows from exactly there."""
    with lab.capture(batch_events=700) as capture, lab.connect() as db:
        capture.streaming()
        db.execute("INSERT INTO book (id, pin, n) SELECT i, lpad((i % 500)::text, 12, '0'), i FROM generate_series(1, 20000) i")
        if kill:
            wait(lambda: bool(lab.positions()[-1]["streamed"]), pause=0.01)
            capture.kill()
            assert lab.positions()[-1]["streamed"]["ordinal"] < 19_999, "it was over before the kill"
        else:
            found = lab.wait_for_events(20_000)
    if kill:
        with lab.capture(batch_events=700):
            found = lab.wait_for_events(20_000)
    assert [e.source["ordinal"] for e in found] == list(range(20_000))
    assert {e.row["n"] for e in found} == set(range(1, 20_001))
    assert len({e.place[:2] for e in found}) == 1


def test_truncate_and_what_avro_cannot_say_are_dead_letters(lab: Lab) -> None:
    with lab.connect() as db:
        db.execute("INSERT INTO book (id, pin, day) VALUES (1, %s, 'infinity'), (2, %s, '2020-01-01')", (PIN, PIN))
        with lab.capture() as capture:
            capture.streaming()
            db.execute("INSERT INTO book (id, pin, day, title) VALUES (3, %s, '0044-03-15 BC', 'secret')", (PIN,))
            with db.transaction():
                db.execute("INSERT INTO shelf VALUES ('a', 'x')")
                db.execute("TRUNCATE book, shelf")
                db.execute("INSERT INTO shelf VALUES ('b', 'y')")
            found = lab.wait_for_events(3)
            wait(lambda: len(lab.dead("book")) == 3)
    assert [(e.op, e.row.get("code") or e.row.get("id")) for e in found] == [("r", 2), ("c", "a"), ("c", "b")]
    books, shelves = lab.dead("book"), lab.dead("shelf")
    assert [d.headers["x-dead-code"] for d in books] == [b"UNCONVERTIBLE", b"UNCONVERTIBLE", b"TRUNCATE"]
    assert b"infinity" in books[0].value
    assert b"0044-03-15 BC" in books[1].value
    assert [d.headers["x-dead-code"] for d in shelves] == [b"TRUNCATE"]
    assert {found[1].source["ordinal"], found[2].source["ordinal"]} == {0, 3}, "dead letters take ordinals too"
    told = "".join(capture.lines)
    assert PIN not in told
    assert "secret" not in told
    for letter in books + shelves:
        assert letter.headers["x-original-topic"].startswith(f"change.{lab.domain}.".encode())
        assert PIN.encode() not in b"".join([letter.key, *letter.headers.values()])
    assert books[2].value == books[2].headers["x-original-offset"]


def test_a_quiet_database_does_not_hold_log(lab: Lab) -> None:
    """Other tables' changes do not pass through the slot; heartbeats move it nevertheless, and no faster than the record."""
    with lab.capture(heartbeat_seconds=0.2) as capture, lab.connect() as db:
        capture.streaming()
        db.execute("CREATE TABLE noise (t text)")
        db.execute("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        here = now(db)
        wait(lambda: confirmed(lab, db, here))
        row = db.execute(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", (f"bus_{lab.domain}",)
        ).fetchone()
        assert row
        assert confirmed(lab, db, row[0])
        assert max(_lsn(r["confirmed"]) for r in lab.positions() if r["confirmed"]) >= _lsn(row[0])
    assert lab.events() == []


def _lsn(text: str) -> tuple[int, int]:
    high, low = text.split("/")
    return int(high, 16), int(low, 16)


def test_the_slot_never_is_ahead_of_kafka(lab: Lab) -> None:
    """While Kafka is down, nothing is confirmed; with it back, everything comes, once."""
    base = lab._base
    with lab.capture(heartbeat_seconds=0.3) as capture, lab.connect() as db:
        capture.streaming()
        db.execute("INSERT INTO book (id) VALUES (0)")
        lab.wait_for_events(1)
        found = processes.running(base, broker.NAME)
        assert found
        found.kill()
        found.wait(10)
        before = now(db)
        for number in range(1, 31):
            db.execute("INSERT INTO book (id) VALUES (%s)", (number,))
        after = now(db)
        time.sleep(1.5)  # time in which a wrong implementation would confirm
        assert not confirmed(lab, db, after)
        platform.start_kafka(base)
        events = lab.wait_for_events(31)
        wait(lambda: confirmed(lab, db, after))
    assert before != after
    assert [e.row["id"] for e in events] == list(range(31))


def test_postgresql_killed_and_restarted(lab: Lab) -> None:
    base = lab._base
    with lab.capture(heartbeat_seconds=0.3) as capture:
        capture.streaming()
        with lab.connect() as db:
            db.execute("INSERT INTO book (id) SELECT generate_series(1, 50)")
        for turn in (1, 2):
            found = processes.running(base, database.NAME)
            assert found
            for child in [found, *found.children(recursive=True)]:
                child.send_signal(signal.SIGKILL)
            found.wait(10)
            platform.start_postgres(base)
            with lab.connect() as db:
                db.execute("INSERT INTO book (id) SELECT generate_series(%s::int, %s::int)", (turn * 50 + 1, turn * 50 + 50))
            capture.until("streaming_started")
        events = lab.wait_for_events(150)
    assert Counter(e.row["id"] for e in events) == Counter(range(1, 151))
    assert all(a.place < b.place for a, b in pairwise(events))


def test_a_second_process_waits_and_takes_over(lab: Lab) -> None:
    with lab.capture(heartbeat_seconds=0.3) as first, lab.connect() as db:
        first.streaming()
        with lab.capture(heartbeat_seconds=0.3) as second:
            assert "another process" in second.until("capture_waiting")["reason"]
            db.execute("INSERT INTO book (id) VALUES (1)")
            lab.wait_for_events(1)
            first.kill()
            second.streaming()
            db.execute("INSERT INTO book (id) VALUES (2)")
            assert [e.row["id"] for e in lab.wait_for_events(2)] == [1, 2]


def test_columns_that_no_schema_names_never_flow(lab: Lab) -> None:
    """Neither those of the beginning nor those added under load; and a column that comes back is read again."""
    with lab.capture() as capture, lab.connect() as db:
        told = capture.until("columns_ignored")
        assert (told["table"], told["columns"]) == ("book", ["extra"])
        capture.streaming()
        db.execute("INSERT INTO book (id, extra) VALUES (1, 'canary-1')")
        db.execute("ALTER TABLE book ADD leak text DEFAULT 'canary-2', ADD other integer DEFAULT 7")
        db.execute("INSERT INTO book (id, extra, title) VALUES (2, 'canary-3', 't')")
        db.execute("ALTER TABLE book DROP other")
        db.execute("UPDATE book SET title = 'u' WHERE id = 2")
        found = lab.wait_for_events(3)
        assert "canary" not in str(found)
        assert "canary" not in "".join(capture.lines)
    assert [(e.op, e.row["title"]) for e in found] == [("c", None), ("c", "t"), ("u", "u")]


def test_a_column_that_table_and_schema_gained_later_is_null_in_older_changes(make_lab: MakeLab) -> None:
    lab = make_lab(SQL, BOOK, SHELF)
    with lab.connect() as db:
        with lab.capture() as capture:
            capture.streaming()
            capture.stop()
        db.execute("INSERT INTO shelf VALUES ('a', 'x')")
        db.execute("ALTER TABLE shelf ADD colour text DEFAULT 'red'")
        db.execute("INSERT INTO shelf VALUES ('b', 'y', 'blue')")
        lab.change_schema(schema("shelf", ["code"], [*SHELF["fields"], field("colour", ["null", "string"])], pin=None))
        with lab.capture():
            found = lab.wait_for_events(2)
    assert [e.row for e in found] == [
        {"code": "a", "place": "x", "colour": None},
        {"code": "b", "place": "y", "colour": "blue"},
    ]


def test_metrics_count_what_is_committed(lab: Lab) -> None:
    with lab.connect() as db, lab.capture(heartbeat_seconds=0.2) as capture:
        db.execute("INSERT INTO book (id) SELECT generate_series(1, 5)")
        capture.streaming()
        first = len(lab.events())
        db.execute("INSERT INTO book (id) SELECT generate_series(6, 9)")
        db.execute("DELETE FROM book WHERE id < 3")
        lab.wait_for_events(11)
        told = _metrics(lab)
        name = f'dataset="{lab.domain}.book"'
        counted = sum(told.get(f'bus_captured_events_total{{{name},op="{op}"}}', 0) for op in "rcd")
        assert counted == 11
        assert told[f"bus_snapshot_rows_total{{{name}}}"] == told[f'bus_captured_events_total{{{name},op="r"}}'] == first
        database_ = f'{{database="{lab.domain}"}}'
        assert told[f"bus_capture_streaming{database_}"] == 1
        assert told[f"bus_snapshot_progress_ratio{database_}"] == 1
        wait(lambda: _metrics(lab).get(f"bus_replication_slot_retained_bytes{database_}", -1) >= 0)
        wait(lambda: _metrics(lab)[f"bus_capture_lag_seconds{database_}"] == 0)


def _metrics(lab: Lab) -> dict[str, float]:
    port = json.loads((lab.settings.home / "run" / f"capture-{lab.domain}.json").read_text())["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_stop_is_quick_and_loses_nothing(lab: Lab, bus_home: Settings) -> None:
    with lab.connect() as db:
        for turn in range(3):
            with lab.capture(linger_ms=200) as capture:
                capture.streaming()
                db.execute("INSERT INTO book (id) VALUES (%s)", (turn,))
                capture.stop()
        with lab.capture():
            assert [e.row["id"] for e in lab.wait_for_events(3)] == [0, 1, 2]


def test_the_lag_grows_while_the_database_is_away(lab: Lab) -> None:
    def lag() -> float:
        return _metrics(lab)[f'bus_capture_lag_seconds{{database="{lab.domain}"}}']

    with lab.capture(heartbeat_seconds=0.2) as capture, database.connect(lab.settings) as server:
        capture.streaming()
        wait(lambda: lag() == 0)
        server.execute(f"ALTER DATABASE {lab.domain} ALLOW_CONNECTIONS false")
        try:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (lab.domain,))
            capture.until("capture_waiting")
            wait(lambda: lag() > 3)
            before = lag()
            wait(lambda: lag() > before + 1)
        finally:
            server.execute(f"ALTER DATABASE {lab.domain} ALLOW_CONNECTIONS true")
        wait(lambda: lag() == 0)
