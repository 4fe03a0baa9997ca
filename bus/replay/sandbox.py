"""Where a replay may write: topics under `sandbox.`, made by the developer who replays, with the source's lanes."""

from __future__ import annotations

import re

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]  # re-exported without saying so

from bus.core.topics import SANDBOX_PREFIX
from bus.replay.extent import ANSWER_SECONDS, DISORDER_MS, ReplayError, edges

_NAME = re.compile(re.escape(SANDBOX_PREFIX) + r"[A-Za-z0-9._-]{1,200}")
_DAY_MS = 86_400_000
KEEP_MS = 7 * _DAY_MS
"""How long a replay stays: what it holds is as personal as its source."""
_CONFIG = {
    "retention.bytes": str(1 << 30),  # a lane
    "segment.bytes": str(64 << 20),
    "message.timestamp.type": "CreateTime",
    "cleanup.policy": "delete",
}


def check_name(target: str) -> None:
    """Raises ReplayError for every name outside the sandbox."""
    if not _NAME.fullmatch(target):
        raise ReplayError(
            f"a replay writes into {SANDBOX_PREFIX}NAME only, got {target!r}: letters, digits, '.', '_', '-', at most 200"
        )


def retention_ms(oldest_ms: int, now_ms: int) -> int:
    """Kafka counts from a record's timestamp, which a replay leaves as old as it was: so KEEP_MS beside the oldest one's age."""
    return KEEP_MS + DISORDER_MS + max(0, now_ms - oldest_ms)


def check(admin: AdminClient, target: str, lanes: int, append: bool, retention: int) -> None:
    """Raises ReplayError unless the sandbox may take records with this many lanes, and keeps them about as long as one with
    this retention (milliseconds) would; unless `append` it must hold none."""
    check_name(target)
    known = admin.list_topics(timeout=ANSWER_SECONDS).topics
    if target not in known:
        return
    if len(known[target].partitions) != lanes:
        raise ReplayError(f"{target} has {len(known[target].partitions)} lanes, the source {lanes}: give another name")
    if not append and _holds_records(admin, target, lanes):
        raise ReplayError(f"{target} already holds records: give another name, or --append to add to them")
    if 0 <= _retention(admin, target) < retention - KEEP_MS + _DAY_MS:
        raise ReplayError(f"{target} was made for younger records and would soon delete the oldest of these: give another name")


def _retention(admin: AdminClient, target: str) -> int:
    """Milliseconds; -1: for ever."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, target)
    found = admin.describe_configs([resource], request_timeout=ANSWER_SECONDS)[resource].result(ANSWER_SECONDS)
    return int(found["retention.ms"].value)


def create(admin: AdminClient, target: str, lanes: int, retention: int) -> None:
    """Make the sandbox if it is not there, with this retention in milliseconds. Raises ReplayError."""
    topic = NewTopic(target, lanes, config={**_CONFIG, "retention.ms": str(retention)})
    try:
        admin.create_topics([topic], operation_timeout=ANSWER_SECONDS)[target].result(ANSWER_SECONDS)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise ReplayError(f"cannot create {target}: {error.args[0].str()}") from error


def _holds_records(admin: AdminClient, target: str, lanes: int) -> bool:
    earliest, latest = edges(admin, target, lanes)
    return earliest != latest
