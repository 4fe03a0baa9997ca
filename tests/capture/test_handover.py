"""Snapshot and stream together: whatever is written meanwhile, and whatever is killed, each row's history in the topic is whole.

The judge shares nothing with capture: rows carry a version that every update raises by one, a trigger writes down every
committed version of every row, and the events of a row must be a chain of these versions that ends where the table is.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from typing import Any

import psycopg
import pytest

from bus.core.position import parse_lsn
from tests.capture.conftest import MakeLab
from tests.capture.lab import Event, Lab, field, schema, wait
from tests.slower import SEVERAL

SQL = """
CREATE TABLE parcel (
    code varchar(12), part integer, pin varchar(12), version integer NOT NULL, origin integer NOT NULL, note text,
    PRIMARY KEY (code, part));
CREATE TABLE person (pin char(12) PRIMARY KEY, version integer NOT NULL, origin integer NOT NULL, note text);
CREATE SEQUENCE origins;
CREATE INDEX ON parcel (origin);
CREATE INDEX ON person (origin);
CREATE TABLE journal (seq bigserial, tab text, origin integer, version integer, gone boolean);
CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO public.journal (tab, origin, version, gone) VALUES (TG_TABLE_NAME, OLD.origin, OLD.version, true);
    ELSE
        INSERT INTO public.journal (tab, origin, version, gone) VALUES (TG_TABLE_NAME, NEW.origin, NEW.version, false);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER j AFTER INSERT OR UPDATE OR DELETE ON parcel FOR EACH ROW EXECUTE FUNCTION write_down();
CREATE TRIGGER j AFTER INSERT OR UPDATE OR DELETE ON person FOR EACH ROW EXECUTE FUNCTION write_down();
"""
COMMON = [field("version", "int"), field("origin", "int"), field("note", ["null", "string"])]
PARCEL = schema(
    "parcel", ["code", "part"], [field("code", "string"), field("part", "int"), field("pin", ["null", "string"]), *COMMON]
)
PERSON = schema("person", ["pin"], [field("pin", "string"), *COMMON])
LETTERS = ["a", "B", "b", "Đ", "đ", "é", "e\u0301", "_", "Z", "𠀋"]
"""Their order differs between collations."""


class Writer(threading.Thread):
    """Random transactions on both tables until told to stop; a third of them roll back."""

    def __init__(self, lab: Lab, seed: int) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._random = random.Random(seed)
        self.stopping = threading.Event()
        self.committed = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                with self._lab.connect() as db:
                    while not self.stopping.is_set():
                        self._transaction(db)
                        self.stopping.wait(0.01)  # the law needs many interleavings, not many rows
            except psycopg.OperationalError:
                self.stopping.wait(0.2)  # the server is being restarted

    def _transaction(self, db: psycopg.Connection[Any]) -> None:
        r = self._random
        try:
            with db.transaction():
                for _ in range(r.randint(1, 6)):
                    self._change(db, r)
                if r.random() < 0.3:
                    raise psycopg.Rollback
        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            return
        self.committed += 1

    def _change(self, db: psycopg.Connection[Any], r: random.Random) -> None:
        code = r.choice(LETTERS) + r.choice(LETTERS)
        pin = r.choice([None, "", f"{r.randint(0, 60):012}"])
        table = r.choice(["parcel", "parcel", "person"])
        any_row = f"origin = (SELECT min(origin) FROM {{}} WHERE origin >= {r.randint(0, 8_000)})"
        bump = "version = version + 1"
        match r.randint(0, 8):
            case 0 | 1:
                insert = "INSERT INTO parcel VALUES (%s, %s, %s, 0, nextval('origins'), %s) ON CONFLICT DO NOTHING"
                db.execute(insert, (code, r.randint(-50, 50), pin, r.choice([None, "x\ty\\"])))
            case 2:
                insert = "INSERT INTO person VALUES (%s, 0, nextval('origins'), 'Nguyễn') ON CONFLICT DO NOTHING"
                db.execute(insert, (f"{r.randint(0, 200):012}",))
            case 3 | 4:
                db.execute(f"UPDATE parcel SET {bump}, note = %s WHERE {any_row.format('parcel')}", (str(r.random()),))
            case 5:
                db.execute(f"UPDATE parcel SET {bump}, pin = %s WHERE {any_row.format('parcel')}", (pin,))
            case 6:
                db.execute(
                    f"UPDATE parcel SET {bump}, code = %s, part = %s WHERE {any_row.format('parcel')}", (code, r.randint(-50, 50))
                )
            case 7:
                db.execute(f"UPDATE person SET {bump}, pin = %s WHERE {any_row.format('person')}", (f"{r.randint(0, 200):012}",))
            case _:
                db.execute(f"DELETE FROM {table} WHERE {any_row.format(table)}")


def fill(lab: Lab, rows: int) -> None:
    with lab.connect() as db:
        db.execute(
            "INSERT INTO parcel SELECT substr('aBbĐđé_Z', 1 + i %% 8, 1) || i %% 97, i, lpad((i %% 60)::text, 12, '0'), 0, "
            "nextval('origins'), 'x' FROM generate_series(1, %s) i",
            (rows,),
        )
        db.execute("INSERT INTO person SELECT lpad((i * 2)::text, 12, '0'), 0, nextval('origins') FROM generate_series(1, 100) i")


def judge(lab: Lab) -> list[Event]:
    """Checks the whole law against the topics as they are; gives the events."""
    events = lab.events()
    assert len({e.id for e in events}) == len(events), "an event is there twice"
    assert len({e.place for e in events}) == len(events), "two events stand in one place"
    chains: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for event in events:
        chains[event.table, event.row["origin"]].append(event)
    with lab.connect() as db:
        journal: dict[tuple[str, int], list[tuple[int, bool]]] = defaultdict(list)
        for table, origin, version, gone in db.execute("SELECT tab, origin, version, gone FROM journal ORDER BY seq").fetchall():
            journal[table, origin].append((version, gone))
        assert set(chains) <= set(journal), "events of rows that were never committed"
        rows = {
            ("parcel", r[4]): dict(zip(("code", "part", "pin", "version", "origin", "note"), r, strict=True))
            for r in db.execute("SELECT * FROM parcel").fetchall()
        }
        rows |= {
            ("person", r[2]): dict(zip(("pin", "version", "origin", "note"), r, strict=True))
            for r in db.execute("SELECT * FROM person").fetchall()
        }
    floor = _floor(lab)
    for row, versions in journal.items():
        _judge_row(chains.get(row, []), floor, versions, rows.get(row))
    _judge_order(events)
    return events


def _floor(lab: Lab) -> int:
    """The last point that any table was read at."""
    return max(parse_lsn(s["lsn"]) for record in lab.positions() for segments in record["tables"].values() for s in segments)


def _judge_row(chain: list[Event], floor: int, versions: list[tuple[int, bool]], now: dict[str, Any] | None) -> None:
    """Every event continues the state before it. Behind the snapshot's last point each committed version is there, in order."""
    state: dict[str, Any] | None = None
    seen: list[tuple[int, bool]] = []
    for position, event in enumerate(chain):
        assert event.before == state, "an event does not continue the one before it"
        state = event.after
        if event.source["snapshot"] or event.source["lsn"] < floor:
            seen = [(event.row["version"], False)] if state else []
        elif event.op == "d" and position + 1 < len(chain):
            assert chain[position + 1].op == "c", "something follows the delete of a row that is no change of its key"
            assert chain[position + 1].place == (*event.place[:2], event.place[2] + 1)
        else:
            seen.append((event.row["version"], event.op == "d"))
    assert state == now, "the last event is not what the table says"
    if seen:
        assert seen == versions[versions.index(seen[0]) :], "the versions of a row have a gap, a repetition or a ghost"
    if chain and chain[0].op == "c" and chain[0].source["lsn"] >= floor:
        assert seen[0] == versions[0], "the beginning of a row's history is missing"


def _judge_order(events: list[Event]) -> None:
    """In each partition the stream's events stand in the order of their places."""
    lanes: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda e: e.offset):
        if not event.source["snapshot"]:
            lanes[event.table, event.partition].append(event)
    for lane in lanes.values():
        places = [e.place for e in lane]
        assert places == sorted(places)
    by_key: dict[tuple[str, bytes], set[int]] = defaultdict(set)
    for event in events:
        by_key[event.table, event.key].add(event.partition)
    assert all(len(partitions) == 1 for partitions in by_key.values()), "a key's events are in several lanes"


def snapshot_done(lab: Lab) -> bool:
    records = lab.positions()
    tables = records[-1]["tables"] if records else {}
    return len(tables) == len(lab.datasets) and all(segments[-1]["upto"] is None for segments in tables.values())


def settled(lab: Lab, writers: list[Writer]) -> None:
    """Stops the writers and waits until capture has passed everything they wrote."""
    for writer in writers:
        writer.stopping.set()
    for writer in writers:
        writer.join(30)
    with lab.connect() as db:
        row = db.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row
        slot = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        wait(lambda: db.execute(slot, (row[0], f"bus_{lab.domain}")).fetchone() == (True,), 90.0, 0.2)


def comes_to_rest_whole(lab: Lab, writers: list[Writer], **settings: Any) -> None:
    """One more life, to its end, and then the judge."""
    with lab.capture(**settings) as capture:
        capture.streaming()
        settled(lab, writers)
        capture.stop()
    assert {"r", "c", "u", "d"} <= {e.op for e in judge(lab)}, "the workload did not do all there is to do"


@SEVERAL
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_again_and_again_during_snapshot_and_stream(make_lab: MakeLab, seed: int) -> None:
    lab = make_lab(SQL, PARCEL, PERSON)
    fill(lab, 8_000)
    writers = [Writer(lab, seed * 10 + n) for n in range(3)]
    for writer in writers:
        writer.start()
    chance = random.Random(seed)
    batch: dict[str, Any] = {"batch_events": 150, "heartbeat_seconds": 0.5}
    interrupted = 0
    while interrupted < 5 and not snapshot_done(lab):
        with lab.capture(**batch) as capture:
            capture.until("snapshot_started")
            threading.Event().wait(chance.uniform(0.05, 0.5))
            capture.kill()
        interrupted += 1
    assert any(s["upto"] for r in lab.positions() for t in r["tables"].values() for s in t), "no kill came between two batches"
    for _ in range(3):  # in the stream
        with lab.capture(**batch) as capture:
            capture.streaming()
            known = writers[0].committed
            wait(lambda known=known: writers[0].committed > known + 20)  # type: ignore[misc]
            threading.Event().wait(chance.random() * 0.1)
            capture.kill()
    comes_to_rest_whole(lab, writers, **batch)
    assert sum(len(s) for s in lab.positions()[-1]["tables"].values()) == 2, "segments outlive their use"


@SEVERAL
def test_changes_during_an_uninterrupted_snapshot(make_lab: MakeLab) -> None:
    lab = make_lab(SQL, PARCEL, PERSON)
    fill(lab, 2000)
    writers = [Writer(lab, n) for n in range(3)]
    for writer in writers:
        writer.start()
    with lab.capture(batch_events=100, heartbeat_seconds=0.5) as capture:
        capture.streaming()
        settled(lab, writers)
        capture.stop()
    judge(lab)


def test_a_table_added_later_is_read_while_the_others_stream_on(make_lab: MakeLab) -> None:
    lab = make_lab(SQL, PARCEL, PERSON)
    fill(lab, 300)
    hidden = lab.settings.schemas / lab.domain / "person.avsc"
    text = hidden.read_text()
    hidden.unlink()
    with lab.capture(heartbeat_seconds=0.5) as capture:
        lab.wait_for_events(300)
        capture.stop()
    writers = [Writer(lab, 5)]
    writers[0].start()
    hidden.write_text(text)
    with lab.capture(heartbeat_seconds=0.5) as capture:
        capture.streaming()
        settled(lab, writers)
        capture.stop()
    events = judge(lab)
    assert sum(e.op == "r" and e.table == "parcel" for e in events) == 300, "the first table was read again"
    assert any(e.table == "person" for e in events)
