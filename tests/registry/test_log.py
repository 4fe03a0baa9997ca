"""The schema log on a real broker: ids are stable, one writer at a time, readers that cannot read say so."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from confluent_kafka import Producer

from bus import access
from bus.avro import catalogue
from bus.config import Settings
from bus.core.topics import SCHEMAS
from bus.registry import log
from tests.registry.served import Served


def schema(name: str, doc: str = "") -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": "test", "doc": doc, "fields": [{"name": "f", "type": "string"}]}


def test_registering_again_writes_nothing_and_gives_the_same_ids(bus_home: Settings) -> None:
    wanted = {"log-a-value": schema("A"), "log-b-value": schema("B"), "log-c-value": schema("A")}
    first = log.ensure(bus_home, wanted)
    assert first["log-a-value"] == first["log-c-value"] != first["log-b-value"]
    before = _end(bus_home)
    assert log.ensure(bus_home, wanted) == first
    assert _end(bus_home) == before
    changed = log.ensure(bus_home, wanted | {"log-a-value": schema("A", "another text")})
    assert changed["log-a-value"] not in first.values()
    found = log.read(access.confluent(bus_home, "admin"))
    assert [e.version for e in found.versions("log-a-value")] == [1, 2]
    assert json.loads(found.schema(first["log-a-value"])) == schema("A"), "old ids stay readable"


def test_a_subject_gets_its_level_once_and_the_registry_holds_foreign_clients_to_it(bus_home: Settings, registry: Served) -> None:
    subject = "agency.level.test-value"
    log.ensure(bus_home, {subject: schema("Level")}, {subject: "FULL_TRANSITIVE"})
    before = _end(bus_home)
    log.ensure(bus_home, {subject: schema("Level")}, {subject: "FULL_TRANSITIVE"})
    assert _end(bus_home) == before
    assert registry.get(f"/config/{subject}") == {"compatibilityLevel": "FULL_TRANSITIVE"}
    fewer = schema("Level") | {"fields": []}  # BACKWARD, the default, would let it pass
    refused = registry.ask("POST", f"/subjects/{subject}/versions", {"schema": json.dumps(fewer)})
    assert refused.status == 409
    log.ensure(bus_home, {subject: fewer}, {subject: "FULL_TRANSITIVE"})  # what both parties have signed


def test_a_level_that_nobody_knows_is_passed_over_as_confluents_registry_does(bus_home: Settings, registry: Served) -> None:
    subject = "unknown-level-value"
    log.ensure(bus_home, {subject: schema("Unknown")}, {subject: "FULL"})
    key = json.dumps({"keytype": "CONFIG", "subject": subject, "magic": 0}).encode()
    producer = Producer(access.confluent(bus_home, "admin"))
    producer.produce(SCHEMAS, b'{"subject": "x", "compatibilityLevel": "SIDEWAYS"}', key, partition=0)
    assert producer.flush(30) == 0
    log.ensure(bus_home, {f"{subject}-2": schema("Unknown")})
    assert registry.get(f"/config/{subject}") == {"compatibilityLevel": "FULL"}
    fewer = schema("Unknown") | {"fields": []}
    assert registry.ask("POST", f"/subjects/{subject}/versions", {"schema": json.dumps(fewer)}).status == 409


def test_two_writers_at_once_never_give_one_id_to_two_schemas(bus_home: Settings) -> None:
    given: list[dict[str, int]] = []

    def write(k: int) -> None:
        try:
            given.append(log.ensure(bus_home, {f"race-{k}-value": schema(f"Race{k}")}))
        except log.RegistryError:
            given.append({})  # fenced by the other: it says so and has written nothing

    threads = [threading.Thread(target=write, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(given) == len(threads), "each either succeeds or says why not"
    ids = [i for one in given for i in one.values()]
    assert ids, "at least one gets through"
    assert len(set(ids)) == len(ids)
    log.read(access.confluent(bus_home, "admin"))  # raises if an id stands for two schemas


def test_every_process_can_read_the_catalogue_and_none_can_write_it(bus_home: Settings) -> None:
    log.ensure(bus_home, {"seen-value": schema("Seen")})
    for principal in ("engine", "register", "capture-civil"):
        config = access.confluent(bus_home, principal)
        assert "seen-value" in log.read(config).ids()
        assert _write_error(config) is not None


def _write_error(config: dict[str, Any]) -> Any:
    """What became of an attempt to write a schema record."""
    results: list[Any] = []
    producer = Producer({**config, "message.timeout.ms": 5_000})
    producer.produce(SCHEMAS, b"{}", b"{}", on_delivery=lambda error, _: results.append(error))
    producer.flush(10)
    return results[0] if results else "no answer"


def test_a_broker_that_does_not_answer_is_named_within_the_limit(bus_home: Settings) -> None:
    config = access.confluent(bus_home, "admin") | {"bootstrap.servers": "127.0.0.1:1"}
    with pytest.raises(log.RegistryError, match="bus doctor"):
        log.read(config, timeout_seconds=2)
    with pytest.raises(log.RegistryError):
        log.read(access.confluent(bus_home, "admin") | {"sasl.password": "wrong"}, timeout_seconds=5)


def _end(settings: Settings) -> int:
    """How many versions there are."""
    found = log.read(access.confluent(settings, "admin"))
    return sum(len(found.versions(s)) for s in found.ids())


def test_subjects_follow_the_contract() -> None:
    assert catalogue.value_subject("change.civil.birth") == "change.civil.birth-value"
    assert catalogue.record_subject("agency.tax.people", schema("A")) == "agency.tax.people-test.A"
