"""One agency's interface as an AsyncAPI 3.0 document: its channels, its server and login, its messages, and nothing of others.

Kafka bindings 0.5.0. A channel is an agency topic; a message is what one dataset puts into it, with its Avro schema in a
multi-format schema object. Nothing secret and nobody's data is in it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bus.core import topics
from bus.core.agreement import Agreement, Way
from bus.core.identity import KEY_BYTES
from bus.subscription import words
from bus.subscription.files import Delivered, Files

VERSION = "3.0.0"
BINDING = "0.5.0"
AVRO = "application/vnd.apache.avro+json;version=1.9.0"
_LOGINS = {"SCRAM-SHA-512": "scramSha512", "SCRAM-SHA-256": "scramSha256", "PLAIN": "plain"}


@dataclass(frozen=True, slots=True)
class Server:
    """Where the topics are. `bootstrap`: empty where no bus was started yet and none is named in the settings."""

    bootstrap: tuple[str, ...]
    protocol: str
    mechanism: str
    lanes: int
    replication: int


def document(files: Files, agency: str, server: Server, now_ms: int) -> dict[str, Any]:
    """JSON-ready; of the agreements that are delivered by topic. Raises SubscriptionError for an agency that has no agreement."""
    agreements = [one for one in files.of(agency) if one.delivery.way is Way.TOPIC]
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for agreement in agreements:
        name = _key(agreement.id)
        delivered = {f"{name}_{one.dataset.name.replace('.', '-')}": one for one in files.delivered(agreement)}
        messages |= {key: _message(one) for key, one in delivered.items()}
        channels[name] = _channel(agreement, list(delivered), server, files.state(agreement, now_ms))
        operations[f"receive_{name}"] = _operation(agreement, name, list(delivered))
    return {
        "asyncapi": VERSION,
        "info": _info(agency, agreements, messages),
        "defaultContentType": "application/vnd.apache.avro",
        "servers": _servers(server),
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "securitySchemes": {"login": _login(agency, server)}},
    }


def _key(agreement: str) -> str:
    """Keys of AsyncAPI's maps are letters, digits, '-' and '_'; an agreement's id has no '_' of its own."""
    return agreement.replace(".", "_")


def _info(agency: str, agreements: list[Agreement], messages: dict[str, Any]) -> dict[str, Any]:
    content = b"".join(one.grant_hash for one in agreements) + json.dumps(messages, sort_keys=True).encode()
    return {
        "title": f"What {agency} receives",
        "version": hashlib.sha256(content).hexdigest()[:12],
        "description": (
            "Deliveries under this agency's data-sharing agreements. The version changes with any of them and with any schema. "
            "Read committed records only (isolation.level=read_committed). `seq` counts the deliveries of a topic and lane "
            "(partition) from 1 without gaps: a lower one is a repetition. Order holds within a lane. Compression is lz4."
        ),
    }


def _servers(server: Server) -> dict[str, Any]:
    common = {
        "protocol": "kafka-secure" if server.protocol.endswith("SSL") else "kafka",
        "security": [{"$ref": "#/components/securitySchemes/login"}],
    }
    if not server.bootstrap:
        variable = {"description": "host:port of a broker; this document was made where no bus runs"}
        return {"bus": {"host": "{bootstrap}", "variables": {"bootstrap": variable}} | common}
    names = ["bus", *(f"bus-{number}" for number in range(2, len(server.bootstrap) + 1))]
    return {name: {"host": address} | common for name, address in zip(names, server.bootstrap, strict=True)}


def _login(agency: str, server: Server) -> dict[str, Any]:
    about = f"User agency-{agency}, which may read these topics and nothing else; `bus subscriber bundle` writes its password."
    return {"type": _LOGINS.get(server.mechanism, "userPassword"), "description": f"{server.mechanism}. {about}"}


def _channel(agreement: Agreement, messages: list[str], server: Server, state: str) -> dict[str, Any]:
    topic = topics.agency(agreement.id)
    validity = f"valid from {words.instant(agreement.valid_from_ms)}"
    if agreement.valid_until_ms is not None:
        validity += f" until {words.instant(agreement.valid_until_ms)}"
    basis = f" Legal basis: {agreement.legal_basis}." if agreement.legal_basis else ""
    return {
        "address": topic,
        "title": agreement.id,
        "description": f"{agreement.purpose}.{basis} The agreement is {state}, {validity}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "kafka": {
                "topic": topic,
                "partitions": server.lanes,
                "replicas": server.replication,
                "bindingVersion": BINDING,
            }
        },
    }


def _operation(agreement: Agreement, channel: str, messages: list[str]) -> dict[str, Any]:
    who = f"agency-{agreement.agency}"
    group = {
        "type": "string",
        "pattern": f"^{who}(\\..+)?$",
        "description": f"{who}, or any name that begins with '{who}.'",
    }
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
        "bindings": {"kafka": {"groupId": group, "bindingVersion": BINDING}},
    }


def _message(one: Delivered) -> dict[str, Any]:
    about = one.dataset.row.get("doc", one.dataset.name)
    return {
        "name": f"{one.schema['namespace']}.{one.schema['name']}",
        "title": f"Delivery of {one.dataset.name}",
        "summary": about,
        "description": describe(one),
        "contentType": "application/vnd.apache.avro",
        "headers": {"type": "object", "properties": {}, "description": "Deliveries have no headers."},
        "payload": {"schemaFormat": AVRO, "schema": one.schema},
        "bindings": {
            "kafka": {
                "key": _message_key(one),
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "schemaLookupStrategy": "TopicRecordNameStrategy",
                "bindingVersion": BINDING,
            }
        },
    }


def _message_key(one: Delivered) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "minLength": KEY_BYTES, "maxLength": KEY_BYTES, "description": key_words(one)}


def key_words(one: Delivered) -> str:
    """Whom or what the message key stands for, in words."""
    if not one.dataset.people:
        return f"{KEY_BYTES} bytes that stand for the row, within this agreement"
    whom = f"the {one.dataset.people[0].name} of the row (a row that gives no PIN has a key of its own)"
    among = "the same in everything that is delivered with that PIN" if one.person_key else "a pseudonym within this agreement"
    return f"{KEY_BYTES} bytes that stand for {whom}: {among}"


def describe(one: Delivered) -> str:
    """Which rows come, and with what verdict, in words."""
    said = [f"{column} is {' or '.join(values)}" for column, values in one.grant.where]
    said += [f"the verdict is {' or '.join(one.grant.verdicts)}"] if one.grant.verdicts else []
    rows = f"Rows where {' and '.join(said)}." if said else "All rows."
    shares = "The verdict is shared." if one.grant.share_verdict else "The verdict is not shared: it is null."
    return f"{rows} {shares}"
