"""AsyncAPI documents and ODCS contracts: valid by their own standards, of one agency only, and as the engine really delivers."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest
import yaml
from jsonschema import Draft7Validator
from open_data_contract_standard.model import OpenDataContractStandard

from bus import config
from bus.core import topics
from bus.core.agreement import Agreement, Delivery, Way
from bus.subscription import asyncapi, contract, files, place
from bus.subscription.asyncapi import Server
from bus.subscription.catalog import SubscriptionError

SCHEMA = json.loads((Path(__file__).parent / "asyncapi-3.0.0.json").read_text(encoding="utf-8"))
FILES = files.read(config.load(Path("/nonexistent"), env={}))
NOW_MS = 1_795_000_000_000
ONE = Server(("broker.example:9093",), "SASL_SSL", "SCRAM-SHA-512", 8, 3)
SERVERS = [
    ONE,
    Server(("127.0.0.1:20001",), "SASL_PLAINTEXT", "SCRAM-SHA-512", 4, 1),
    Server((), "SASL_PLAINTEXT", "SCRAM-SHA-256", 4, 1),
    Server(("a.example:1", "b.example:2"), "SASL_SSL", "PLAIN", 64, 3),
]


def problems(document: dict[str, Any]) -> list[str]:
    """What the official JSON schema has against a document."""
    return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in Draft7Validator(SCHEMA).iter_errors(document)]


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.mechanism)
@pytest.mark.parametrize("agency", FILES.agencies())
def test_an_agencys_document_is_valid_asyncapi(agency: str, server: Server) -> None:
    document = asyncapi.document(FILES, agency, server, NOW_MS)
    assert problems(document) == []
    assert yaml.safe_load(place.as_yaml(document)) == document


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("info"),
        lambda d: d.update(asyncapi="2.0.0"),
        lambda d: next(iter(d["operations"].values())).update(action="read"),
        lambda d: d["components"]["securitySchemes"]["login"].update(type="scramSha1"),
        lambda d: next(iter(d["channels"].values()))["bindings"]["kafka"].update(partitions=0),
        lambda d: next(iter(d["components"]["messages"].values()))["bindings"]["kafka"].update(schemaIdLocation="elsewhere"),
    ],
)
def test_the_validator_would_see_a_damaged_document(damage: Any) -> None:
    document = copy.deepcopy(asyncapi.document(FILES, FILES.agencies()[0], ONE, NOW_MS))
    damage(document)
    assert problems(document)


@pytest.mark.parametrize("agency", FILES.agencies())
def test_a_document_speaks_of_its_own_agency_only(agency: str) -> None:
    document = asyncapi.document(FILES, agency, ONE, NOW_MS)
    own = {topics.agency(one.id) for one in FILES.of(agency)}
    assert {channel["address"] for channel in document["channels"].values()} == own
    found = {name for text in texts(document) for name in re.findall(r"agency[.-][a-z0-9_-]+(?:\.[a-z0-9_-]+)?", text)}
    assert {name.split(".")[1] for name in found if name.startswith("agency.")} <= {agency, agency.replace("-", "_")}
    assert {name.split(".")[0] for name in found if name.startswith("agency-")} <= {f"agency-{agency}"}
    others = {one.id for one in FILES.agreements.values()} - {one.id for one in FILES.of(agency)}
    assert not [text for text in texts(document) if any(other in text for other in others)]


@pytest.mark.parametrize("agreement", FILES.agreements.values(), ids=lambda one: one.id)
def test_its_messages_are_what_the_engine_registers(agreement: Agreement) -> None:
    """The schemas are the very ones, under the subject that the lookup strategy leads to, and plain Avro to another library."""
    document = asyncapi.document(FILES, agreement.agency, ONE, NOW_MS)
    channel = next(c for c in document["channels"].values() if c["address"] == topics.agency(agreement.id))
    messages = [document["components"]["messages"][name] for name in channel["messages"]]
    for one, message in zip(FILES.delivered(agreement), messages, strict=True):
        assert message["payload"] == {"schemaFormat": asyncapi.AVRO, "schema": one.schema}
        assert one.subject == f"{channel['address']}-{message['name']}"
        fastavro.parse_schema(copy.deepcopy(one.schema))


def test_the_version_changes_with_an_agreement_and_with_nothing_else() -> None:
    agency = FILES.agencies()[0]
    one = FILES.of(agency)[0]
    hashed = dataclasses.replace(one, grant_hash=bytes(32))
    changed = dataclasses.replace(FILES, agreements=FILES.agreements | {one.id: hashed})

    def version(found: files.Files, server: Server, now_ms: int) -> str:
        return str(asyncapi.document(found, agency, server, now_ms)["info"]["version"])

    assert len({version(FILES, server, NOW_MS + i) for i, server in enumerate(SERVERS)}) == 1
    assert version(changed, ONE, NOW_MS) != version(FILES, ONE, NOW_MS)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.mechanism)
@pytest.mark.parametrize("agreement", FILES.agreements.values(), ids=lambda one: one.id)
def test_an_agreement_is_a_valid_data_contract(agreement: Agreement, server: Server) -> None:
    document = contract.document(FILES, agreement, server, NOW_MS)
    read = OpenDataContractStandard.from_string(place.as_yaml(document))
    kept = json.loads(read.model_dump_json(by_alias=True, exclude_none=True, exclude_unset=True))
    assert kept == document, "the model knows every key, and none is of another type"
    assert read.schema_ is not None
    assert [one.name for one in read.schema_] == [grant.dataset for grant in agreement.grants]


def test_a_contract_has_exactly_the_granted_fields_with_their_masks() -> None:
    for agreement in FILES.agreements.values():
        document = contract.document(FILES, agreement, ONE, NOW_MS)
        for grant, made in zip(agreement.grants, document["schema"], strict=True):
            data = next(one for one in made["properties"] if one["name"] == "data")
            masked = {one["name"] for one in data["properties"] if "transformDescription" in one}
            assert [one["name"] for one in data["properties"]] == [f.name.replace(".", "_") for f in grant.fields]
            assert masked == {f.name.replace(".", "_") for f in grant.fields if str(f.mask) != "plain"}


@pytest.mark.parametrize(
    ("standing", "statuses"),
    [
        ("agreed", ["draft", "active", "active", "retired"]),
        (None, ["draft", "proposed", "proposed", "retired"]),
        ("unsigned", ["proposed", "proposed", "proposed", "retired"]),
        ("agreed on, not applied", ["proposed", "proposed", "proposed", "retired"]),
        ("unsigned; its earlier text is in force", ["proposed", "proposed", "proposed", "retired"]),
        ("revoked", ["retired", "retired", "retired", "retired"]),
        ("rejected", ["retired", "retired", "retired", "retired"]),
    ],
)
def test_only_what_both_parties_stand_by_is_called_active_and_in_force(standing: str | None, statuses: list[str]) -> None:
    """By each document that tells of it, at both edges of its validity."""
    one = next(a for a in FILES.agreements.values() if a.valid_until_ms is not None)
    assert one.valid_until_ms is not None
    read = replace(FILES, standings=None if standing is None else dict.fromkeys(FILES.agreements, standing))
    edges = (one.valid_from_ms - 1, one.valid_from_ms, one.valid_until_ms - 1, one.valid_until_ms)
    assert [contract.document(read, one, ONE, at)["status"] for at in edges] == statuses
    told = [asyncapi.document(read, one.agency, ONE, at)["channels"][one.id.replace(".", "_")]["description"] for at in edges]
    assert ["The agreement is in force, " in text for text in told] == [status == "active" for status in statuses]


def test_an_interface_has_only_what_is_delivered_by_topic() -> None:
    one = next(iter(FILES.agreements.values()))
    other = replace(one, id=f"{one.agency}.asked-for", delivery=Delivery(Way.FEED))
    read = replace(FILES, agreements={one.id: one, other.id: other})
    assert set(asyncapi.document(read, one.agency, ONE, NOW_MS)["channels"]) == {one.id.replace(".", "_")}


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    agency, agreement = FILES.agencies()[0], next(iter(FILES.agreements))
    with pytest.raises(SubscriptionError, match=f"did you mean '{agency}'"):
        asyncapi.document(FILES, f"{agency}x", ONE, NOW_MS)
    with pytest.raises(SubscriptionError, match=f"did you mean '{agreement}'"):
        FILES.agreement(f"{agreement}x")


PARSE = """
const { Parser } = require('@asyncapi/parser');
const { AvroSchemaParser } = require('@asyncapi/avro-schema-parser');
const fs = require('fs');
(async () => {
  const told = {};
  for (const file of process.argv.slice(2)) {
    const parser = new Parser();
    parser.registerSchemaParser(AvroSchemaParser());
    const { document, diagnostics } = await parser.parse(fs.readFileSync(file, 'utf8'));
    const wrong = diagnostics.filter((d) => d.severity <= 1).map((d) => `${d.path.join('/')}: ${d.message}`);
    told[file] = { wrong, topics: document ? document.channels().all().map((c) => c.address()) : null };
  }
  console.log(JSON.stringify(told));
})();
"""
FETCH_SECONDS = 500.0


@pytest.mark.skipif(os.environ.get("LT_INTEROP") != "1", reason="make contracts-interop")
def test_the_official_parser_has_neither_errors_nor_warnings(tmp_path: Path) -> None:
    """Of every agency's document and every kind of server; and it refuses what is broken, Avro schemas among it."""
    (tmp_path / "parse.js").write_text(PARSE, encoding="utf-8")
    wanted: dict[str, set[str]] = {}
    for agency in FILES.agencies():
        for number, server in enumerate(SERVERS):
            document = asyncapi.document(FILES, agency, server, NOW_MS)
            wanted[f"{agency}-{number}.yaml"] = {topics.agency(one.id) for one in FILES.of(agency)}
            (tmp_path / f"{agency}-{number}.yaml").write_text(place.as_yaml(document), encoding="utf-8")
    broken = asyncapi.document(FILES, FILES.agencies()[0], ONE, NOW_MS)
    next(iter(broken["components"]["messages"].values()))["payload"] = {
        "schemaFormat": asyncapi.AVRO,
        "schema": {"type": "recrod"},
    }
    (tmp_path / "broken.yaml").write_text(place.as_yaml(broken), encoding="utf-8")
    install = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "@asyncapi/parser@3",
        "@asyncapi/avro-schema-parser@3",
    ]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=FETCH_SECONDS)
    done = subprocess.run(
        ["node", "parse.js", *wanted, "broken.yaml"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=FETCH_SECONDS,
    )
    told = json.loads(done.stdout)
    assert told.pop("broken.yaml")["wrong"]
    assert {name: one["wrong"] for name, one in told.items() if one["wrong"]} == {}
    assert {name: set(one["topics"]) for name, one in told.items()} == wanted
