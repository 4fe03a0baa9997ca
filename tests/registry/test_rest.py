"""The REST interface on a real broker: answers and errors as Confluent's clients expect them, field by field."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from bus import access
from bus.platform import health
from bus.registry import log
from tests.registry.served import Served

INT = {"name": "a", "type": "int"}
NEW = {"name": "b", "type": "string", "default": ""}
BARE = {"name": "b", "type": "string"}


@pytest.fixture
def subject() -> str:
    return f"rest/{uuid.uuid4().hex} ä-value"


@pytest.fixture
def path(subject: str) -> str:
    return "/subjects/" + subject.replace("/", "%2F").replace(" ", "%20").replace("ä", "%C3%A4")


def record(*fields: dict[str, Any], name: str = "") -> dict[str, Any]:
    return {"type": "record", "name": name or f"R{uuid.uuid4().hex}", "namespace": "rest.test", "fields": list(fields)}


def test_what_was_registered_is_found_in_every_way(registry: Served, subject: str, path: str) -> None:
    schema = record(INT)
    text = json.dumps(schema, indent=1)
    number = registry.id(subject, text)
    assert registry.id(subject, json.dumps(schema, sort_keys=True)) == number, "registering again changes nothing"
    assert registry.id(f"{subject}2", schema) == number, "one schema, one id"
    whole: dict[str, Any] = {"subject": subject, "version": 1, "id": number, "schema": text}
    assert registry.get(f"/schemas/ids/{number}") == {"schema": text}
    assert registry.get(f"/schemas/ids/{number}?fetchMaxId=true")["maxId"] >= number
    assert registry.get(f"/schemas/ids/{number}/schema") == schema
    assert registry.get(f"/schemas/ids/{number}/subjects") == sorted([subject, f"{subject}2"])
    assert {"subject": subject, "version": 1} in registry.get(f"/schemas/ids/{number}/versions")
    assert registry.get(f"{path}/versions") == [1]
    for version in ("1", "latest", "-1"):
        assert registry.get(f"{path}/versions/{version}") == whole
    assert registry.get(f"{path}/versions/1/schema") == schema
    assert registry.ask("POST", path, {"schema": json.dumps(schema)}).body == whole
    assert whole in registry.get("/schemas?latestOnly=true&offset=0&limit=-1")


def test_lists_obey_their_options_and_tolerate_all_that_clients_send(registry: Served, subject: str) -> None:
    names = [f"{subject}{n}" for n in range(3)]
    for name in names:
        registry.id(name, record(INT))
    prefix = "subjectPrefix=" + subject.replace(" ", "%20").replace("ä", "%C3%A4")
    assert registry.get(f"/subjects?{prefix}&deleted=False&deleted_only=False&offset=0&limit=-1") == names
    assert registry.get(f"/subjects?{prefix}&offset=1&limit=1") == names[1:2]
    assert registry.get("/subjects?subjectPrefix=none+such") == []
    assert set(names) <= set(registry.get("/subjects?subjectPrefix=:*:&limit=no&whatever=1"))


def test_fixed_answers(registry: Served) -> None:
    assert registry.get("/schemas/types") == ["AVRO"]
    assert registry.get("/contexts?offset=0&limit=-1") == ["."]
    assert registry.get("/mode") == {"mode": "READWRITE"}
    assert registry.get("/config") == {"compatibilityLevel": "BACKWARD"}
    assert registry.ask("GET", "/").content_type == "application/vnd.schemaregistry.v1+json"


def test_keys_and_content_types_that_are_not_known_are_no_reason_to_refuse(registry: Served, subject: str, path: str) -> None:
    body: dict[str, Any] = {
        "schema": json.dumps(record(INT)),
        "schemaType": "AVRO",
        "references": [],
        "metadata": {"properties": {}},
    }
    body |= {"ruleSet": {"domainRules": []}, "id": -1, "version": 0, "schemaTags": None, "something": "new"}
    for content_type in ("application/json", "application/octet-stream", "text/plain"):
        assert registry.ask("POST", f"{path}/versions?normalize=False", body, content_type).status == 200
    assert registry.get(f"{path}/versions") == [1]


@pytest.mark.parametrize(
    ("method", "rest", "body", "status", "code", "says"),
    [
        ("GET", "/versions", None, 404, 40401, "not found"),
        ("GET", "/versions/1", None, 404, 40401, "not found"),
        ("GET", "/versions/0", None, 422, 42202, "latest"),
        ("GET", "/versions/2147483648", None, 422, 42202, "latest"),
        ("GET", "/versions/x", None, 422, 42202, "latest"),
        ("POST", "", {"schema": '"string"'}, 404, 40401, "not found"),
        ("DELETE", "", None, 404, 40401, "not found"),
        ("DELETE", "/versions/1", None, 404, 40401, "not found"),
        ("POST", "/versions", {"schema": '{"type":"record"}'}, 422, 42201, "Invalid schema"),
        ("POST", "/versions", {"schema": "{"}, 422, 42201, "Invalid schema"),
        ("POST", "/versions", {"schema": ""}, 422, 42201, "Empty schema"),
        ("POST", "/versions", {}, 422, 42201, "Empty schema"),
        ("POST", "/versions", [], 422, 42201, "Empty schema"),
        ("POST", "/versions", b"{", 400, 40001, "not JSON"),
        ("POST", "/versions", b"[" * 100_000, 400, 40001, "not JSON"),
        ("POST", "/versions", {"schema": '{"type":' * 5_000 + '"int"' + "}" * 5_000}, 422, 42201, "Invalid schema"),
        ("POST", "/versions", {"schema": " " * 1_100_000}, 413, 41301, "longer"),
        ("POST", "/versions", {"schema": "{}", "schemaType": "PROTOBUF"}, 422, 42201, "AVRO only"),
        ("POST", "/versions", {"schema": '"int"', "references": [{"name": "x"}]}, 422, 42201, "references"),
        (
            "POST",
            "/versions",
            {"schema": '"int"', "references": [{"name": "x", "subject": "no", "version": 1}]},
            422,
            42201,
            "no",
        ),
        ("POST", "/nothing", {}, 404, 404, "Not Found"),
        ("PUT", "/versions", {}, 405, 405, "Method"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    registry: Served, path: str, method: str, rest: str, body: Any, status: int, code: int, says: str
) -> None:
    found = registry.refused(method, path + rest, body)
    assert found[:2] == (status, code), found
    assert says in found[2]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/schemas/ids/999999", 40403),
        ("/schemas/ids/x", 40403),
        ("/schemas/ids/999999/subjects", 40403),
        ("/config/none-such", 40408),
        ("/mode/none-such", 40409),
        ("/associations/resources/lkc/topic?resourceType=topic", 404),
        ("/schemas/guids/x", 404),
    ],
)
def test_what_is_not_there_is_404_in_json(registry: Served, path: str, code: int) -> None:
    assert registry.refused("GET", path)[:2] == (404, code)


def test_an_incompatible_schema_is_refused_with_reason_and_place_and_levels_decide(
    registry: Served, subject: str, path: str
) -> None:
    name = f"R{uuid.uuid4().hex}"
    registry.id(subject, record(INT, name=name))
    bare, optional = record(INT, BARE, name=name), record(INT, NEW, name=name)
    status, code, message = registry.refused("POST", f"{path}/versions", {"schema": json.dumps(bare)})
    assert (status, code) == (409, 409)
    assert "READER_FIELD_MISSING_DEFAULT_VALUE" in message
    assert "/fields/1" in message
    about = "/compatibility" + path + "/versions"
    for where in (about, f"{about}/latest", f"{about}/1"):
        told = registry.ask("POST", f"{where}?verbose=true&normalize=False", {"schema": json.dumps(bare)}).body
        assert told["is_compatible"] is False
        assert told["messages"]
        assert registry.ask("POST", where, {"schema": json.dumps(bare)}).body == {"is_compatible": False}
        assert registry.ask("POST", f"{where}?verbose=true", {"schema": json.dumps(optional)}).body == {
            "is_compatible": True,
            "messages": [],
        }
    assert registry.refused("POST", f"{about}/7", {"schema": json.dumps(bare)})[:2] == (404, 40402)
    config = "/config" + path.removeprefix("/subjects")
    assert registry.ask("PUT", config, {"compatibility": "none", "normalize": True}).body == {"compatibility": "NONE"}
    assert registry.get(config) == {"compatibilityLevel": "NONE"}
    assert registry.id(subject, bare) > 0
    assert registry.ask("DELETE", config).body == {"compatibilityLevel": "NONE"}
    assert registry.refused("GET", config)[:2] == (404, 40408)
    assert registry.get(f"{config}?defaultToGlobal=true") == {"compatibilityLevel": "BACKWARD"}
    assert registry.refused("PUT", config, {"compatibility": "SIDEWAYS"})[:2] == (422, 42203)


def test_a_transitive_level_looks_beyond_the_latest_version(registry: Served, subject: str, path: str) -> None:
    name = f"R{uuid.uuid4().hex}"
    first, second = record(INT, name=name), record(INT, NEW, name=name)
    third = record(INT, BARE, name=name)
    registry.id(subject, first)
    registry.id(subject, second)
    config = "/config" + path.removeprefix("/subjects")
    registry.ask("PUT", config, {"compatibility": "BACKWARD_TRANSITIVE"})
    message = registry.refused("POST", f"{path}/versions", {"schema": json.dumps(third)})[2]
    assert "version 1" in message
    registry.ask("PUT", config, {"compatibility": "BACKWARD"})
    assert registry.id(subject, third) > 0


def test_deletion_is_soft_then_hard_and_an_id_is_never_given_twice(registry: Served, subject: str, path: str) -> None:
    registry.id(subject, record(INT))
    registry.ask("PUT", "/config" + path.removeprefix("/subjects"), {"compatibility": "NONE"})
    second = record(NEW)
    number = registry.id(subject, second)
    assert registry.refused("DELETE", f"{path}/versions/2?permanent=true")[:2] == (404, 40407)
    assert registry.ask("DELETE", f"{path}/versions/latest").body == 2
    assert registry.refused("DELETE", f"{path}/versions/2")[:2] == (404, 40406)
    assert registry.refused("GET", f"{path}/versions/2")[:2] == (404, 40402)
    assert registry.get(f"{path}/versions/2?deleted=true")["id"] == number
    assert registry.get(f"{path}/versions?deleted=true") == [1, 2]
    assert registry.get(f"{path}/versions?deletedOnly=true") == [2]
    assert registry.get(f"/schemas/ids/{number}")["schema"] == json.dumps(second), "messages with it are still read"
    assert registry.get(f"/schemas/ids/{number}/subjects") == []
    assert registry.get(f"/schemas/ids/{number}/subjects?deleted=true") == [subject]
    assert registry.id(subject, second) == number
    assert registry.get(f"{path}/versions") == [1, 3]
    assert registry.refused("DELETE", f"{path}?permanent=true")[:2] == (404, 40405)
    assert registry.ask("DELETE", path).body == [1, 3]
    assert registry.refused("DELETE", path)[:2] == (404, 40404)
    assert subject not in registry.get("/subjects")
    assert subject in registry.get("/subjects?deleted=true")
    assert registry.refused("GET", "/config" + path.removeprefix("/subjects"))[:2] == (404, 40408), "its level went with it"
    assert registry.ask("DELETE", f"{path}?permanent=true").body == [1, 2, 3]
    assert registry.refused("GET", f"/schemas/ids/{number}")[:2] == (404, 40403)
    assert registry.id(subject, record(INT)) > number


def test_references_are_put_in_for_parsing_and_verdicts_and_keep_what_they_need(
    registry: Served, subject: str, path: str
) -> None:
    place = {"type": "record", "name": "Place", "namespace": "rest.ref", "fields": [INT]}
    registry.id(f"{subject}-place", place)
    whole = record({"name": "home", "type": "rest.ref.Place"}, name="Person")
    reference = [{"name": "rest.ref.Place", "subject": f"{subject}-place", "version": 1}]
    assert registry.register(subject, whole).status == 422, "without its reference the type is not known"
    number = registry.id(subject, whole, references=reference)
    assert registry.get(f"/schemas/ids/{number}") == {"schema": json.dumps(whole), "references": reference}
    assert registry.get(f"{path}/versions/1")["references"] == reference
    assert registry.get(f"{path}-place/versions/1/referencedby") == [number]
    status, code, message = registry.refused("DELETE", f"{path}-place/versions/1")
    assert (status, code) == (422, 42206), message
    registry.ask("PUT", "/config" + f"{path}-place".removeprefix("/subjects"), {"compatibility": "NONE"})
    registry.id(f"{subject}-place", place | {"fields": [BARE]})
    other = [reference[0] | {"version": 2}]
    message = registry.refused("POST", f"{path}/versions", {"schema": json.dumps(whole), "references": other})[2]
    assert "READER_FIELD_MISSING_DEFAULT_VALUE" in message, "what is different is in the referenced schema"


def test_normalize_stores_one_way_to_write_a_schema(registry: Served, subject: str, path: str) -> None:
    schema = {
        "namespace": "rest.norm",
        "fields": [{"type": {"type": "int"}, "name": "a"}],
        "name": subject[5:37],
        "type": "record",
    }
    schema["name"] = "N" + str(schema["name"])
    assert registry.register(subject, schema, "?normalize=true").status == 200
    stored = registry.get(f"{path}/versions/1/schema")
    assert list(stored) == ["type", "name", "namespace", "fields"]
    assert stored["fields"] == [{"name": "a", "type": "int"}]
    assert registry.ask("POST", path, {"schema": json.dumps(schema)}).body["version"] == 1


def test_a_subject_that_is_read_only_is_not_changed(registry: Served, subject: str, path: str) -> None:
    registry.id(subject, record(INT))
    mode = "/mode" + path.removeprefix("/subjects")
    assert registry.ask("PUT", f"{mode}?force=False", {"mode": "READONLY"}).body == {"mode": "READONLY"}
    for method, rest, body in (("POST", "/versions", {"schema": '"int"'}), ("DELETE", "", None), ("DELETE", "/versions/1", None)):
        assert registry.refused(method, path + rest, body)[:2] == (422, 42205)
    assert registry.get(mode) == {"mode": "READONLY"}
    assert registry.ask("DELETE", mode).body == {"mode": "READONLY"}
    assert registry.refused("GET", mode)[:2] == (404, 40409)
    assert registry.refused("PUT", mode, {"mode": "IMPORT"})[:2] == (422, 42204)


def test_the_topic_says_what_the_registry_says(registry: Served, subject: str) -> None:
    number = registry.id(subject, record(INT))
    found = log.read(access.confluent(registry.settings, "admin"))
    assert found.ids()[subject] == number
    assert found.subjects() == registry.get("/subjects")


def test_the_server_and_the_bus_write_in_turn_and_no_id_is_given_twice(registry: Served, subject: str) -> None:
    """Each fences the other: the server's producer is thrown away and everything decided anew."""
    given: dict[int, str] = {}

    def take(number: int, schema: Any) -> None:
        assert given.setdefault(number, json.dumps(schema)) == json.dumps(schema)

    for turn in range(2):
        served, own = record(INT), record(NEW)
        take(registry.id(f"{subject}-{turn}", served), served)
        ids = log.ensure(registry.settings, {f"{subject}-own-{turn}": own})
        take(ids[f"{subject}-own-{turn}"], own)
        assert registry.id(f"{subject}-again-{turn}", own) == ids[f"{subject}-own-{turn}"], "known as soon as it is written"
    assert len(given) == 4


def test_who_proves_nothing_learns_nothing(registry: Served) -> None:
    nobody = Served(registry.settings, registry.url)
    assert nobody.get("/") == {}
    for asking in (nobody, registry.of("admin", "wrong"), registry.of("nobody", "x"), registry.of("../kafka-admin", "x")):
        for path in ("/subjects", "/schemas/ids/1", "/config", "/no/such/path", "/associations/x"):
            answer = asking.ask("GET", path)
            assert (answer.status, answer.body["error_code"]) == (401, 401)
        assert asking.ask("POST", "/subjects/x/versions", {"schema": '"int"'}).status == 401


def test_an_agency_sees_the_subjects_of_its_own_topics_and_changes_nothing(registry: Served) -> None:
    every = registry.get("/subjects")
    own = sorted(name for name in every if name.startswith("agency.tax."))
    assert own
    assert len(own) < len(every)
    tax = registry.of("agency-tax")
    assert tax.get("/subjects") == own
    assert {one["subject"] for one in tax.get("/schemas")} == set(own)
    theirs = {registry.get(f"/subjects/{name}/versions/latest")["id"] for name in own}
    for name in every:
        path = f"/subjects/{name.replace('/', '%2F').replace(' ', '%20').replace('ä', '%C3%A4')}"
        whole = registry.get(f"{path}/versions/latest")
        lookup = {"schema": whole["schema"], "references": whole.get("references", [])}
        if name in own:
            assert tax.get(f"{path}/versions/latest") == whole
            assert tax.get(f"/schemas/ids/{whole['id']}")["schema"] == whole["schema"]
            assert tax.get(f"/schemas/ids/{whole['id']}/subjects") == [
                s for s in registry.get(f"/schemas/ids/{whole['id']}/subjects") if s in own
            ]
            assert tax.ask("POST", path, lookup).status == 200
            continue
        for rest in ("", "/1", "/latest", "/1/schema", "/1/referencedby"):
            assert tax.refused("GET", f"{path}/versions{rest}")[:2] == (404, 40401)
        assert tax.refused("POST", path, lookup)[:2] == (404, 40401)
        assert tax.refused("POST", f"/compatibility{path}/versions/latest", lookup)[:2] == (404, 40401)
        assert tax.refused("GET", f"/config{path.removeprefix('/subjects')}")[:2] == (404, 40408)
        if whole["id"] not in theirs:
            for rest in ("", "/schema", "/subjects", "/versions"):
                assert tax.refused("GET", f"/schemas/ids/{whole['id']}{rest}")[:2] == (404, 40403)
    for method, path, body in (
        ("POST", f"/subjects/{own[0]}/versions", {"schema": '"int"'}),
        ("DELETE", f"/subjects/{own[0]}", None),
        ("DELETE", "/subjects/none-such", None),
        ("DELETE", f"/subjects/{own[0]}/versions/1", None),
        ("PUT", "/config", {"compatibility": "NONE"}),
        ("DELETE", "/config", None),
        ("PUT", "/mode", {"mode": "READONLY"}),
        ("PUT", f"/config/{own[0]}", {"compatibility": "NONE"}),
    ):
        for asking in (tax, registry.of("operator"), registry.of("engine")):
            assert asking.refused(method, path, body)[:2] == (403, 40301)
    assert registry.of("operator").get("/subjects") == every


def test_an_agency_that_no_agreement_names_is_nobody(registry: Served) -> None:
    """Its password file may lie there still."""
    file = registry.settings.secret_file("kafka-agency-gone")
    file.write_text("known")
    try:
        assert registry.of("agency-gone").ask("GET", "/subjects").status == 401
    finally:
        file.unlink()


def test_every_request_is_counted_by_route_and_code_and_never_by_subject(registry: Served, subject: str, path: str) -> None:
    def counted() -> dict[tuple[str, str], float]:
        found = health.samples(registry.settings)
        return {(at["route"], at["code"]): value for name, at, value in found if name == "bus_registry_requests_total"}

    before = counted()
    registry.id(subject, record(INT))
    registry.refused("GET", f"{path}/versions/9")
    registry.refused("GET", "/no/such/path")
    Served(registry.settings, registry.url).ask("GET", "/subjects")
    after = counted()
    asked = [
        ("/subjects/{subject}/versions", "200"),
        ("/subjects/{subject}/versions/{version}", "404"),
        ("none", "404"),
        ("none", "401"),
    ]
    assert [after[key] - before.get(key, 0) for key in asked] == [1, 1, 1, 1]
    names = {name for name, _, _ in health.samples(registry.settings)}
    assert {"bus_registry_schemas", "bus_registry_subjects", "bus_registry_write_seconds_bucket"} <= names
    assert all(subject not in route for route, _ in after)
