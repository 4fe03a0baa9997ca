"""A replay from what was typed to what was done: who connects, what is covered, a bar meanwhile, a report at the end."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bus import access
from bus.config import Settings
from bus.replay import run, sandbox
from bus.replay.extent import Extent, ReplayError, oldest_ms, parse_point, resolve
from bus.replay.reader import consumer_config

PRINCIPAL = "developer"
_TOLD_RECORDS = 100


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, as it was typed."""

    topic: str
    begin: str
    end: str
    into: str
    speed: str = "max"
    append: bool = False


def parse_speed(text: str) -> float | None:
    """'1x', '10x', '0.5x', or 'max' (None). Raises ReplayError."""
    if text == "max":
        return None
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not text.endswith("x") or not math.isfinite(factor) or factor <= 0:
        raise ReplayError(f"speed {text!r}: give 1x, 10x, 0.5x or max")
    return factor


def replay(settings: Settings, order: Order, replay_id: str, now: datetime | None = None) -> dict[str, Any]:
    """Runs a replay, with a bar on stderr; what it did, as JSON can carry it.

    Raises ReplayError, ConfigError when there is no bus. Ctrl-C ends it early: `complete` is then false.
    """
    sandbox.check_name(order.into)
    speed, now = parse_speed(order.speed), now or datetime.now(UTC)
    begin, end = parse_point(order.begin, now), parse_point(order.end, now)
    connection = access.confluent(settings, PRINCIPAL) | {"log_level": 0}  # what matters comes as an error
    admin, consumer = AdminClient(connection), Consumer(consumer_config(connection))
    try:
        extent = resolve(admin, consumer, order.topic, begin, end)
        now_ms = int(now.timestamp() * 1000)
        retention = sandbox.retention_ms(oldest_ms(admin, extent) or now_ms, now_ms)
        sandbox.check(admin, order.into, extent.lanes, order.append, retention)
        prepare = partial(sandbox.create, admin, order.into, extent.lanes, retention)
        producer = Producer(run.producer_config(connection))
        return _run(run.Replay(consumer, producer, extent, order.into, replay_id, prepare), order, extent, replay_id, speed)
    except KafkaException as error:
        raise ReplayError(f"Kafka does not answer: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    finally:
        consumer.close()


def _run(job: run.Replay, order: Order, extent: Extent, replay_id: str, speed: float | None) -> dict[str, Any]:
    began = time.monotonic()
    with _bar(f"{order.topic} → {order.into}", extent) as tick:
        try:
            job.run(speed, tick)
        except KeyboardInterrupt:
            job.finish()
    return _report(order, extent, replay_id, job.progress, time.monotonic() - began)


def _report(order: Order, extent: Extent, replay_id: str, done: run.Progress, seconds: float) -> dict[str, Any]:
    return {
        "replay_id": replay_id,
        "topic": order.topic,
        "into": order.into,
        "complete": done.complete,
        "records": done.records,
        "bytes": done.bytes,
        "seconds": round(seconds, 3),
        "last_timestamp_ms": done.last_timestamp_ms,
        "lanes": {
            str(lane): {"first": first, "next": done.next_offsets.get(lane, first)} for lane, (first, _) in extent.ranges.items()
        },
    }


def as_text(report: dict[str, Any]) -> str:
    """What a replay did, for people."""
    if report["complete"] and not report["records"]:
        return f"Nothing was committed to {report['topic']} in that range: no record replayed, {report['into']} left as it was."
    rate = report["records"] / report["seconds"] if report["seconds"] else 0.0
    count = f"{report['records']:,} records ({report['bytes'] / 1e6:.1f} MB) in {report['seconds']:.1f} s, {rate:,.0f}/s"
    if report["complete"]:
        return f"{report['into']}: {count}, header {run.REPLAY_HEADER}: {report['replay_id']}"
    last = datetime.fromtimestamp(report["last_timestamp_ms"] / 1000, UTC).isoformat(timespec="milliseconds")
    lanes = ", ".join(f"{lane}: {at['next']}" for lane, at in report["lanes"].items())
    return f"Interrupted: {report['into']} holds {count}, up to {last}. Next offsets by lane: {lanes}."


@contextmanager
def _bar(label: str, extent: Extent) -> Iterator[Callable[[run.Progress], None]]:
    """A bar on a terminal, nothing elsewhere. Counts offsets, some of which are ends of transactions."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    first = {lane: begin for lane, (begin, _) in extent.ranges.items()}
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=extent.estimate)

        def tick(done: run.Progress) -> None:
            if done.records % _TOLD_RECORDS == 0:
                bar.update(task, completed=sum(offset - first[lane] for lane, offset in done.next_offsets.items()))

        yield tick
        bar.update(task, completed=extent.estimate)
