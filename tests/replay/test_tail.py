"""Laws of `bus tail`: newest committed records, decoded; no personal value in what is shown, whatever the topic carries."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Producer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus import access, config
from bus.avro import catalogue, dataset, derive, frame
from bus.avro.catalogue import Catalogue
from bus.cli import masking, newest
from bus.cli.describe import Describer
from tests.replay.conftest import LANES, Recorded

DATASETS = dataset.load(config.ROOT / "schemas")
REGISTER = dataset.register_of(DATASETS)
CANARY = "Cà Nà Rỳ"
SOURCE = {
    "db": "d",
    "schema": "public",
    "table": "t",
    "system_id": 1,
    "lsn": 2,
    "xid": 3,
    "ordinal": 4,
    "ts_ms": 5,
    "snapshot": False,
}


def _fill(avro: Any) -> Any:
    """A value of the type; every text is the canary, every number the canary's."""
    branch = next(t for t in avro if t != "null") if isinstance(avro, list) else avro
    logical = branch.get("logicalType") if isinstance(branch, dict) else None
    kind = branch["type"] if isinstance(branch, dict) else branch
    if logical == "uuid":
        return "01234567-0000-0000-0000-000000000000"
    if logical == "decimal":
        return "98765"
    by_kind = {
        "string": CANARY,
        "int": 98765,
        "long": 98765,
        "boolean": True,
        "float": 98765.0,
        "double": 98765.0,
        "bytes": CANARY.encode(),
    }
    return by_kind[kind]


def _row(source: dataset.Dataset, only: frozenset[str]) -> dict[str, Any]:
    """A row whose canaries stand in the fields `only`; the others are null or empty of meaning."""
    plain: dict[Any, Any] = {"string": "x", "int": 1, "long": 1, "boolean": False, "float": 1.0, "double": 1.0, "bytes": b"x"}
    made = {}
    for name, avro in source.fields.items():
        branch = next(t for t in avro if t != "null") if isinstance(avro, list) else avro
        kind = branch["type"] if isinstance(branch, dict) else branch
        made[name] = _fill(avro) if name in only else plain[kind]
    return made


def _raw(schema: Any) -> Any:
    """The schema without logical types, so that any value of the underlying type can be written."""
    if isinstance(schema, dict):
        return {k: _raw(v) for k, v in schema.items() if k not in ("logicalType", "precision", "scale")}
    return [_raw(s) for s in schema] if isinstance(schema, list) else schema


def _shown(schema: Any, value: dict[str, Any], topic: str = "any") -> str:
    """What the describer makes of the value, as JSON text."""
    found = Catalogue()
    found.add(catalogue.Entry("s", 1, 7, catalogue.text_of(_raw(schema))))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(_raw(schema)), value)
    settings = config.load(Path("/nowhere"), env={})
    shown = Describer(settings, lambda: found).value(topic, frame.header(7) + out.getvalue())
    assert isinstance(shown, dict), shown
    return json.dumps(shown, ensure_ascii=False)


def _change(row: Any) -> dict[str, Any]:
    return {"event_id": b"e" * 16, "op": "u", "ts_ms": 1, "source": SOURCE, "before": row, "after": row}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_rows_show_what_is_not_personal_and_nothing_that_is(name: str) -> None:
    source = DATASETS[name]
    decimals = {n for n, t in source.fields.items() if "decimal" in json.dumps(t)}
    personal = source.personal() - decimals
    for topic_schema, body in (
        (derive.change(source), _change(_row(source, personal))),
        (
            derive.verified(source, REGISTER),
            _change(_row(source, personal))
            | {"verification": [], "decisions": [], "person": _row(REGISTER, REGISTER.personal())},
        ),
    ):
        shown = _shown(topic_schema, body)
        assert CANARY not in shown
        assert "98765" not in shown
        assert '"db": "d"' in shown
    texts = {n for n, t in source.fields.items() if "string" in json.dumps(t)} - source.personal()
    if texts:
        assert CANARY in _shown(derive.change(source), _change(_row(source, frozenset(texts)))), "harmless fields are shown"


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_deliveries_show_granted_fields_only_where_they_are_harmless(name: str) -> None:
    source = DATASETS[name]
    data: list[tuple[str, Any, str]] = [(n, "string", "") for n in source.fields]
    data += [(f"register_{n}", "string", "") for n in REGISTER.fields] + [("something_new", "string", "")]
    harmless = frozenset(source.fields) - source.personal() | {
        f"register_{n}" for n in frozenset(REGISTER.fields) - REGISTER.personal()
    }
    for field, _, _ in data:
        value = {n: (CANARY if n == field else "x") for n, _, _ in data}
        body = {"event_id": b"e" * 16, "seq": 1, "agreement": "tax.t", "grant_hash": b"g" * 32, "op": "c", "ts_ms": 1}
        body |= {"row_key": b"r" * 16, "verdict": None, "data": value}
        assert (CANARY in _shown(derive.delivery(source, "tax.t-x", data), body)) == (field in harmless)


UNKNOWN = {
    "type": "record",
    "name": "Change",
    "namespace": "com.example",
    "fields": [
        {"name": "text", "type": "string"},
        {"name": "number", "type": "long"},
        {"name": "many", "type": {"type": "array", "items": "string"}},
        {"name": "by_name", "type": {"type": "map", "values": "string"}},
        {
            "name": "either",
            "type": ["null", "string", {"type": "record", "name": "In", "fields": [{"name": "a", "type": "string"}]}],
        },
        {"name": "again", "type": ["null", "com.example.Change"]},
    ],
}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([CANARY, {"a": CANARY}, None]), st.booleans())
def test_records_nobody_knows_are_masked_whole(either: Any, deep: bool) -> None:
    value = {"text": CANARY, "number": 98765, "many": [CANARY], "by_name": {CANARY: CANARY}, "either": either, "again": None}
    shown = _shown(UNKNOWN, value | ({"again": value} if deep else {}))
    assert CANARY not in shown
    assert "98765" not in shown


JSON = st.recursive(
    st.sampled_from([CANARY, 98765, None, True]), lambda inner: st.lists(inner) | st.dictionaries(st.just(CANARY), inner)
)


@given(JSON)
def test_json_of_other_topics_is_masked(value: Any) -> None:
    shown = json.dumps(masking.json_value("processors-mine", value), ensure_ascii=False)
    assert CANARY not in shown
    assert "98765" not in shown


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_described_and_never_quoted(data: bytes, framed: bool) -> None:
    found = Catalogue()
    found.add(catalogue.Entry("s", 1, 7, catalogue.text_of(derive.change(DATASETS["civil.birth"]))))
    value = (frame.header(7) if framed else b"") + data + CANARY.encode()
    shown = Describer(config.load(Path("/nowhere"), env={}), lambda: found).value("dead.civil.birth", value)
    assert CANARY not in json.dumps(shown, ensure_ascii=False)


def test_keys_and_foreign_headers_are_not_shown_in_full() -> None:
    assert masking.key_text(bytes(range(0x10, 0x20))) == "1011…"
    assert masking.headers([("x-dead-code", b"MALFORMED"), ("name", CANARY.encode()), ("x-odd", None)]) == {
        "x-dead-code": "MALFORMED",
        "name": masking.MASK,
        "x-odd": masking.MASK,
    }


@given(st.recursive(st.none() | st.booleans() | st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner)))
def test_text_says_of_every_field_what_it_is_nulls_included(value: Any) -> None:
    def leaves(item: Any, path: tuple[str, ...]) -> list[tuple[str, str]]:
        if isinstance(item, dict) and item:
            return [leaf for name, inner in item.items() for leaf in leaves(inner, (*path, name))]
        return [(".".join(path), json.dumps(item))]

    record = {"topic": "t", "lane": 0, "offset": 0, "timestamp_ms": 0, "key": "-", "headers": {}, "value": {"v": value, "w": []}}
    lines = newest.as_text(record).splitlines()[1:]
    assert [tuple(line.split()) for line in lines] == [*leaves(value, ("v",)), ("w", "[]")]


def test_the_newest_committed_records_oldest_first(recorded: Recorded) -> None:
    written = sorted(recorded.read(recorded.topic), key=lambda m: (m.timestamp()[1], m.partition() or 0, m.offset() or 0))
    for last in (0, 1, 7, 350, 1000):
        shown = list(newest.tail(recorded.settings, recorded.topic, last))
        expected = [(m.partition(), m.offset()) for m in written][-last:] if last else []
        assert [(r["lane"], r["offset"]) for r in shown] == expected
        assert all(newest.as_text(r) for r in shown)


def test_following_shows_what_comes(recorded: Recorded) -> None:
    topic = "sandbox.followed"
    producer = Producer(access.confluent(recorded.settings, "admin"))
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # re-exported without saying so

    recorded.admin.create_topics([NewTopic(topic, LANES)], operation_timeout=20)[topic].result(20)
    producer.produce(topic, b'{"n": "1"}')
    producer.flush(20)
    stream = newest.tail(recorded.settings, topic, 1, follow=True)
    assert next(stream)["value"] == {"n": masking.MASK}
    producer.produce(topic, b'{"n": null}')
    producer.flush(20)
    assert next(stream)["value"] == {"n": None}
    stream.close()


def test_an_unknown_topic_is_named_with_near_ones(recorded: Recorded) -> None:
    with pytest.raises(newest.TailError, match=r"did you mean .*verified\.civil\.birth"):
        list(newest.tail(recorded.settings, "verified.civil.brith"))
    assert "verified.civil.brith" not in recorded.admin.list_topics(timeout=20).topics, "asking creates nothing"
