"""`bus topics`: which topics there are, how much is in them, and what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli import frame

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

    from bus.config import Settings


def topics(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False) -> None:
    """List topics with partitions, offsets in use and contents. An offset is a record, or the end of a transaction.

    Example: [bold]bus topics[/]   or   [bold]bus topics --json | jq '.[].name'[/]
    """
    from rich.table import Table

    from bus.platform import cluster

    settings = frame.settings(context)
    with cluster.admin(settings, "operator") as client:
        found = listing(settings, client)
    if json:
        frame.as_json(found)
        return
    table = Table("topic", box=None, header_style="bold", pad_edge=False)
    table.add_column("lanes", justify="right")
    table.add_column("offsets", justify="right")
    table.add_column("what it is")
    for one in found:
        table.add_row(one["name"], str(one["partitions"]), f"{one['offsets']:,}", one["about"])
    frame.out().print(table)


def listing(settings: Settings, client: KafkaAdminClient) -> list[dict[str, Any]]:
    """[{"name", "partitions", "offsets", "about"}] in name order, without Kafka's own topics."""
    from kafka.admin import OffsetSpec
    from kafka.structs import TopicPartition

    from bus.avro import dataset
    from bus.core.topics import SANDBOX_PREFIX
    from bus.engine import agreements
    from bus.platform import declared

    datasets = dataset.load(settings.schemas)
    known = declared.topics_of(datasets, agreements.load(settings, datasets), settings.kafka.lanes)
    there = {t["name"]: len(t["partitions"]) for t in client.describe_topics() if not t["name"].startswith("__")}
    asked = [TopicPartition(name, lane) for name, count in there.items() for lane in range(count)]
    begins = client.list_partition_offsets(dict.fromkeys(asked, OffsetSpec.EARLIEST))
    ends = client.list_partition_offsets(dict.fromkeys(asked, OffsetSpec.LATEST))
    used = dict.fromkeys(there, 0)
    for lane in asked:
        used[lane.topic] += ends[lane].offset - begins[lane].offset

    def about(name: str) -> str:
        if name in known:
            return known[name].about
        return "a replay's sandbox" if name.startswith(SANDBOX_PREFIX) else "not declared by the bus"

    return [{"name": name, "partitions": there[name], "offsets": used[name], "about": about(name)} for name in sorted(there)]
