"""Entitlement on the wire: an agency's credentials reach its own topics and nothing else; without any, nothing is reached."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from bus import access
from bus.config import Settings
from bus.core import topics
from bus.engine import agreement_log
from bus.platform import declared, processes
from bus.platform.declared import Right
from tests.oracle.agreements import read_all
from tests.oracle.collect import all_topics
from tests.pipeline.bus import SOAK, Bus

WAIT_SECONDS = 20.0
FOREIGN_GROUPS = ("bus-engine", "register", "operator", "developer", "processors", "capture-civil", "anything", "agency-")
FOREIGN_IDS = ("engine-0", "capture-civil", "sandbox.x", "anything")


def agencies(settings: Settings) -> list[str]:
    return sorted({a.agency for a in read_all(settings.agreements)})


def own_topics(settings: Settings, agency: str) -> set[str]:
    return {topics.agency(a.id) for a in read_all(settings.agreements) if a.agency == agency}


def consumer(settings: Settings, principal: str, group: str, **more: object) -> Consumer:
    own = {"group.id": group, "enable.auto.commit": False, "enable.partition.eof": True, "auto.offset.reset": "earliest"}
    own |= {"topic.metadata.propagation.max.ms": 0, "log_level": 0}
    return Consumer(access.confluent(settings, principal) | own | more)


def readable(settings: Settings, principal: str, names: list[str]) -> set[str]:
    """The topics of which a record or the end could be read; for every other one the broker must have answered with a refusal."""
    reader = consumer(settings, principal, principal)
    refused = {name for name in names if _refused(reader, name)}
    waiting = set(names) - refused
    reader.assign([TopicPartition(name, 0, OFFSET_BEGINNING) for name in names])
    deadline = time.monotonic() + WAIT_SECONDS
    allowed: set[str] = set()
    while waiting - allowed and time.monotonic() < deadline:
        for message in reader.consume(1_000, 0.5):
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                allowed.add(message.topic() or "")
    reader.close()
    assert waiting == allowed, f"{principal}: no answer for {waiting - allowed}"
    return allowed


def _refused(reader: Consumer, name: str) -> bool:
    error = reader.list_topics(name, timeout=WAIT_SECONDS).topics[name].error
    return error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def writable(settings: Settings, principal: str, names: list[str]) -> set[str]:
    taken: set[str] = set()
    answered: set[str] = set()

    def told(error: KafkaError | None, message: object) -> None:
        name = message.topic()  # type: ignore[attr-defined]
        answered.add(name)
        if error is None:
            taken.add(name)

    writer = Producer(access.confluent(settings, principal) | {"message.timeout.ms": 5_000})
    for name in names:
        try:
            writer.produce(name, b"x", partition=0, on_delivery=told)
        except KafkaException:
            answered.add(name)
    writer.flush(WAIT_SECONDS)
    assert answered == set(names)
    return taken


def joins(settings: Settings, principal: str, group: str, topic: str) -> bool:
    """Whether a principal is let into a consumer group; the answer must be one or the other."""
    member = consumer(settings, principal, group)
    member.subscribe([topic])
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        while time.monotonic() < deadline:
            message = member.poll(0.2)
            error = message.error() if message is not None else None
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                return False
            if member.assignment():
                return True
    finally:
        member.close()
    raise AssertionError(f"{principal} in {group}: neither let in nor refused")


def refusal(settings: Settings, principal: str, transactional_id: str) -> int:
    """The error code with which a transactional id is refused; 0: it is not."""
    writer = Producer(access.confluent(settings, principal) | {"transactional.id": transactional_id})
    try:
        writer.init_transactions(WAIT_SECONDS)
    except KafkaException as error:
        return int(error.args[0].code())
    return 0


def test_an_agency_reaches_its_own_topics_and_nothing_else(running_bus: Bus) -> None:
    """Every agency x every topic, group and transactional id of the cluster, tried for real."""
    settings = running_bus.settings
    every, all_agencies = all_topics(settings), agencies(settings)
    with ThreadPoolExecutor(len(all_agencies)) as pool:
        tried = sum(pool.map(lambda agency: one_agency(settings, agency, every, all_agencies), all_agencies))
    print(f"{tried} attempts of {len(all_agencies)} agencies, no surprise")
    assert tried > 20 * len(every)


def one_agency(settings: Settings, agency: str, every: list[str], all_agencies: list[str]) -> int:
    principal, own = f"agency-{agency}", own_topics(settings, agency)
    assert own
    assert set(all_topics(settings, principal)) == own, f"{principal} is shown other topics"
    assert readable(settings, principal, every) == own, f"{principal} reads other topics"
    assert not writable(settings, principal, every), f"{principal} writes"
    groups = [*FOREIGN_GROUPS, *(f"agency-{other}" for other in all_agencies if other != agency), f"{principal}x"]
    topic = min(own)
    for group in groups:
        assert not joins(settings, principal, group, topic), f"{principal} gets into the group {group}"
    for group in (principal, f"{principal}.test"):
        assert joins(settings, principal, group, topic), f"{principal} is kept out of its own group {group}"
    for name in (*FOREIGN_IDS, principal):
        assert refusal(settings, principal, name) == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, f"{principal} as {name}"
    return 3 * len(every) + len(groups) + 2 + len(FOREIGN_IDS) + 1


OTHERS = (
    "operator",
    "developer",
    "register",
    "registry",
    "engine",
    "processors",
    "ledger",
    "redrive",
    "webhooks",
    "feed",
    "capture-civil",
    "capture-land",
)


def may(rights: set[Right], principal: str, operation: str, resource: str, name: str) -> bool:
    """Kafka's rule for ALLOW entries: literal, '*', or prefix; READ and WRITE include DESCRIBE."""
    return any(
        right.principal == principal
        and right.resource == resource
        and (name.startswith(right.name) if right.pattern == "prefixed" else right.name in (name, "*"))
        and (right.operation == operation or (operation == "DESCRIBE" and right.operation in ("READ", "WRITE")))
        for right in rights
    )


def fetched(settings: Settings, principal: str, name: str) -> bool:
    """Whether the broker answers a fetch of an existing topic with a record or its end; else with a refusal of this topic."""
    reader = consumer(settings, principal, principal)
    try:
        if _refused(reader, name):
            return False
        reader.assign([TopicPartition(name, 0, 0)])
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            message = reader.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                return True
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return False
            assert error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED, error  # of the coordinator, which is no answer
    finally:
        reader.close()
    raise AssertionError(f"{principal}: no answer for {name}")


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.parametrize("principal", OTHERS)
def test_everybody_else_may_do_what_is_declared_and_nothing_more(running_bus: Bus, principal: str) -> None:
    """Every topic read and written, every group and transactional id tried, over the wire."""
    settings = running_bus.settings
    rights = declared.rights(running_bus.datasets, agreement_log.read(access.confluent(settings, "admin")).agreements())
    every = all_topics(settings)
    shown = {name for name in every if may(rights, principal, "DESCRIBE", "topic", name)}
    assert set(all_topics(settings, principal)) == shown
    with ThreadPoolExecutor(6) as pool:
        read = {
            name for name, yes in zip(every, pool.map(lambda name: fetched(settings, principal, name), every), strict=True) if yes
        }
    assert read == {name for name in every if may(rights, principal, "READ", "topic", name)}
    harmless = [name for name in every if not may(rights, principal, "WRITE", "topic", name)]
    assert not writable(settings, principal, harmless), f"{principal} writes"
    groups = [g for g in (*FOREIGN_GROUPS, "ledger", "agency-tax") if not may(rights, principal, "READ", "group", g)]
    topic = min(read, default="")
    for group in groups if topic else ():
        assert not joins(settings, principal, group, topic), f"{principal} gets into the group {group}"
    ids = [name for name in FOREIGN_IDS if not may(rights, principal, "WRITE", "transactional_id", name)]
    for name in ids:
        assert refusal(settings, principal, name) == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, f"{principal} as {name}"
    print(f"{principal}: {2 * len(every) + len(harmless) + len(groups) + len(ids)} verdicts, no surprise")


@pytest.mark.parametrize(
    "change",
    [
        {"sasl.password": "wrong"},
        {"sasl.username": "nobody"},
        {"sasl.username": "admin"},
        {"sasl.password": ""},
        {"security.protocol": "PLAINTEXT"},
        {"sasl.mechanism": "PLAIN"},
        {"sasl.mechanism": "SCRAM-SHA-256"},
    ],
    ids=str,
)
def test_without_the_right_credentials_nobody_gets_anything(running_bus: Bus, change: dict[str, str]) -> None:
    config = access.confluent(running_bus.settings, f"agency-{agencies(running_bus.settings)[0]}") | change
    plain = {k: v for k, v in config.items() if change.get("security.protocol") is None or not k.startswith("sasl")}
    try:
        client = Consumer(plain | {"group.id": "x", "log_level": 0})
    except KafkaException:
        return  # refused before a connection is made
    with pytest.raises(KafkaException):
        client.list_topics(timeout=3)
    client.close()


def test_no_listener_of_the_broker_serves_the_unauthenticated(running_bus: Bus) -> None:
    """The controller's door included."""
    broker = processes.running(running_bus.settings, "kafka")
    assert broker is not None
    ports = {c.laddr.port for c in broker.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert len(ports) >= 2
    for port in ports:
        client = Consumer({"bootstrap.servers": f"127.0.0.1:{port}", "group.id": "x", "log_level": 0})
        with pytest.raises(KafkaException):
            client.list_topics(timeout=2)
        client.close()


def test_listeners_are_on_loopback_only(running_bus: Bus) -> None:
    for name in ("kafka", "postgres", *running_bus.workers(), "supervisor"):
        process = processes.running(running_bus.settings, name)
        if process is None:
            continue
        listening = {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, name


def test_a_capture_role_sees_its_tables_and_nothing_else(running_bus: Bus) -> None:
    """Not the ground truth, no other database, no write."""
    for domain in running_bus.domains:
        dsn = access.capture_dsn(running_bus.settings, domain)
        table = next(d.table for d in running_bus.datasets.values() if d.domain == domain)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1")
            for statement in (
                "SELECT 1 FROM truth.journal LIMIT 1",
                "SELECT 1 FROM truth.error LIMIT 1",
                f"UPDATE {table} SET updated_at = now()",
                f"DELETE FROM {table}",
                "CREATE TABLE mine (n int)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
        for other in {*running_bus.domains, "postgres"} - {domain}:
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(dsn.replace(f"dbname={domain}", f"dbname={other}"), connect_timeout=5)
