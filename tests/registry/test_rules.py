"""Laws of what the registry decides, on random sequences of requests, with the topic replayed after each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.avro import catalogue, normal
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.avro.records import Record, Reference
from bus.registry import rules
from bus.registry.answers import Decision, Refused

SUBJECTS = st.sampled_from(["a", "b"])
NAMES = st.sampled_from("ABC")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("register"), SUBJECTS, NAMES),
        st.tuples(st.just("delete"), SUBJECTS, st.sampled_from(["latest", "1", "2", "3"]), st.booleans()),
        st.tuples(st.just("delete subject"), SUBJECTS, st.booleans()),
    ),
    max_size=25,
)


def schema(name: str) -> str:
    return json.dumps({"type": "record", "name": name, "fields": []})


def decide(found: Catalogue, step: tuple[Any, ...]) -> Decision:
    match step:
        case ("register", subject, name):
            return rules.register(found, subject, rules.Given(schema(name), ()))
        case ("delete", subject, version, permanent):
            return rules.delete_version(found, subject, version, permanent=permanent)
        case (_, subject, permanent):
            return rules.delete_subject(found, subject, permanent=permanent)
    raise AssertionError(step)


def compacted(log: list[Record]) -> list[Record]:
    """What compaction leaves: the newest record of each key in its place, tombstones gone."""
    newest = {record.key: number for number, record in enumerate(log)}
    return [record for number, record in enumerate(log) if newest[record.key] == number and record.value is not None]


def replayed(log: list[Record]) -> Catalogue:
    found = Catalogue()
    for record in log:
        found.apply(record.key, record.value)
    return found


def state(found: Catalogue) -> Any:
    return {subject: found.every(subject) for subject in found.subjects(deleted=True)}, found.next_id


@given(STEPS)
@settings(max_examples=300)
def test_an_id_stands_for_one_schema_for_ever_and_the_topic_tells_it_all_even_compacted(steps: list[tuple[Any, ...]]) -> None:
    """The registry is started anew from the compacted topic before each request."""
    log = [rules.set_level(Catalogue(), None, {"compatibility": "NONE"}).records[0]]
    given_out: dict[int, str] = {}
    for step in steps:
        found = replayed(compacted(log))
        assert state(found) == state(replayed(log))
        try:
            decision = decide(found, step)
        except Refused:
            continue
        if step[0] == "register":
            assert given_out.setdefault(decision.answer["id"], step[2]) == step[2], "an id was given to two schemas"
        log += decision.records
        if step[0] == "register":
            found = replayed(log)
            assert [e.id for e in found.versions(step[1]) if json.loads(e.schema)["name"] == step[2]] == [decision.answer["id"]]


@given(STEPS, st.data())
def test_a_copy_stays_as_it_was(steps: list[tuple[Any, ...]], data: st.DataObject) -> None:
    found = Catalogue()
    found.apply(*_pair(rules.set_level(found, None, {"compatibility": "NONE"}).records[0]))
    for step in steps:
        copy, before = found.copy(), state(found)
        try:
            for record in decide(found, step).records:
                found.apply(*_pair(record))
        except Refused:
            continue
        assert state(copy) == before


def _pair(record: Record) -> tuple[bytes, bytes | None]:
    return record.key, record.value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"type": "int"}', '"int"'),
        ('{"type":"record","name":"a.B","fields":[]}', '{"name":"B","fields":[],"namespace":"a","type":"record"}'),
        (
            '{"type":"record","name":"B","namespace":"a","fields":[{"name":"f","type":["null","B"]}]}',
            '{"type":"record","name":"B","namespace":"a","fields":[{"type":["null",{"type":"a.B"}],"name":"f"}]}',
        ),
    ],
)
def test_the_same_schema_written_otherwise_is_the_same(one: str, other: str) -> None:
    assert catalogue.identity(one) == catalogue.identity(other)
    assert normal.text_of(json.loads(one)) == normal.text_of(json.loads(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"type":"int","logicalType":"date"}', '"int"'),
        ('{"type":"record","name":"B","fields":[]}', '{"type":"record","name":"B","doc":"d","fields":[]}'),
        ('{"type":"record","name":"a.B","fields":[]}', '{"type":"record","name":"B","fields":[]}'),
        ('["int","null"]', '["null","int"]'),
    ],
)
def test_another_schema_is_another(one: str, other: str) -> None:
    assert catalogue.identity(one) != catalogue.identity(other)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda n: st.lists(n) | st.dictionaries(st.sampled_from(["type", "name", "fields", "items", "symbols"]), n),
    )
)
def test_no_json_that_is_given_as_a_schema_is_anything_but_registered_or_refused(value: Any) -> None:
    body = {"schema": json.dumps(value)}
    code = 42201
    try:
        rules.register(Catalogue(), "s", rules.given(body, normalized=True))
    except Refused as refused:
        code = refused.code
    assert code == 42201


def test_a_schema_that_is_dear_to_check_is_given_up_with_a_reason() -> None:
    """Each of two thousand defaults leaves out two thousand fields but one, each another one."""
    names = [f"f{number}" for number in range(2_000)]
    inner = {"type": "record", "name": "R", "fields": [{"name": name, "type": "int", "default": 0} for name in names]}
    given = [{name: 0} for name in names]
    outer = {"name": "r", "type": {"type": "array", "items": inner}, "default": given}
    dear = rules.Given(json.dumps({"type": "record", "name": "S", "fields": [outer]}), ())
    assert len(dear.text) < rules.MOST_SCHEMA
    with pytest.raises(Refused, match="too much work") as refusal:
        rules.resolve(Catalogue(), dear)
    assert (refusal.value.status, refusal.value.code) == (422, 42201)


@pytest.mark.parametrize("length", [100, 250, 1_000])
def test_types_inside_types_by_reference_are_refused_not_a_fault(length: int) -> None:
    """A chain of records, each holding the one before by its name: no text nests them, and every walk of the last one does."""
    fields: list[Any] = []
    for number in range(length):
        holding = [{"name": "x", "type": f"R{number - 1}" if number else "int"}]
        fields.append({"name": f"r{number}", "type": {"type": "record", "name": f"R{number}", "fields": holding}})
    found = Catalogue()
    chain = rules.Given(json.dumps({"type": "record", "name": "Chain", "fields": fields}), ())
    for record in rules.register(found, "chain", chain).records:
        found.apply(*_pair(record))
    last = json.dumps({"type": "record", "name": "Top", "fields": [{"name": "x", "type": f"R{length - 1}"}]})
    with pytest.raises(Refused, match="types inside types") as refusal:
        rules.register(found, "s", rules.Given(last, (Reference("Chain", "chain", 1),)))
    assert refusal.value.code == 42201


def test_an_unreadable_highest_id_is_passed_over() -> None:
    found = Catalogue()
    found.apply(b'{"keytype":"NOOP","magic":0}', None)
    found.apply(b'{"keytype":"NOOP","magic":0}', b'{"highestId":"x"}')
    assert found.next_id == 1
    with pytest.raises(CatalogueError):
        found.schema(1)
