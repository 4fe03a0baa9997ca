"""Counts of what was committed, and how long it took; nothing is counted before its transaction is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bus import telemetry
from bus.core.outcome import CHANGE_OPS, Cause, DeadCode
from bus.engine.batch import MARKER, Batch, Run
from bus.engine.lanes import Lane

_EVENT_ID_BYTES = 16
_LONG_BITS = 64
_SOURCE_TEXTS, _SOURCE_NUMBERS = 3, 4


class Meter:
    """The metrics of one worker. Labelled children are looked up once: at low rates a batch is one event."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._children: dict[tuple[str, ...], Any] = {}
        self._begun = set[str]()
        self._committed = telemetry.counter("bus_engine_transactions_total").labels(result="committed")
        self._aborted = telemetry.counter("bus_engine_transactions_total").labels(result="aborted")
        self._seconds = telemetry.histogram("bus_engine_batch_seconds")
        self._waiting: Cause | None = None
        for cause in Cause:
            telemetry.gauge("bus_engine_waiting").labels(cause=cause.value).set(0)

    def _child(self, kind: Callable[[str], Any], name: str, *labels: str) -> Any:
        key = (name, *labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = kind(name).labels(*labels)
        return found

    def committed(self, batch: Batch, began: float) -> None:
        """`began`: time.monotonic() when the batch's first record had been read."""
        self._committed.inc()
        self.goes_on()
        self._seconds.observe(time.monotonic() - began)
        sampled: dict[str, bytes] = {}
        for run in batch.runs.values():
            self._run(run)
            if run.sample:
                sampled[run.plan.dataset] = run.sample
        for agreement, events in batch.past_events():
            self._child(telemetry.counter, "bus_engine_past_records_total", agreement).inc(events)
        now = self._clock_ms()
        for dataset, value in sampled.items():
            at = source_ts_ms(value)
            if at is not None:
                self._child(telemetry.histogram, "bus_end_to_end_seconds", dataset).observe(max(0, now - at) / 1000)

    def _run(self, run: Run) -> None:
        dataset = run.plan.dataset
        self._child(telemetry.counter, "bus_engine_events_total", dataset).inc(run.events())
        verdicts, outcomes = run.sums()
        for verdict, n in verdicts.items():
            self._child(telemetry.counter, "bus_verdicts_total", dataset, verdict).inc(n)
        for (agreement, outcome), n in outcomes.items():
            self._child(telemetry.counter, "bus_outcomes_total", agreement, dataset, outcome).inc(n)
        for code, n in run.dead.items():
            self._child(telemetry.counter, "bus_dead_letters_total", dataset, code.value).inc(n)

    def _begin(self, dataset: str) -> None:
        """Zeros before the first event: Prometheus sees no increase in a series that begins at 1."""
        if dataset not in self._begun:
            self._begun.add(dataset)
            self._child(telemetry.counter, "bus_engine_events_total", dataset)
            for code in DeadCode:
                self._child(telemetry.counter, "bus_dead_letters_total", dataset, code.value)

    def agreements(self, names: Iterable[str]) -> None:
        """Those in use from now on: zeros, as in `_begin`."""
        for name in names:
            self._child(telemetry.counter, "bus_engine_past_records_total", name)

    def aborted(self) -> None:
        self._aborted.inc()

    def waits(self, cause: Cause) -> None:
        self.goes_on()
        self._waiting = cause
        telemetry.gauge("bus_engine_waiting").labels(cause=cause.value).set(1)

    def goes_on(self, after: Cause | None = None) -> None:
        """No longer waits, if it was for this cause, or whatever it was for."""
        if self._waiting is not None and after in (None, self._waiting):
            telemetry.gauge("bus_engine_waiting").labels(cause=self._waiting.value).set(0)
            self._waiting = None

    def lanes(self, count: int) -> None:
        telemetry.gauge("bus_engine_lanes").set(count)

    def lag(self, consumer: Consumer, lanes: dict[int, Lane], inputs: Iterable[tuple[str, str]]) -> None:
        """`inputs`: (topic, dataset). From what the last fetches said; asks the broker nothing."""
        for topic, dataset in inputs:
            self._begin(dataset)
            lag = 0  # capture writes in transactions, so what stands last is a commit marker, which nobody reads
            for number, lane in lanes.items():
                bounds = consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)
                lag += max(0, bounds[1] - lane.inputs.get(topic, 0) - MARKER) if bounds else 0
            self._child(telemetry.gauge, "bus_engine_lag_records", dataset).set(lag)


def source_ts_ms(value: bytes) -> int | None:
    """The commit time in a framed change event (Unix milliseconds); None for snapshot rows and unreadable bytes."""
    try:
        at = 5 + _EVENT_ID_BYTES
        op, at = _long(value, at)
        _, at = _long(value, at)
        for _ in range(_SOURCE_TEXTS):
            length, at = _long(value, at)
            at += length
        for _ in range(_SOURCE_NUMBERS):
            _, at = _long(value, at)
        found, _ = _long(value, at)
    except IndexError:
        return None
    return None if CHANGE_OPS[op : op + 1] == ("r",) else found


def _long(data: bytes, at: int) -> tuple[int, int]:
    """An Avro long and the place after it. Raises IndexError at the end of the data, or where no long ends in time."""
    shift = result = 0
    while data[at] > 127:
        result |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if shift >= _LONG_BITS:
            raise IndexError(at)
    result |= data[at] << shift
    return result >> 1 ^ -(result & 1), at + 1
