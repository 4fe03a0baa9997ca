"""Brings a Kafka cluster, embedded or not, to the declared state: topics, users, rights. Doing it again changes nothing.

Rights of principals that the bus named (capture-*, agency-* and the fixed ones) and no longer declares are taken away.
"""

from __future__ import annotations

import secrets as randomness
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)
from kafka.errors import KafkaError

from bus import access
from bus.config import ConfigError, Settings
from bus.platform import secrets
from bus.platform.declared import Right, Topic

REQUEST_SECONDS = 30
_VISIBLE_SECONDS = 20.0
_OURS = ("operator", "developer", "register", "registry", "engine", "processors", "redrive", "ledger", "feed", "webhooks")
_OUR_PREFIXES = ("capture-", "agency-")
LOCKED_ITERATIONS = 16_384
"""Tells a locked user's credential from one in use, which has kafka-python's 4,096."""
_ENFORCED = ("cleanup.policy",)
"""Settings without which the bus is wrong; the others are given at creation and are the operator's from then on."""


@contextmanager
def admin(settings: Settings, principal: str = "admin") -> Iterator[KafkaAdminClient]:
    """kafka-python's admin client. Raises ConfigError when the cluster cannot be reached or refuses the password."""
    address = access.bootstrap(settings)
    try:
        client = KafkaAdminClient(
            **access.kafka_python(settings, principal),
            request_timeout_ms=REQUEST_SECONDS * 1000,
            bootstrap_timeout_ms=REQUEST_SECONDS * 1000,
        )
    except KafkaError as error:
        raise ConfigError(
            f"cannot reach Kafka at {address} as {principal}: {error or type(error).__name__}; is it up (`bus status`), "
            f"and does {settings.secret_file(f'kafka-{principal}')} hold its password?"
        ) from None
    try:
        yield client
    finally:
        client.close()


def create_topics(client: KafkaAdminClient, wanted: Mapping[str, Topic], replication: int) -> list[str]:
    """Creates what is missing; the names created. Raises ConfigError where an existing topic has another number of partitions."""
    there = {topic["name"]: len(topic["partitions"]) for topic in client.describe_topics() if topic["name"] in wanted}
    if wrong := [
        f"{name} has {there[name]}, not {wanted[name].partitions}"
        for name in sorted(there)
        if there[name] != wanted[name].partitions
    ]:
        raise ConfigError(
            f"the number of partitions is fixed when a cluster is created, and differs: {'; '.join(wrong)}; "
            "set kafka.lanes to the cluster's number, or begin with a new home"
        )
    missing = {
        name: {"num_partitions": topic.partitions, "replication_factor": replication, "configs": dict(topic.configs)}
        for name, topic in wanted.items()
        if name not in there
    }
    if missing:
        client.create_topics(missing, timeout_ms=REQUEST_SECONDS * 1000)
        client.wait_for_topics(list(missing), timeout_ms=REQUEST_SECONDS * 1000)
    _enforce(client, {name: wanted[name] for name in there})
    return list(missing)


def _enforce(client: KafkaAdminClient, wanted: Mapping[str, Topic]) -> None:
    if not wanted:
        return
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
    found = client.describe_configs(asked, config_filter="all")["topic"]
    changes = []
    for name, topic in wanted.items():
        wrong = {key: topic.configs[key] for key in _ENFORCED if found[name][key]["value"] != topic.configs[key]}
        if wrong:
            changes.append(ConfigResource(ConfigResourceType.TOPIC, name, configs=wrong))
    if changes:
        client.alter_configs(changes)


def create_users(client: KafkaAdminClient, settings: Settings, wanted: Iterable[str]) -> list[str]:
    """Gives each principal a user with the password of its secret file; the names that were made or changed.

    Only SCRAM users live in the cluster; with another mechanism the passwords must be there already. A user that is no
    longer wanted is locked: it gets a password that nobody knows. It is not deleted, for Kafka up to 4.3.1 can lose all users
    when it starts after a deletion: ScramDelta.apply drops a mechanism whose map a deletion leaves empty, and puts what
    follows into the dropped map.
    """
    mechanism = settings.kafka.sasl_mechanism
    names = list(wanted)
    fresh = {name for name in names if not settings.secret_file(f"kafka-{name}").exists()}
    if not mechanism.startswith("SCRAM-"):
        if fresh:
            raise ConfigError(
                f"with {mechanism} the bus cannot create users: put their passwords into {settings.home}/secrets "
                f"as kafka-<principal>: {', '.join(sorted(fresh))}"
            )
        return []
    made, locked = users_differing(client, settings, names)
    changes = [UserScramCredentialUpsertion(name, mechanism, secrets.password(settings, f"kafka-{name}")) for name in made]
    changes += [UserScramCredentialUpsertion(name, mechanism, randomness.token_bytes(32), LOCKED_ITERATIONS) for name in locked]
    refused = {user: why for user, why in client.alter_user_scram_credentials(changes).items() if why} if changes else {}
    if refused:
        raise ConfigError(f"the cluster refused users: {refused}; has the administrator the right to alter users?")
    return [change.user for change in changes]


def users_differing(client: KafkaAdminClient, settings: Settings, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """Users to make (or to let in again), and users to lock, of a cluster that keeps its users itself; else none."""
    names = list(wanted)
    if not settings.kafka.sasl_mechanism.startswith("SCRAM-"):
        return [], []
    described = client.describe_user_scram_credentials().items()
    there = {user: _is_locked(about) for user, about in described if not about["error"]}
    made = [name for name in names if there.get(name, True) or not settings.secret_file(f"kafka-{name}").exists()]
    return made, [name for name, locked in there.items() if _ours(name) and name not in names and not locked]


def _is_locked(about: Mapping[str, Any]) -> bool:
    return all(credential["iterations"] == LOCKED_ITERATIONS for credential in about["credential_infos"])


def grant(client: KafkaAdminClient, wanted: set[Right]) -> tuple[int, int]:
    """Makes the rules of our principals exactly `wanted`; how many were added and taken away."""
    missing, surplus = rights_differing(client, wanted)
    if missing and (failed := client.create_acls(missing)["failed"]):
        raise ConfigError(f"the cluster refused {len(failed)} access rules: {failed[0].__name__}; does it have an authorizer?")
    if surplus:
        client.delete_acls(surplus)
    _until_visible(client, wanted)
    return len(missing), len(surplus)


def rights_differing(client: KafkaAdminClient, wanted: set[Right]) -> tuple[list[ACL], list[ACL]]:
    """Rules that are missing, and those of our principals that are there and not wanted."""
    anything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    every, _ = client.describe_acls(ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, anything))
    there = {_acl_key(acl): acl for acl in every}
    needed = {_acl_key(acl): acl for acl in map(_acl, wanted)}
    missing = [acl for key, acl in needed.items() if key not in there]
    return missing, [acl for key, acl in there.items() if key not in needed and _ours(acl.principal.removeprefix("User:"))]


def _until_visible(client: KafkaAdminClient, wanted: set[Right]) -> None:
    """A broker applies rules a moment after the controller has taken them, and goes on applying old ones as long."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while True:
        if rights_differing(client, wanted) == ([], []):
            return
        if time.monotonic() > deadline:
            raise ConfigError(f"the cluster took the access rules but does not show them after {_VISIBLE_SECONDS:.0f} s")
        time.sleep(0.05)


def _ours(principal: str) -> bool:
    return principal in _OURS or principal.startswith(_OUR_PREFIXES)


def _acl(right: Right) -> ACL:
    pattern = ResourcePattern(ResourceType[right.resource.upper()], right.name, ACLResourcePatternType[right.pattern.upper()])
    return ACL(f"User:{right.principal}", "*", ACLOperation[right.operation], ACLPermissionType.ALLOW, pattern)


def _acl_key(acl: ACL) -> tuple[object, ...]:
    pattern = acl.resource_pattern
    return (
        acl.principal,
        acl.host,
        acl.operation,
        acl.permission_type,
        pattern.resource_type,
        pattern.resource_name,
        pattern.pattern_type,
    )
