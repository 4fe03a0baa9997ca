"""An agreement as a data contract in the Open Data Contract Standard (ODCS) v3.1: schema, server, roles, validity, terms."""

from __future__ import annotations

from typing import Any

from bus.avro.dataset import Dataset
from bus.avro.types import split_null
from bus.core import topics
from bus.core.agreement import Agreement, GrantedField, Mask
from bus.subscription import words
from bus.subscription.asyncapi import Server, describe, key_words
from bus.subscription.files import Delivered, Files

API_VERSION = "v3.1.0"
REGISTER = "register."
_STATUS = {words.IN_FORCE: "active", words.NOT_YET: "draft", words.OVER: "retired", words.UNTOLD: "proposed"}
"""All others are not in force: revoked or rejected is `retired`, what waits for somebody `proposed`."""
_ENDED = ("revoked", "rejected")
_LOGICAL = {
    "date": "date",
    "timestamp-micros": "timestamp",
    "local-timestamp-micros": "timestamp",
    "uuid": "string",
    "string": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "boolean": "boolean",
    "bytes": "string",
}
"""Type by its name (words.type_name) -> ODCS logical type; decimals are numbers."""


def _status(state: str) -> str:
    return _STATUS.get(state) or ("retired" if any(word in state for word in _ENDED) else "proposed")


def document(files: Files, agreement: Agreement, server: Server, now_ms: int) -> dict[str, Any]:
    """JSON-ready. The version is how the grant hash of every delivery begins: it changes with the agreement."""
    register = next(one for one in files.datasets.values() if one.register)
    topic = topics.agency(agreement.id)
    made: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "DataContract",
        "id": agreement.id,
        "name": agreement.id,
        "version": agreement.grant_hash.hex()[:12],
        "status": _status(files.state(agreement, now_ms)),
        "description": _terms(agreement),
        "schema": [_object(topic, one, register) for one in files.delivered(agreement)],
        "servers": [_server(topic, number, address, server) for number, address in enumerate(server.bootstrap or ("",), 1)],
        "roles": [
            {
                "role": f"agency-{agreement.agency}",
                "access": "read",
                "description": "The only user; consumer groups are this name, and any that begins with it and a dot",
            }
        ],
        "slaProperties": _validity(agreement),
        "customProperties": [{"property": "grantHash", "value": agreement.grant_hash.hex()}],
    }
    return made


def data_fields(described: dict[str, Any]) -> list[dict[str, Any]]:
    """The properties of `data` in one entry of a contract's schema."""
    found: list[dict[str, Any]] = next(one for one in described["properties"] if one["name"] == "data")["properties"]
    return [{"transformDescription": ""} | one for one in found]


def _terms(agreement: Agreement) -> dict[str, Any]:
    made: dict[str, Any] = {
        "purpose": agreement.purpose,
        "limitations": "Only for the purpose above. A row that was withdrawn (op w) or deleted (op d) is not kept.",
        "usage": "Read committed records only. Hold rows by topic, message key and row_key; know repetitions by seq.",
    }
    if agreement.legal_basis:
        made["customProperties"] = [{"property": "legalBasis", "value": agreement.legal_basis}]
    return made


def _validity(agreement: Agreement) -> list[dict[str, Any]]:
    made = [{"property": "generalAvailability", "value": words.instant(agreement.valid_from_ms), "driver": "regulatory"}]
    if agreement.valid_until_ms is not None:
        made.append({"property": "endOfLife", "value": words.instant(agreement.valid_until_ms), "driver": "regulatory"})
    return made


def _server(topic: str, number: int, address: str, server: Server) -> dict[str, Any]:
    made: dict[str, Any] = {"server": f"bus-{number}" if number > 1 else "bus", "type": "kafka", "format": "avro"}
    made["host"] = address or "named by the bus when it runs"
    made["customProperties"] = [
        {"property": "topic", "value": topic},
        {"property": "partitions", "value": server.lanes},
        {"property": "securityProtocol", "value": server.protocol},
        {"property": "saslMechanism", "value": server.mechanism},
    ]
    return made


def _object(topic: str, one: Delivered, register: Dataset) -> dict[str, Any]:
    delivered = {field["name"]: field for field in _data(one)}
    fields = [_granted(granted, one.dataset, register, delivered) for granted in one.grant.fields]
    head = [_head(field) for field in one.schema["fields"] if field["name"] != "data"]
    data = {
        "name": "data",
        "logicalType": "object",
        "physicalType": "record",
        "required": False,
        "description": "The granted fields; null for d and w",
        "properties": fields,
    }
    made: dict[str, Any] = {
        "name": one.dataset.name,
        "physicalName": topic,
        "physicalType": "topic",
        "logicalType": "object",
        "description": str(one.dataset.row.get("doc", "")),
        "dataGranularityDescription": "One change of one row",
        "properties": [*head, data],
        "customProperties": [
            {"property": "rows", "value": describe(one)},
            {"property": "messageKey", "value": key_words(one)},
            {"property": "subject", "value": one.subject},
        ],
    }
    return made


def _data(one: Delivered) -> list[dict[str, Any]]:
    """The fields of the delivery's `data` record."""
    record = next(field for field in one.schema["fields"] if field["name"] == "data")["type"][1]
    found: list[dict[str, Any]] = record["fields"]
    return found


def _head(field: dict[str, Any]) -> dict[str, Any]:
    """`event_id`, `seq` and what else stands before the data."""
    inner, nullable = split_null(field["type"])
    kind = inner["type"] if isinstance(inner, dict) else inner
    made = {
        "name": field["name"],
        "logicalType": "integer" if kind in ("int", "long") else "string",
        "physicalType": f"{kind}({inner['size']})" if kind == "fixed" else str(kind),
        "required": not nullable,
        "description": field["doc"],
    }
    if kind == "enum":
        made["examples"] = list(inner["symbols"])
    return made


def _granted(granted: GrantedField, dataset: Dataset, register: Dataset, delivered: dict[str, dict[str, Any]]) -> dict[str, Any]:
    of_register = granted.name.startswith(REGISTER)
    owner, column = (register, granted.name[len(REGISTER) :]) if of_register else (dataset, granted.name)
    source = next(field for field in owner.row["fields"] if field["name"] == column)
    name = granted.name.replace(".", "_")
    avro_type = delivered[name]["type"]
    kind = words.type_name(avro_type)
    made: dict[str, Any] = {
        "name": name,
        "logicalType": "number" if kind.startswith("decimal") else _LOGICAL.get(kind, "string"),
        "physicalType": kind,
        "required": not words.optional(avro_type),
        "description": str(source.get("doc", "")),
        "classification": source.get("pii", "") or "none",
        "transformSourceObjects": [owner.name],
    }
    if granted.mask != Mask.PLAIN:
        made["transformDescription"] = words.mask(granted.mask)
    if not of_register and column in dataset.primary_key:
        made |= {"primaryKey": True, "primaryKeyPosition": dataset.primary_key.index(column) + 1}
    return made
