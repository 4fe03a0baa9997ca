"""Checking an agency's topic as that agency's own consumer sees it: read with its user and no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from bus import access
from bus.config import Settings
from bus.core import topics
from bus.ledger.feed import Feed, FeedError
from bus.replay.extent import ANSWER_SECONDS, ReplayError, parse_point, resolve
from bus.replay.reader import Reader, consumer_config

TOLD_RECORDS = 100_000
"""How often `progress` is called."""
_POLL_SECONDS = 0.5


def verify(
    settings: Settings, topic: str, since: str = "beginning", progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """The report on `agency.<agency>.<agreement>`, committed records from `since` to the present end, ready for JSON.

    `since`: as `bus replay --from`. `progress` gets the records read and about how many there are. Raises FeedError,
    ConfigError when there is no bus.
    """
    agreement = topic.removeprefix(topics.agency(""))
    agency, dot, _ = agreement.partition(".")
    if agreement == topic or not dot:
        raise FeedError(f"{topic!r} is no agency's topic: give agency.<agency>.<agreement>; `bus topics` lists them")
    principal = f"agency-{agency}"
    access.bootstrap(settings)
    if not settings.secret_file(f"kafka-{principal}").exists():
        raise FeedError(f"{topic!r}: this bus knows no agency {agency!r}; `bus topics` lists the agencies' topics")
    connection = access.confluent(settings, principal) | {"log_level": 0}  # what matters comes as an error
    began = time.monotonic()
    try:
        _refuse_served(settings, AdminClient(connection), topic, agreement)
        feed = _read(connection, topic, agreement, since, progress)
    except ReplayError as error:
        raise FeedError(str(error)) from None
    except KafkaException as error:
        raise FeedError(f"cannot read {topic!r}: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    clean = feed.finish()
    return {
        "topic": topic,
        "principal": principal,
        "since": since,
        "ok": clean,
        "records": feed.records,
        "seconds": round(time.monotonic() - began, 3),
        "lanes": {str(lane): found.told() for lane, found in feed.lanes.items()},
    }


def _refuse_served(settings: Settings, agencys: AdminClient, topic: str, agreement: str) -> None:
    """Raises FeedError for a topic that is there, though its agency's user does not see it.

    Asks the bus's own user, where this machine has its password; nothing of the topic is read with it.
    """
    if topic in agencys.list_topics(timeout=ANSWER_SECONDS).topics or not settings.secret_file("kafka-admin").exists():
        return
    connection = access.confluent(settings, "admin") | {"log_level": 0}
    if topic in AdminClient(connection).list_topics(timeout=ANSWER_SECONDS).topics:
        raise FeedError(
            f"{topic!r} is there, but its agency's own user may not read it: its agreement is delivered by webhook or feed, or "
            f"is not in force (`bus agreement show {agreement}` tells which); `bus ledger` accounts for the topic"
        )


def _read(connection: dict[str, Any], topic: str, agreement: str, since: str, progress: Callable[[int, int], None]) -> Feed:
    begin, end = (parse_point(text, datetime.now(UTC)) for text in (since, "now"))
    consumer = Consumer(consumer_config(connection) | {"group.id": connection["sasl.username"]})
    try:
        extent = resolve(AdminClient(connection), consumer, topic, begin, end)
        feed = Feed(agreement, {lane: first for lane, (first, _) in extent.ranges.items()})
        reader = Reader(consumer, extent.whole(), time.monotonic)
        while reader.open:
            for message in reader.poll(_POLL_SECONDS):
                feed.add(message.partition() or 0, message.offset() or 0, message.value())
                if feed.records % TOLD_RECORDS == 0:
                    progress(feed.records, extent.estimate)
        return feed
    finally:
        consumer.close()
