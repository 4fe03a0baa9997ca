"""How many events of each source were verified, and in which fields they differed from the register, per minute.

The example to copy: an app, a topic, an agent, a timer. State is rebuilt from the log after every assignment, so
restarts, rebalances and repeated records change no figure (see `windows`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import faust

from bus import telemetry
from bus.avro import dataset as datasets
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core.outcome import VERDICTS, Verdict
from bus.core.topics import verified
from bus.processors.application import create_app, verified_topics
from bus.processors.windows import TumblingWindows, Window

_GRAVITY = {verdict: place for place, verdict in enumerate(VERDICTS)}
_PUBLISH_SECONDS = 1.0


def build(settings: Settings, windows: TumblingWindows | None = None) -> faust.App:
    """The app `processors`, with windows of a minute. Raises ConfigError or SchemaError when there is nothing to run on."""
    windows = windows or TumblingWindows()
    app = create_app(settings, start_at=lambda: windows.start_at(time.time()))
    sources = {verified(d.name): d for d in datasets.load(settings.schemas).values() if d.people and not d.register}
    events = verified_topics(app, [d.name for d in sources.values()])

    taken = telemetry.counter("bus_processor_events_total")

    @app.agent(events, name="mismatches", concurrency=1)
    async def count(stream: faust.StreamT[Any]) -> None:
        async for event in stream.events():
            if event.value is None:
                continue  # a record that could not be decoded: the codec has counted it
            message = event.message
            source = sources[message.topic]
            lane = message.topic, message.partition
            windows.add(
                message.generation_id, lane, message.offset, message.timestamp, time.time(), findings(source.name, event.value)
            )
            taken.inc()

    @app.timer(_PUBLISH_SECONDS)  # type: ignore[untyped-decorator]
    async def publish() -> None:
        now = time.time()
        windows.observe(app.consumer_generation_id, now)
        telemetry.gauge("bus_processor_behind_seconds").set(windows.behind_seconds(now))
        if window := windows.closed(now):
            show(list(sources.values()), window)

    return app


def findings(source: str, event: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What one verified event adds to its window: its gravest verdict, and each register field in which someone differs."""
    people = event["verification"]
    yield source, "status", max((p["status"] for p in people), key=_GRAVITY.__getitem__, default=Verdict.NO_PIN.value)
    for name in {name for p in people for name in p["mismatched"]}:
        yield source, "field", name


def show(sources: list[Dataset], window: Window) -> None:
    """Set the gauges to one closed window, zeros included."""
    for source in sources:
        for status in VERDICTS:
            telemetry.gauge("bus_verified_windowed").labels(source.name, status).set(window.counts[source.name, "status", status])
        for name in sorted({name for role in source.people for name in role.match}):
            telemetry.gauge("bus_mismatches_windowed").labels(source.name, name).set(window.counts[source.name, "field", name])
    telemetry.gauge("bus_window_end_timestamp_seconds").set(window.end)
