"""What takes an output away stops the worker: it says why, skips nothing, and goes on by itself when that is mended."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)
from prometheus_client.parser import text_string_to_metric_families

from bus import config
from bus.config import Settings
from bus.core import topics
from bus.core.outcome import Cause
from tests.chaos.proxy import Api, Fault, Kind, Proxy, behind
from tests.engine.stage import Stage
from tests.engine.strength.matrix import cases, only_soak

pytestmark = pytest.mark.timeout(400)
AGENCY = topics.agency("tax.taxpayers")
SMALL = "100"
"""Bytes, with which no output finds room in a batch, and the markers that end a transaction do."""


@contextlib.contextmanager
def set_to(stage: Stage, topic: str, name: str, value: str) -> Iterator[None]:
    """A topic's setting for a while."""

    admin = AdminClient(stage.config)

    def alter(to: str) -> None:
        entry = ConfigEntry(name, to, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)

    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    before: str = admin.describe_configs([asked])[asked].result(10)[name].value
    alter(value)
    try:
        yield
    finally:
        alter(before)


@contextlib.contextmanager
def denied(stage: Stage, topic: str) -> Iterator[None]:
    """The engine may not write there for a while."""
    about = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:engine", "*", AclOperation.WRITE)
    admin, rule = AdminClient(stage.config), AclBinding(*about, AclPermissionType.DENY)
    admin.create_acls([rule])[rule].result(10)
    try:
        yield
    finally:
        which = AclBindingFilter(*about, AclPermissionType.DENY)
        assert len(admin.delete_acls([which])[which].result(10)) == 1


OBSTACLES: dict[str, tuple[str, Callable[[Stage], contextlib.AbstractContextManager[None]]]] = {
    "agency-topic-takes-small-records-only": (AGENCY, lambda stage: set_to(stage, AGENCY, "max.message.bytes", SMALL)),
    "agency-topic-is-denied": (AGENCY, lambda stage: denied(stage, AGENCY)),
    "audit-takes-small-records-only": (topics.AUDIT, lambda stage: set_to(stage, topics.AUDIT, "max.message.bytes", SMALL)),
    "audit-is-denied": (topics.AUDIT, lambda stage: denied(stage, topics.AUDIT)),
    "lane-records-are-denied": (topics.LANES, lambda stage: denied(stage, topics.LANES)),
}


@pytest.mark.parametrize("name", cases(OBSTACLES, []))
def test_an_output_that_cannot_be_written_stops_the_worker_which_says_why_and_goes_on_by_itself(stage: Stage, name: str) -> None:
    topic, obstacle = OBSTACLES[name]
    stage.start("engine-0")
    stage.feed(100)
    stage.until("the end of the inputs", stage.drained)
    lines = len(stage.log("engine-0"))
    with obstacle(stage):
        stage.feed(400)

        def told() -> list[str]:
            return [
                line["reason"]
                for line in stage.log("engine-0")[lines:]
                if line["event"] in ("transaction_aborted", "producer_replaced")
            ]

        stage.until("the worker to say why", lambda: len(told()) > 1)
        print(name, stage.log("engine-0")[lines:], flush=True)
        assert waiting(stage) == {Cause.TRANSACTION.value}
        assert any(topic in reason for reason in told())
        assert not stage.drained()
        assert all(end > come for come, end in stage.left["unread"].values())
    began = time.monotonic()
    stage.until("the end of the inputs", stage.drained)
    print(f"{name}: {time.monotonic() - began:.1f} s to the end", flush=True)
    assert waiting(stage) == set()
    stage.check()
    stage.stop("engine-0")


def metrics(stage: Stage) -> dict[tuple[str, str], float]:
    """(name, cause or "") -> value, of the only worker."""
    port = json.loads((stage.settings.home / "run" / "engine-0.json").read_text(encoding="utf-8"))["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, s.labels.get("cause", "")): s.value for family in families for s in family.samples}


def waiting(stage: Stage) -> set[str]:
    """The causes that the only worker is waiting for."""
    return {cause for (name, cause), value in metrics(stage).items() if name == "bus_engine_waiting" and value}


@only_soak
@pytest.mark.parametrize(("kind", "seconds", "times"), [(Kind.DELAY, 0.4, 100), (Kind.DELAY, 6.0, 5), (Kind.HOLD, 40.0, 1)])
def test_a_broker_that_takes_outputs_slowly_or_not_at_all_slows_the_worker_and_nothing_else(
    stage: Stage, proxy: Proxy, home: Settings, kind: Kind, seconds: float, times: int
) -> None:
    """Not at all for longer than a transaction may be open."""
    stage.start("engine-0", home)
    stage.feed(100)
    stage.until("the end of the inputs", stage.drained)
    fault = proxy.add(Fault(kind, Api.PRODUCE, "engine-0", times=times, seconds=seconds))
    stage.feed(3_000)
    if kind is Kind.HOLD:
        stage.until("outputs to be held", lambda: fault.waits)
        end = time.monotonic() + seconds
        stage.until("the worker to wait", lambda: bool(waiting(stage)))
        stage.until("a long time", lambda: time.monotonic() > end)
        proxy.release(fault)
    stage.until("the end of the inputs", stage.drained)
    assert fault.hits > 0
    stage.check()
    stage.stop("engine-0")


@only_soak
@pytest.mark.parametrize("topic", [AGENCY, topics.AUDIT])
def test_a_topic_with_too_few_replicas_stops_the_worker_which_says_why_and_goes_on_by_itself(
    stage: Stage, proxy: Proxy, home: Settings, topic: str
) -> None:
    stage.start("engine-0", home)
    stage.feed(100)
    stage.until("the end of the inputs", stage.drained)
    lines = len(stage.log("engine-0"))
    proxy.add(Fault(Kind.TOO_FEW_REPLICAS, Api.PRODUCE, "engine-0", times=1_000_000, topic=topic))
    stage.feed(400)
    stage.until("the worker to wait", lambda: waiting(stage) == {Cause.TRANSACTION.value})
    assert not stage.drained()
    print([line.get("reason") for line in stage.log("engine-0")[lines:]], flush=True)
    proxy.clear()
    stage.until("the end of the inputs", stage.drained)
    assert waiting(stage) == set()
    stage.check()
    stage.stop("engine-0")


def test_a_worker_does_not_begin_on_a_replica_that_is_too_far_behind_and_says_so(stage: Stage, tmp_path: Path) -> None:
    """And it begins when the replica has caught up."""
    home = behind(stage.settings, int(stage.config["bootstrap.servers"].rpartition(":")[2]), tmp_path)
    with (tmp_path / config.SETTINGS_FILE).open("a") as settings:
        settings.write("engine: {max_register_lag_records: 20}\n")
    people = [(stage.register.topic, key, value) for key, value in stage.filling.events(stage.register).register()]
    stage.stop("register")
    stage.filling.produce(people[:50])
    stage.start("engine-0", home)
    stage.feed(100)

    def awaited() -> list[Any]:
        return [line for line in since_start(stage) if line["event"] == "register_awaited"]

    stage.until("the worker to say why it waits", lambda: bool(awaited()))
    assert "lacks 50 of the register's records" in awaited()[0]["reason"]
    assert waiting(stage) == {Cause.REGISTER.value}
    assert metrics(stage)["bus_engine_register_lag_records", ""] == 50
    assert not any(line["event"] == "lanes_assigned" for line in since_start(stage))
    stage.start("register")
    stage.until("the end of the inputs", stage.drained)
    assert waiting(stage) == set()
    stage.check()
    stage.stop("engine-0")


def since_start(stage: Stage) -> list[dict[str, Any]]:
    lines = stage.log("engine-0")
    starts = [n for n, line in enumerate(lines) if line["event"] == "process_started"]
    return lines[starts[-1] :] if starts else []
