"""What an agency's user may cost a broker: bytes read, and time. Who reads everything at once slows himself down, not others.

A broker over whose quota a user is answers it later, and says how much later (KIP-13, KIP-124); nothing is refused or lost.
kafka-python has the requests, but its admin client no method for them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.protocol.admin import AlterClientQuotasRequest, DescribeClientQuotasRequest

from bus.config import ConfigError, Settings

_ANY_NAME = 2
"""Of DescribeClientQuotas: every user that has quotas of its own."""
_OURS = "agency-"
_LEAST_BYTES_PER_SECOND = 1_000_000
"""A broker measures over ten seconds, and keeps back for ever a batch that alone is more than that: 8.4 MB are the most."""
_VISIBLE_SECONDS = 20.0

Quotas = Mapping[str, float]
"""Kafka's name of a quota -> its value for each broker."""


def wanted(settings: Settings, principals: Collection[str]) -> dict[str, Quotas]:
    """Principal -> its quotas. Only agencies have any: the bus's own processes bound themselves. Raises ConfigError."""
    if settings.kafka.agency_read_bytes_per_second < _LEAST_BYTES_PER_SECOND:
        raise ConfigError(
            f"kafka.agency_read_bytes_per_second is {settings.kafka.agency_read_bytes_per_second}; with less than "
            f"{_LEAST_BYTES_PER_SECOND} an agency might never get a large batch: set it to that or more"
        )
    each = {
        "consumer_byte_rate": float(settings.kafka.agency_read_bytes_per_second),
        "request_percentage": float(settings.kafka.agency_request_percent),
    }
    return {name: each for name in principals if name.startswith(_OURS)}


def found(client: KafkaAdminClient) -> dict[str, Quotas]:
    """The agencies' quotas as the cluster has them. Raises ConfigError when it does not tell."""
    component = DescribeClientQuotasRequest.ComponentData(entity_type="user", match_type=_ANY_NAME, match=None)
    answer = _ask(client, DescribeClientQuotasRequest(components=[component], strict=True))
    if answer.error_code:
        raise ConfigError(f"the cluster does not tell its quotas: {answer.error_message}; has the administrator the right?")
    told = {entry.entity[0].entity_name: {v.key: v.value for v in entry.values} for entry in answer.entries or ()}
    return {name: quotas for name, quotas in told.items() if name and name.startswith(_OURS)}


def bring(client: KafkaAdminClient, settings: Settings, principals: Collection[str]) -> list[str]:
    """Makes the agencies' quotas exactly the wanted ones; whose were changed. Raises ConfigError when the cluster refuses."""
    there, needed = found(client), wanted(settings, principals)
    changed = sorted(name for name in there.keys() | needed.keys() if there.get(name) != needed.get(name))
    if not changed:
        return []
    entries = [_entry(name, there.get(name, {}), needed.get(name, {})) for name in changed]
    answer = _ask(client, AlterClientQuotasRequest(entries=entries, validate_only=False))
    if refused := {e.entity[0].entity_name: e.error_message for e in answer.entries if e.error_code}:
        raise ConfigError(f"the cluster refused quotas: {refused}; has the administrator the right to alter them?")
    _until_visible(client, needed)
    return changed


def _until_visible(client: KafkaAdminClient, needed: Mapping[str, Quotas]) -> None:
    """A broker applies quotas a moment after the controller has taken them."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while found(client) != needed:
        if time.monotonic() > deadline:
            raise ConfigError(f"the cluster took the quotas but does not show them after {_VISIBLE_SECONDS:.0f} s")
        time.sleep(0.02)


def _entry(name: str, there: Quotas, needed: Quotas) -> AlterClientQuotasRequest.EntryData:
    kind = AlterClientQuotasRequest.EntryData
    ops = [kind.OpData(key=key, value=value, remove=False) for key, value in needed.items()]
    ops += [kind.OpData(key=key, value=0.0, remove=True) for key in there if key not in needed]
    return kind(entity=[kind.EntityData(entity_type="user", entity_name=name)], ops=ops)


def _ask(client: KafkaAdminClient, request: Any) -> Any:
    manager = client._manager  # what its own methods use; there is no public way to send a request
    return manager.run(manager.send, request)
