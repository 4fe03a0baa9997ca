"""Where a replay may write: topics under `sandbox.`, made by the developer who replays, with the source's lanes."""

from __future__ import annotations

import re

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported without saying so

from bus.core.topics import SANDBOX_PREFIX
from bus.replay.extent import ANSWER_SECONDS, ReplayError, edges

_NAME = re.compile(re.escape(SANDBOX_PREFIX) + r"[A-Za-z0-9._-]{1,200}")
_CONFIG = {
    "retention.ms": "-1",  # records keep their old timestamps: a retention in time would delete them at once
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


def check(admin: AdminClient, target: str, lanes: int, append: bool) -> None:
    """Raises ReplayError unless the sandbox may take records with this many lanes; unless `append` it must hold none."""
    check_name(target)
    known = admin.list_topics(timeout=ANSWER_SECONDS).topics
    if target not in known:
        return
    if len(known[target].partitions) != lanes:
        raise ReplayError(f"{target} has {len(known[target].partitions)} lanes, the source {lanes}: give another name")
    if not append and _holds_records(admin, target, lanes):
        raise ReplayError(f"{target} already holds records: give another name, or --append to add to them")


def create(admin: AdminClient, target: str, lanes: int) -> None:
    """Make the sandbox if it is not there. Raises ReplayError."""
    try:
        admin.create_topics([NewTopic(target, lanes, config=_CONFIG)], operation_timeout=ANSWER_SECONDS)[target].result(
            ANSWER_SECONDS
        )
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise ReplayError(f"cannot create {target}: {error.args[0].str()}") from error


def _holds_records(admin: AdminClient, target: str, lanes: int) -> bool:
    earliest, latest = edges(admin, target, lanes)
    return earliest != latest
