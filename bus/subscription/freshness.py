"""How old the newest event of each dataset is, by the broker's own index of times: no record is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bus.avro.dataset import Dataset
from bus.config import Settings

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

PRINCIPAL = "operator"


def newest_ms(settings: Settings, datasets: Mapping[str, Dataset]) -> dict[str, int | None] | None:
    """Dataset -> Unix milliseconds at which its newest event was written, None where there was none yet. None: no bus runs.

    An event's transaction ends some milliseconds after it, and the broker may name that time. Raises ConfigError where a
    cluster that should answer does not.
    """
    from bus.platform import cluster, processes, roster

    if not settings.kafka.bootstrap and processes.running(settings, roster.KAFKA) is None:
        return None
    with cluster.admin(settings, PRINCIPAL) as client:
        return _ask(client, {name: one.topic for name, one in datasets.items()})


def _ask(client: KafkaAdminClient, topics: Mapping[str, str]) -> dict[str, int | None]:
    from kafka.admin import OffsetSpec
    from kafka.structs import TopicPartition

    lanes = {t["name"]: len(t["partitions"]) for t in client.describe_topics()}
    asked = [TopicPartition(topic, lane) for topic in topics.values() for lane in range(lanes.get(topic, 0))]
    told = client.list_partition_offsets(dict.fromkeys(asked, OffsetSpec.MAX_TIMESTAMP))
    newest: dict[str, int] = {}
    for place, found in told.items():
        newest[place.topic] = max(newest.get(place.topic, -1), found.timestamp)
    return {name: at if (at := newest.get(topic, -1)) >= 0 else None for name, topic in topics.items()}
