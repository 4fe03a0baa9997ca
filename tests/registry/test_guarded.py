"""What nobody learns or does by asking the registry: foreign subjects; its time and memory; what goes over a line in clear."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import subprocess
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus import access, config
from bus.avro import normal, records
from bus.avro.catalogue import Catalogue
from bus.config import Settings
from bus.contracts import compatibility
from bus.platform import ports
from bus.registry import rules
from bus.registry.answers import Refused
from tests.registry.served import Served, serving
from tests.registry.test_rest import INT, record

ABSENT = "agency.nobody.nothing-vn.lienthong.Delivery"


def test_a_foreign_subject_is_to_an_agency_like_one_that_there_is_not(registry: Served) -> None:
    """On every route, in the path, in the query and as a reference, with the same bytes but for the name that was asked for."""
    tax = registry.of("agency-tax")
    own, foreign = (next(n for n in registry.get("/subjects") if n.startswith("agency.tax.") is mine) for mine in (True, False))
    version = registry.get(f"/subjects/{quote(foreign, safe='')}/versions/latest")
    said = json.loads(version["schema"])
    name = f"{said['namespace']}.{said['name']}"

    def answers(subject: str) -> list[Any]:
        at = quote(subject, safe="")
        by_reference = {"schema": json.dumps(name), "references": [{"name": name, "subject": subject, "version": 1}]}
        itself = {"schema": version["schema"]}
        asked: list[tuple[str, str, Any]] = [
            *(("GET", f"/subjects/{at}/versions{rest}", None) for rest in ("", "/1", "/latest", "/1/schema", "/1/referencedby")),
            *(("GET", f"/subjects/{at}/versions?{flag}=true", None) for flag in ("deleted", "deletedOnly")),
            *(("GET", f"/{what}/{at}{query}", None) for what in ("config", "mode") for query in ("", "?defaultToGlobal=true")),
            *(("GET", f"/{what}?subjectPrefix={at}", None) for what in ("subjects", "schemas")),
            *(("POST", f"/subjects/{at}{query}", itself) for query in ("", "?deleted=true", "?normalize=true")),
            *(("POST", f"/compatibility/subjects/{at}/versions{rest}?verbose=true", itself) for rest in ("", "/1", "/latest")),
            *(("POST", f"/subjects/{quote(own, safe='')}{query}", by_reference) for query in ("", "?deleted=true")),
            *(
                ("POST", f"/compatibility/subjects/{quote(own, safe='')}/versions{rest}?verbose=true", by_reference)
                for rest in ("", "/1")
            ),
            *(("PUT", f"/config/{at}", {"compatibility": "NONE"}), ("DELETE", f"/mode/{at}", None)),
            ("DELETE", f"/subjects/{at}", None),
        ]
        found = [tax.ask(*one) for one in asked]
        return [(one.status, json.loads(json.dumps(one.body).replace(json.dumps(subject)[1:-1], "ASKED"))) for one in found]

    assert answers(foreign) == answers(ABSENT)


def test_what_a_stored_schema_refers_to_is_not_asked_about_again() -> None:
    """Who may see a subject may see what its versions are made of; what he refers to himself he must see."""
    found = Catalogue()

    def put(subject: str, schema: Any, *references: records.Reference) -> None:
        for one in rules.register(found, subject, rules.Given(json.dumps(schema), references)).records:
            found.apply(one.key, one.value)

    place = {"type": "record", "name": "Place", "fields": [INT]}
    put("theirs", place)
    to = records.Reference("Place", "theirs", 1)
    put("mine", {"type": "record", "name": "Person", "fields": [{"name": "home", "type": "Place"}]}, to)

    def sees(subject: str) -> bool:
        return subject == "mine"

    mine = rules.Given(json.dumps({"type": "record", "name": "P", "fields": [{"name": "of", "type": "Person"}]}), ())
    mine = replace(mine, references=(records.Reference("Person", "mine", 1),))
    assert rules.resolve(found, mine, sees).plain
    with pytest.raises(Refused, match="no version 1 of subject 'theirs'"):
        rules.resolve(found, rules.Given('"Place"', (to,)), sees)


def test_a_schema_that_another_one_needs_is_not_removed_for_good_either(registry: Served) -> None:
    """Hidden first, referred to then: its text still is what makes the other one whole."""
    subject = f"guarded-{uuid.uuid4().hex}"
    registry.id(f"{subject}-place", {"type": "record", "name": "Place", "namespace": "g", "fields": [INT]})
    assert registry.ask("DELETE", f"/subjects/{subject}-place").status == 200
    reference = [{"name": "g.Place", "subject": f"{subject}-place", "version": 1}]
    whole = record({"name": "home", "type": "g.Place"})
    number = registry.id(subject, whole, references=reference)
    for path in (f"/subjects/{subject}-place", f"/subjects/{subject}-place/versions/1"):
        assert registry.refused("DELETE", f"{path}?permanent=true")[:2] == (422, 42206)
    assert registry.get(f"/schemas/ids/{number}")["references"] == reference


LONG = record(INT) | {"doc": "x" * 200_000}
SYMBOLS = {"type": "enum", "name": "E", "symbols": [f"s{i}" for i in range(5_001)]}
UNION = [{"type": "fixed", "name": f"f{i}", "size": i} for i in range(65)]


def of(schema: Any) -> bytes:
    return json.dumps({"schema": json.dumps(schema)}).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"schema": "\\"int\\"", "references": [{"name": "x", "subject": "y", "version": 1e400}]}', "Invalid references"),
        (b'{"schema": "\\"\\ud800\\""}', "surrogate"),
        (b'{"schema": "{\\"type\\": \\"enum\\", \\"name\\": \\"E\\", \\"symbols\\": [\\"\\\\ud800\\"]}"}', "surrogate"),
        (b'{"schema": "\\"int\\"", "references": [{"name": "x", "subject": "\\udfff", "version": 1}]}', "surrogate"),
        (of(LONG), "longer than 200,000"),
        (of(SYMBOLS), "5,000"),
        (of(UNION), "64 types"),
    ],
)
def test_what_no_schema_can_be_is_refused_with_the_reason(registry: Served, body: bytes, says: str) -> None:
    own = next(name for name in registry.get("/subjects") if name.startswith("agency.tax."))
    tax, at = registry.of("agency-tax"), quote(own, safe="")
    for asking, path in ((registry, f"/subjects/guarded-{uuid.uuid4().hex}/versions"), (tax, f"/subjects/{at}")):
        status, code, message = asking.refused("POST", path, body)
        assert (status, code) in ((422, 42201), (400, 40001))
        assert says in message


def test_a_schema_that_is_dear_to_compare_is_given_up_and_holds_no_writer_up(registry: Served) -> None:
    """Unions of many records: each is tried with each. Reads and a writer are answered meanwhile, and then it is refused."""
    tax = registry.of("agency-tax")
    own = next(name for name in registry.get("/subjects") if name.startswith("agency.tax."))
    fields = [
        {"name": f"u{n}", "type": [{"type": "record", "name": f"r{n}_{i}", "fields": [INT]} for i in range(60)]}
        for n in range(30)
    ]
    dear = json.dumps({"type": "record", "name": "R", "fields": fields})
    subject = f"guarded-{uuid.uuid4().hex}"
    registry.id(subject, dear)
    said: list[tuple[int, int, str]] = []
    path = f"/compatibility/subjects/{subject}/versions"
    asking = threading.Thread(target=lambda: said.append(registry.refused("POST", path, {"schema": dear.replace('"R"', '"Q"')})))
    asking.start()
    assert tax.get("/subjects")
    assert tax.get(f"/subjects/{quote(own, safe='')}/versions")
    assert registry.id(f"{subject}-other", record(INT))
    asking.join(60)
    assert said[0][:2] == (422, 42201)
    assert "too much work" in said[0][2]


def test_a_schema_that_is_dear_to_check_is_given_up_and_nobody_elses_lookup_waits(registry: Served) -> None:
    """Each of two thousand defaults leaves out two thousand fields but one. Others are answered all the while."""
    names = [f"f{number}" for number in range(2_000)]
    inner = record(*({"name": name, "type": "int", "default": 0} for name in names), name="Inner")
    many = {"name": "many", "type": {"type": "array", "items": inner}, "default": [{name: 0} for name in names]}
    dear = {"schema": json.dumps(record(many))}
    own = next(name for name in registry.get("/subjects") if name.startswith("agency.tax."))
    tax, path = registry.of("agency-tax"), f"/subjects/{quote(own, safe='')}"
    said: list[tuple[int, int, str]] = []
    asking = [threading.Thread(target=lambda: said.append(tax.refused("POST", path, dear))) for _ in range(3)]
    for thread in asking:
        thread.start()
    answered = 0
    while any(thread.is_alive() for thread in asking):
        assert registry.refused("POST", path, {"schema": '"int"'})[:2] == (404, 40403)
        answered += len(said) < len(asking)
    assert answered > 5, "others waited for what was dear"
    assert {one[:2] for one in said} == {(422, 42201)}
    assert all("too much work" in one[2] for one in said)


def test_what_is_asked_about_is_not_remembered() -> None:
    """Whoever asks about ever new texts fills nobody's memory."""
    found = Catalogue()
    for one in rules.register(found, "s", rules.Given('"int"', ())).records:
        found.apply(one.key, one.value)
    before = normal.remembered.cache_info().currsize
    for number in range(50):
        with pytest.raises(Refused):
            rules.lookup(found, "s", rules.Given(json.dumps(record(INT, name=f"N{number}")), ()), deleted=False)
    assert normal.remembered.cache_info().currsize <= before + 1


def test_levels_are_the_same_everywhere() -> None:
    assert tuple(level.value for level in compatibility.Level) == records.LEVELS


WORDS = st.sampled_from(["int", "record", "enum", "", "\ud800", "name", "type", "fields", -1, 1e300])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | WORDS,
    lambda of: (
        st.lists(of, max_size=3) | st.dictionaries(st.sampled_from(["type", "name", "fields", "schema", "x"]), of, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=JSON, references=JSON, method=st.sampled_from(["POST", "PUT", "GET", "DELETE"]), version=st.text(max_size=6))
def test_nobodys_mistake_is_a_fault_of_the_registrys(
    registry: Served, schema: Any, references: Any, method: str, version: str
) -> None:
    """Whatever stands in a request, the answer is none of 5xx, and is JSON."""
    body = json.dumps({"schema": schema if isinstance(schema, str) else json.dumps(schema), "references": references}).encode()
    at = quote(version.encode("utf-8", "replace").decode(), safe="") or "1"
    for place in (f"/subjects/fuzz/versions/{at}", "/subjects/fuzz/versions", "/subjects/fuzz"):
        for path in (place, f"/compatibility{place}"):
            answer = registry.ask(method, path, body if method in ("POST", "PUT") else None)
            assert answer.status < 500, (method, path, body, answer)


def second_home(one: Settings, home: Path) -> Settings:
    """Another machine's home of the same bus: the same secrets and broker, ports of its own."""
    home.mkdir()
    (home / "secrets").symlink_to(one.home / "secrets")
    for name in ("run", "log"):
        (home / name).mkdir()
    text = f"kafka: {{bootstrap: '{access.bootstrap(one)}'}}\nparties: '{one.home / 'parties'}'\n"
    (home / config.SETTINGS_FILE).write_text(text, encoding="utf-8")
    return replace(config.load(home, env={}), agreements=one.agreements, schemas=one.schemas)


def test_two_registries_at_once_lose_nothing_and_give_no_id_twice(registry: Served, tmp_path: Path) -> None:
    """Each fences the other with every write, and takes in what the other wrote before it decides."""
    other = second_home(registry.settings, tmp_path / "other")
    ports.ensure(other)
    ids: set[int] = set()
    subject = f"two-{uuid.uuid4().hex}"
    with serving(other) as beside:
        assert beside.url != registry.url
        for turn in range(3):
            for number, served in enumerate((registry, beside)):
                given = served.id(f"{subject}-{turn}-{number}", record(INT))
                assert given not in ids, "an id was given twice"
                ids.add(given)
        for served in (registry, beside):
            for given in ids:
                assert served.ask("GET", f"/schemas/ids/{given}").status == 200, "what the other one wrote is known here"


def test_with_a_certificate_it_listens_with_tls_and_in_no_other_way(registry: Served, tmp_path: Path) -> None:
    assert shutil.which("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    names = ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names], check=True, capture_output=True)
    other = second_home(registry.settings, tmp_path / "tls")
    with (other.home / config.SETTINGS_FILE).open("a", encoding="utf-8") as file:
        file.write(f"registry: {{tls_certificate: '{certificate}', tls_key: '{key}'}}\n")
    other = replace(config.load(other.home, env={}), agreements=other.agreements, schemas=other.schemas)
    port = ports.ensure(other).registry
    assert access.registry_url(other) == f"https://127.0.0.1:{port}"
    trusted = ssl.create_default_context(cafile=str(certificate))
    with serving(other, answers=lambda: _get(http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=trusted))):
        assert _get(http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=trusted)) == (200, b"{}")
        with pytest.raises((http.client.HTTPException, OSError)):
            _get(http.client.HTTPConnection("127.0.0.1", port, timeout=5))
        address = urlsplit(access.registry_url(other))
        assert (address.scheme, address.port) == ("https", port)


def _get(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
