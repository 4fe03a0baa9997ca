"""Each condition that a human must mend is refused with its reason and remedy, and nothing is published until it is mended."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import pytest
from confluent_kafka import Producer

from bus import access, config
from bus.core import topics
from bus.platform import database
from connectors.capture import columns, forget, source, walsender
from connectors.capture.errors import Interrupted, Refusal
from tests.capture.conftest import MakeLab
from tests.capture.lab import Lab, field, schema, wait

SQL = """
CREATE TABLE book (id integer PRIMARY KEY, pin varchar(12), title text NOT NULL, price numeric(10,2));
CREATE ROLE reader_{role}; GRANT SELECT ON book TO reader_{role};
"""
MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}
BOOK = schema(
    "book",
    ["id"],
    [field("id", "int"), field("pin", ["null", "string"]), field("title", "string"), field("price", ["null", MONEY])],
)
_roles = iter(range(10**6))


@pytest.fixture
def lab(make_lab: MakeLab) -> Any:
    role = f"{os.getpid()}_{next(_roles)}"
    made = make_lab(SQL.format(role=role), BOOK)
    yield made
    with made.connect() as db:
        db.execute(f"DROP OWNED BY reader_{role}")
        db.execute(f"DROP ROLE reader_{role}")


def refusal(lab: Lab) -> str:
    with lab.capture() as capture:
        return capture.refusal()


MISFITS = [
    ("ALTER TABLE book REPLICA IDENTITY DEFAULT", ["public.book", "REPLICA IDENTITY FULL"]),
    ("DROP PUBLICATION bus", ["publication 'bus'", "CREATE PUBLICATION bus FOR TABLE public.book"]),
    ("ALTER PUBLICATION bus DROP TABLE book", ["publication 'bus'", "ADD TABLE public.book"]),
    ("ALTER PUBLICATION bus SET (publish = 'insert')", ["publication 'bus'", "truncate"]),
    ("ALTER PUBLICATION bus SET TABLE book WHERE (id > 0)", ["publication 'bus'", "filters"]),
    ("ALTER PUBLICATION bus SET TABLE book (id, title)", ["publication 'bus'", "filters"]),
    ("ALTER TABLE book DROP COLUMN price", ["public.book", "column price is missing"]),
    ("ALTER TABLE book ALTER price TYPE numeric(12,2)", ["column price is numeric(12,2)", "decimal(10,2)"]),
    ("ALTER TABLE book ALTER price TYPE numeric", ["column price is numeric"]),
    ("ALTER TABLE book ALTER id TYPE bigint", ["column id is bigint", "int"]),
    ("ALTER TABLE book ALTER title DROP NOT NULL", ["column title is nullable"]),
    ("ALTER TABLE book ALTER price SET NOT NULL", ["column price is NOT NULL"]),
    (
        "ALTER TABLE book DROP price; ALTER TABLE book ADD price numeric(10,2) GENERATED ALWAYS AS (id * 2) STORED",
        ["column price is generated"],
    ),
    ("ALTER TABLE book DROP CONSTRAINT book_pkey, ADD PRIMARY KEY (title)", ["primary key", "(id)"]),
    ("ALTER TABLE book RENAME TO books", ["no table public.book"]),
    ("DROP TABLE book; CREATE VIEW book AS SELECT 1 AS id", ["not an ordinary"]),
    ("ALTER PUBLICATION bus DROP TABLE book; ALTER TABLE book SET UNLOGGED", ["not an ordinary"]),
]


def test_a_database_that_is_not_as_it_must_be(lab: Lab) -> None:
    """Every misfit by itself; the database is as before after each."""
    bindings = [columns.bind(d) for d in lab.datasets.values()]

    def check(db: source.Db) -> None:
        source.check_server(db)
        _, misfits = source.check_tables(db, bindings)
        source.check_publication(db, bindings, misfits)
        for why in misfits.values():
            raise Refusal(why)

    db = source.connect(lab.dsn, lab.domain)
    db.execute("SET search_path = public")
    db.execute("INSERT INTO book VALUES (1, NULL, 'x', 1)")
    check(db)
    for sql, words in MISFITS:
        with db.transaction(force_rollback=True):
            db.execute(sql.encode())
            with pytest.raises(Refusal) as told:
                check(db)
        assert [word for word in words if word not in str(told.value)] == [], (sql, str(told.value))
    check(db)
    db.close()


def test_a_refusal_ends_the_process_and_publishes_nothing(lab: Lab) -> None:
    with lab.connect() as db:
        db.execute("INSERT INTO book VALUES (1, NULL, 'x', 1)")
        db.execute("ALTER PUBLICATION bus DROP TABLE book")
    assert "ALTER PUBLICATION bus ADD TABLE public.book" in refusal(lab)
    assert lab.events() == []


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT pg_create_physical_replication_slot(%s)", "not ours"),
        ("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", "bus.positions knows nothing of it"),
    ],
)
def test_a_slot_that_is_there_already(lab: Lab, sql: str, words: str) -> None:
    with lab.connect() as db:
        db.execute(sql.encode(), (f"bus_{lab.domain}",))
    assert words in refusal(lab)
    assert lab.events() == []


def test_a_slot_of_another_database(lab: Lab) -> None:
    slot = f"bus_{lab.domain}"
    with database.connect(lab._base) as server:
        server.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        try:
            assert "not ours (plugin pgoutput, database postgres)" in refusal(lab)
        finally:
            server.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


def _as_reader(lab: Lab) -> Lab:
    with lab.connect() as db:
        row = db.execute(
            "SELECT rolname FROM pg_roles WHERE has_table_privilege(oid, 'book', 'SELECT') AND NOT rolsuper "
            "AND rolname LIKE 'reader_%' ORDER BY oid DESC"
        ).fetchone()
    assert row
    dsn = f"{lab.dsn} options='-c role={row[0]}'"
    lab.settings = dataclasses.replace(lab.settings, postgres=config.Postgres({lab.domain: dsn}))
    return lab


def test_a_role_that_may_not_replicate(lab: Lab) -> None:
    assert "REPLICATION" in refusal(_as_reader(lab))


def test_a_role_that_may_not_read_the_table(lab: Lab) -> None:
    _as_reader(lab)
    with lab.connect() as db:
        db.execute("REVOKE ALL ON book FROM PUBLIC")
        roles = db.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'reader_%'").fetchall()
        for (role,) in roles:
            db.execute(f"REVOKE ALL ON book FROM {role}")
            db.execute(f"ALTER ROLE {role} REPLICATION")
    assert "GRANT SELECT ON public.book" in refusal(lab)


def test_rows_hidden_by_row_level_security_are_not_left_out_silently(lab: Lab) -> None:
    _as_reader(lab)
    with lab.connect() as db:
        db.execute("ALTER TABLE book ENABLE ROW LEVEL SECURITY")
        for (role,) in db.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'reader_%'").fetchall():
            db.execute(f"ALTER ROLE {role} REPLICATION")
    assert "row-level security" in refusal(lab)


def test_wrong_wal_level(lab: Lab) -> None:
    """Asked of a session that is told so: the server itself stays as it is."""

    class Told:
        info = type("Info", (), {"server_version": 180000})

        def execute(self, query: str, _: Any = None) -> Any:
            assert "wal_level" in query
            return type("Cursor", (), {"fetchone": lambda _: type("Row", (), {"found": "replica"})})()

    with pytest.raises(Refusal, match="ALTER SYSTEM SET wal_level = logical"):
        source.check_server(Told())  # type: ignore[arg-type]


def _streamed(lab: Lab) -> None:
    """A capture that has published something and was stopped."""
    with lab.connect() as db:
        db.execute("INSERT INTO book VALUES (1, NULL, 'x')")
        with lab.capture(heartbeat_seconds=0.2) as capture:
            capture.streaming()
            db.execute("INSERT INTO book VALUES (2, NULL, 'y')")
            lab.wait_for_events(2)
            capture.stop()


def test_a_slot_that_vanished_is_not_made_again_silently(lab: Lab) -> None:
    _streamed(lab)
    with lab.connect() as db:
        db.execute("SELECT pg_drop_replication_slot(%s)", (f"bus_{lab.domain}",))
    assert "is gone" in refusal(lab)
    with lab.connect() as db:
        db.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (f"bus_{lab.domain}",))
        db.execute("INSERT INTO book VALUES (3, NULL, 'z')")
    assert "beyond what was published" in refusal(lab)


def test_a_slot_that_somebody_moved(lab: Lab) -> None:
    _streamed(lab)
    with lab.connect() as db:
        db.execute("INSERT INTO book VALUES (3, NULL, 'z')")
        db.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", (f"bus_{lab.domain}",))
    assert "somebody else moved" in refusal(lab)


def test_a_lost_slot(lab: Lab) -> None:
    _streamed(lab)
    with lab.connect() as db, database.connect(lab._base) as server:
        try:
            server.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
            server.execute("SELECT pg_reload_conf()")
            for _ in range(4):
                db.execute("INSERT INTO book SELECT i, NULL, repeat('x', 500) FROM generate_series(10, 20000) i")
                db.execute("DELETE FROM book WHERE id > 9")
                server.execute("SELECT pg_switch_wal()")
            server.execute("CHECKPOINT")
            slot = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s"
            wait(lambda: db.execute(slot, (f"bus_{lab.domain}",)).fetchone() == ("lost",))
        finally:
            server.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
            server.execute("SELECT pg_reload_conf()")
    assert "is lost" in refusal(lab)


def test_forgetting_the_position_reads_everything_anew(lab: Lab) -> None:
    _streamed(lab)
    with pytest.raises(Refusal, match="still exists"):
        forget.forget(lab.settings, lab.domain)
    with lab.connect() as db:
        db.execute("SELECT pg_drop_replication_slot(%s)", (f"bus_{lab.domain}",))
    forget.forget(lab.settings, lab.domain)
    with lab.capture() as capture:
        capture.streaming()
        events = lab.wait_for_events(4)
    assert [(e.op, e.row["id"]) for e in events] == [("r", 1), ("c", 2), ("r", 1), ("r", 2)]
    assert len({e.id for e in events}) == 4


@pytest.mark.parametrize(("name", "words"), [("system_id", "another database cluster"), ("timeline", "restored or promoted")])
def test_another_cluster_or_timeline_than_before(lab: Lab, name: str, words: str) -> None:
    _streamed(lab)
    record = lab.positions()[-1]
    record[name] = "7" if name == "system_id" else 99
    producer = Producer(access.confluent(lab._base, "admin"))
    producer.produce(topics.POSITIONS, json.dumps(record).encode(), lab.domain.encode())
    producer.flush(10)
    assert words in refusal(lab)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE book ALTER id TYPE bigint",
        "ALTER TABLE book DROP COLUMN price",
        "ALTER TABLE book RENAME COLUMN title TO name",
        "ALTER TABLE book REPLICA IDENTITY NOTHING",
    ],
)
def test_a_table_altered_under_load_is_held_before_anything_wrong_flows(lab: Lab, sql: str) -> None:
    with lab.connect() as db, lab.capture(heartbeat_seconds=60) as capture:
        capture.streaming()
        db.execute("INSERT INTO book VALUES (1, NULL, 'x', 1)")
        lab.wait_for_events(1)
        db.execute(sql)
        db.execute(f"INSERT INTO book (id, {'name' if 'RENAME' in sql else 'title'}) VALUES (2, 'y')")
        assert "public.book" in capture.until("table_held")["reason"]
        capture.stop()
    assert [e.row["id"] for e in lab.events()] == [1]


def test_what_came_before_an_alteration_in_the_same_batch_is_published(lab: Lab) -> None:
    with lab.connect() as db, lab.capture(linger_ms=1000, heartbeat_seconds=60) as capture:
        capture.streaming()
        db.execute("INSERT INTO book VALUES (1, NULL, 'x', 1)")
        lab.wait_for_events(1)  # behind the first heartbeat, which would find the alteration before the stream comes to it
        with db.transaction():
            db.execute("INSERT INTO book VALUES (2, NULL, 'x', 1)")
            db.execute("ALTER TABLE book ALTER id TYPE bigint")
            db.execute("INSERT INTO book VALUES (3, NULL, 'x', 1)")
        assert "public.book" in capture.until("table_held")["reason"]
        lab.wait_for_events(2)
        capture.stop()
    assert [e.row["id"] for e in lab.events()] == [1, 2]


def test_what_the_stream_does_not_show_the_heartbeat_finds(lab: Lab) -> None:
    with lab.connect() as db, lab.capture(heartbeat_seconds=0.2) as capture:
        capture.streaming()
        db.execute("ALTER PUBLICATION bus DROP TABLE book")
        assert "book" in capture.refusal()


def test_a_schema_that_is_not_registered_or_differs(lab: Lab) -> None:
    changed = schema("book", ["id"], [*BOOK["fields"][:-1]])
    lab.change_schema(changed, register=False)
    assert "is not the one in use" in refusal(lab)
    lab.settings = dataclasses.replace(lab.settings, schemas=lab.other_domain("book", BOOK))
    with lab.capture() as capture:
        assert "no schema" in capture.refusal()


def test_wrong_password(lab: Lab) -> None:
    dsn = lab.dsn.replace("password=", "password=x")
    lab.settings = dataclasses.replace(lab.settings, postgres=config.Postgres({lab.domain: dsn}))
    reason = refusal(lab)
    assert "authentication failed" in reason
    assert lab.dsn.partition("password=")[2] not in reason


def test_a_database_that_is_not_up_yet_is_waited_for(lab: Lab) -> None:
    dsn = lab.dsn.replace("port=", "port=1")
    lab.settings = dataclasses.replace(lab.settings, postgres=config.Postgres({lab.domain: dsn}))
    with lab.capture() as capture:
        first = capture.until("capture_waiting")
        second = capture.until("capture_waiting")
        assert first["pause_seconds"] < second["pause_seconds"] <= 5
        capture.stop()


def test_a_slot_is_not_waited_for_without_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL makes one only when every transaction that was running has ended; meanwhile tables are locked against ALTER."""
    monkeypatch.setattr(walsender, "COMMAND_SECONDS", 0.3)
    with lab.connect() as db, db.transaction():
        db.execute("INSERT INTO book VALUES (1, NULL, 'x')")
        held = walsender.WalSender(lab.dsn, "test")
        with pytest.raises(Interrupted, match="long-running transaction"):
            held.create_slot(f"bus_{lab.domain}")
        held.close()
    free = walsender.WalSender(lab.dsn, "test")
    assert free.create_slot(f"bus_{lab.domain}") > 0
    free.close()
