"""Rights, weighed as Kafka weighs them: who may do what is what this page says, for whatever names agencies have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from bus.avro import dataset
from bus.config import Settings
from bus.core import topics
from bus.core.agreement import Agreement, Delivery, Grant, Way
from bus.engine import agreements as agreement_files
from bus.platform import declared
from bus.platform.declared import Right

DATASETS = dataset.load(Settings().schemas)
AGREEMENTS = agreement_files.load(Settings(), DATASETS)
NAME = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,2}", fullmatch=True)


def agreement(agency: str, name: str) -> Agreement:
    return Agreement(f"{agency}.{name}", agency, "", "", (Grant("civil.birth", ()),), 0, None, bytes(32))


def may(rights: set[Right], principal: str, operation: str, resource: str, name: str) -> bool:
    """Kafka's rule for ALLOW entries: literal, '*', or prefix; READ and WRITE include DESCRIBE."""

    def covers(right: Right) -> bool:
        fits = name.startswith(right.name) if right.pattern == "prefixed" else right.name in (name, "*")
        allowed = right.operation == operation or (operation == "DESCRIBE" and right.operation in ("READ", "WRITE"))
        return right.principal == principal and right.resource == resource and fits and allowed

    return any(map(covers, rights))


RIGHTS = declared.rights(DATASETS, AGREEMENTS)
TOPICS = declared.topics_of(DATASETS, AGREEMENTS, 8)


@given(st.dictionaries(NAME, NAME, min_size=2, max_size=6))
def test_an_agency_reads_its_own_topics_and_joins_its_own_groups_and_nothing_else(named: dict[str, str]) -> None:
    every = {f"{agency}.{name}": agreement(agency, name) for agency, name in named.items()}
    rights = declared.rights(DATASETS, every)
    there = declared.topics_of(DATASETS, every, 8)
    for agency in named:
        who = f"agency-{agency}"
        readable = {name for name in there if may(rights, who, "DESCRIBE", "topic", name)}
        assert readable == {topics.agency(one.id) for one in every.values() if one.agency == agency}
        others = [f"agency-{other}{rest}" for other in named if other != agency for rest in ("", ".x")]
        others = [group for group in others if group != who and not group.startswith(f"{who}.")]
        assert may(rights, who, "READ", "group", who)
        assert not any(may(rights, who, "READ", "group", group) for group in others)
        assert not any(right.operation != "READ" for right in rights if right.principal == who)


def test_only_the_engine_and_nobody_else_writes_to_agencies() -> None:
    for name in TOPICS:
        if name.startswith(("agency.", "verified.")):
            assert {r.principal for r in RIGHTS if may({r}, r.principal, "WRITE", "topic", name)} == {"engine"}, name


def test_a_capture_process_writes_the_topics_of_its_own_domain_only() -> None:
    for domain in {d.domain for d in DATASETS.values()}:
        written = {name for name in TOPICS if may(RIGHTS, f"capture-{domain}", "WRITE", "topic", name)}
        own = {d.topic for d in DATASETS.values() if d.domain == domain}
        assert written == own | {topics.dead(d.name) for d in DATASETS.values() if d.domain == domain} | {topics.POSITIONS}


def test_only_capture_and_the_redriving_of_dead_letters_write_to_inputs() -> None:
    for one in DATASETS.values():
        written = {r.principal for r in RIGHTS if may({r}, r.principal, "WRITE", "topic", one.topic)}
        assert written == {f"capture-{one.domain}", "redrive"}
    own = {name for name in TOPICS if may(RIGHTS, "redrive", "WRITE", "topic", name)}
    assert own == {d.topic for d in DATASETS.values()} | {topics.REDRIVEN}


@given(st.dictionaries(NAME, st.sampled_from(list(Way)), min_size=1, max_size=6))
def test_webhooks_read_what_is_delivered_by_webhook_and_write_where_they_stand(ways: dict[str, Way]) -> None:
    every = {f"a.{name}": dataclasses.replace(agreement("a", name), delivery=Delivery(way)) for name, way in ways.items()}
    rights = declared.rights(DATASETS, every)
    there = declared.topics_of(DATASETS, every, 8)
    sent = {topics.agency(name) for name, one in every.items() if one.delivery.way is Way.WEBHOOK}
    told = {topics.AGREEMENTS, topics.SIGNATURES, topics.SCHEMAS, topics.WEBHOOKS}
    assert {name for name in there if may(rights, "webhooks", "DESCRIBE", "topic", name)} == sent | told
    assert {name for name in there if may(rights, "webhooks", "WRITE", "topic", name)} == {topics.WEBHOOKS}
    assert {r.principal for r in rights if may({r}, r.principal, "WRITE", "topic", topics.WEBHOOKS)} == {"webhooks"}


def test_nobody_but_the_administrator_alters_or_deletes_and_only_the_registry_writes_the_schema_log_too() -> None:
    assert not [right for right in RIGHTS if right.operation in ("ALTER", "DELETE", "ALL", "CLUSTER_ACTION", "ALTER_CONFIGS")]
    assert {r.principal for r in RIGHTS if may({r}, r.principal, "WRITE", "topic", topics.SCHEMAS)} == {"registry"}
    for name in (topics.AGREEMENTS, topics.SIGNATURES):
        assert not [right for right in RIGHTS if may({right}, right.principal, "WRITE", "topic", name)]


def test_a_developer_writes_to_sandboxes_only() -> None:
    assert not [name for name in TOPICS if may(RIGHTS, "developer", "WRITE", "topic", name)]
    assert may(RIGHTS, "developer", "WRITE", "topic", "sandbox.anything")
    assert not may(RIGHTS, "developer", "CREATE", "topic", "sandbox")


def test_every_declared_principal_has_rights_and_no_other_has() -> None:
    assert {right.principal for right in RIGHTS} == set(declared.principals(DATASETS, AGREEMENTS))


def test_pipeline_topics_have_the_same_lanes() -> None:
    single = {name for name, topic in TOPICS.items() if topic.partitions != 8}
    assert single == {topics.AGREEMENTS, topics.POSITIONS, topics.SCHEMAS, topics.SIGNATURES, topics.REDRIVEN, topics.WEBHOOKS}


def test_state_is_compacted_and_events_are_kept_for_good() -> None:
    register = dataset.register_of(DATASETS).topic
    compacted = {name for name, topic in TOPICS.items() if topic.configs["cleanup.policy"] == "compact"}
    assert compacted == {
        register,
        topics.AGREEMENTS,
        topics.POSITIONS,
        topics.SCHEMAS,
        topics.SIGNATURES,
        topics.LANES,
        topics.REDRIVEN,
        topics.WEBHOOKS,
    }
    assert all(TOPICS[name].configs["retention.ms"] == "-1" for name in TOPICS.keys() - compacted)


def test_the_agreements_of_the_checkout_are_all_declared() -> None:
    files = [p for p in Path(Settings().agreements).glob("*.yaml") if not p.name.endswith(".test.yaml")]
    assert {p.stem for p in files} <= {n.removeprefix("agency.") for n in TOPICS}
