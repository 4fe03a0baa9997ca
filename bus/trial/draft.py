"""A draft agreement tried on what is recorded in `verified.*`: what it would get if it were switched on now with `past: all`.

The events are decided on by the engine's own code for a past (bus.engine.recorded), with the verdicts recorded then. Nothing is
written anywhere, no group is joined, committed records only are read, and no more than is committed when the trial begins.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka.admin import AdminClient

from bus import access
from bus.avro.catalogue import Catalogue
from bus.avro.frame import Malformed
from bus.config import Settings
from bus.core import difference, topics
from bus.core.agreement import Agreement
from bus.engine import agreement_log
from bus.engine.policy import Grounds
from bus.engine.recorded import PersonOf
from bus.engine.replica import Get, ReplicaReader
from bus.registry import log
from bus.replay.extent import LATEST, Extent, Point, ReplayError, parse_point, resolve
from bus.replay.reader import Reader, consumer_config
from bus.trial.counting import Counting, Deliver, Rows, Sums, with_deliveries
from bus.trial.distinct import Distinct

PRINCIPAL = "operator"
_POLL_SECONDS = 0.05
"""A poll waits so long for a full batch even where some records are there."""
_NOW = Point(offset=LATEST)
Tick = Callable[[str, int, int], None]
"""tick(dataset, offsets read, about how many there are)."""


@dataclass(slots=True)
class Beside:
    """What the agreement of the same id that is in force makes of the same events of one dataset."""

    sums: Sums
    gained: int = 0
    """Events that only the draft gets."""
    lost: int = 0
    """Events that only the one in force gets."""
    people: Distinct = field(default_factory=Distinct)
    rows: Distinct = field(default_factory=Distinct)
    """Of both together."""


@dataclass(slots=True)
class Trial:
    """What was found. By dataset, in the draft's order; datasets that only the one in force opens come last."""

    agreement: Agreement
    in_force: Agreement | None
    """The one of the same id."""
    in_force_now: bool
    """Whether the draft's validity has begun and is not over."""
    since: str
    events: Counter[str] = field(default_factory=Counter)
    sums: dict[str, Sums] = field(default_factory=dict)
    beside: dict[str, Beside] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    people: Distinct = field(default_factory=Distinct)
    stops: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(dataset, code) -> recorded events that the engine would stop at."""
    first_stop: str = ""
    register_known: bool = True
    """Else the register as it is now could not be asked, for others than the subject in rows before an update."""
    schemas: dict[str, Any] = field(default_factory=dict)
    """Dataset -> schema of its deliveries."""
    seconds: float = 0.0


class _Run:
    """One trial under way."""

    def __init__(self, settings: Settings, grounds: Grounds, trial: Trial, found: Catalogue, deliver: Deliver | None) -> None:
        self.trial, self._grounds, self._settings = trial, grounds, settings
        self._draft = self._countings(trial.agreement, found, deliver)
        trial.schemas = {name: one.schema for name, one in self._draft.items()}
        trial.sums = {name: one.sums for name, one in self._draft.items()}
        self._old: dict[str, Counting] = {}
        if trial.in_force is not None:
            self._old = self._countings(trial.in_force, found, None)
            trial.words = difference.words(trial.in_force, trial.agreement)
            trial.beside = {name: Beside(one.sums) for name, one in self._old.items()}
            trial.beside |= {name: Beside(Sums()) for name in self._draft if name not in self._old}
        self._seqs: dict[int, tuple[list[int], list[int]]] = {}
        self.replica = ReplicaReader(settings.home)
        trial.register_known = self.replica.ready()

    def _countings(self, one: Agreement, found: Catalogue, deliver: Deliver | None) -> dict[str, Counting]:
        made = with_deliveries(found, self._grounds.datasets, self._grounds.register, one)
        plans = self._grounds.recorded(one, made)
        return {
            name: Counting(one, plan, self._grounds.datasets, self._grounds.register, made, deliver)
            for name, plan in plans.items()
        }

    def datasets(self) -> list[str]:
        return [*self._draft, *(name for name in self._old if name not in self._draft)]

    def read(self, name: str, reader: Reader, extent: Extent, tick: Tick) -> None:
        """One dataset to the end of the extent. Raises ReplayError."""
        rows = Rows(self._grounds.datasets[name], self._grounds.secrets.person)
        come = {lane: first for lane, (first, _) in extent.ranges.items()}
        while reader.open:
            messages = reader.poll(_POLL_SECONDS)
            with self._register() as now:
                for message in messages:
                    self._take(name, rows, message, now)
            for message in messages:
                come[message.partition() or 0] = (message.offset() or 0) + 1
            tick(name, sum(at - extent.ranges[lane][0] for lane, at in come.items()), extent.estimate)

    @contextmanager
    def _register(self) -> Iterator[PersonOf]:
        """The register as it is now; of one moment for a few records only, for while a moment is held its pages stay."""
        if not self.trial.register_known or not self.replica.ready():
            self.trial.register_known = False
            yield _nobody
            return
        with self.replica.view() as get:
            yield get

    def _take(self, name: str, rows: Rows, message: Message, now: Get) -> None:
        value, key, lane = _bytes(message.value()), _bytes(message.key()), message.partition() or 0
        trial, draft, old = self.trial, self._draft.get(name), self._old.get(name)
        trial.events[name] += 1
        try:
            read = (draft or self._old[name]).read(value)
            row, named = rows.of(read.change)
            seqs = self._seqs.setdefault(lane, ([0], [0]))
            new = draft is not None and draft.take(read, key, row, named, now, seqs[0], lane)
            was = old is not None and old.take(read, key, row, named, now, seqs[1], lane)
        except Malformed as bad:
            trial.stops[name, bad.code.value] += 1
            trial.first_stop = trial.first_stop or f"{topics.verified(name)} lane {lane} offset {message.offset()}"
            return
        if new and named:
            trial.people.add(key)
        if (beside := trial.beside.get(name)) and (new or was):
            beside.gained += new and not was
            beside.lost += was and not new
            beside.rows.add(row)
            if named:
                beside.people.add(key)


def try_draft(
    settings: Settings,
    draft: Agreement,
    now: datetime,
    since: str = "beginning",
    tick: Tick = lambda *_: None,
    deliver: Deliver | None = None,
) -> Trial:
    """`draft` as `bus.engine.agreements.read` gives it; `since` as `bus replay --from` takes it, by when events were recorded.

    Raises ReplayError for a range that cannot be read, PlanError, CatalogueError, ConfigError when there is no bus.
    """
    began, begin = time.monotonic(), parse_point(since, now)
    connection = access.confluent(settings, PRINCIPAL) | {"log_level": 0}  # what matters comes as an error
    grounds, found = Grounds.load(settings), log.read(connection)
    trial = Trial(draft, _in_force(connection, draft.id), draft.in_force(int(now.timestamp() * 1000)), since)
    run = _Run(settings, grounds, trial, found, deliver)
    admin = AdminClient(connection)
    try:
        for name in run.datasets():
            with _consumer(connection) as consumer:
                extent = resolve(admin, consumer, topics.verified(name), begin, _NOW)
                run.read(name, Reader(consumer, extent, time.monotonic), extent, tick)
    except KafkaException as error:
        raise ReplayError(f"Kafka does not answer: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    finally:
        run.replica.close()
    trial.seconds = time.monotonic() - began
    return trial


@contextmanager
def _consumer(connection: Mapping[str, Any]) -> Iterator[Consumer]:
    """One for each topic: one that is assigned anew waits most of a second before it fetches (librdkafka 2.16)."""
    consumer = Consumer(consumer_config(connection) | {"group.id": PRINCIPAL})
    try:
        yield consumer
    finally:
        consumer.close()


def _in_force(connection: Mapping[str, Any], name: str) -> Agreement | None:
    """What the bus works by under this id."""
    try:
        return agreement_log.read(connection).agreements().get(name)
    except agreement_log.Malformed:
        return None  # nothing was published yet, or nothing that is used


def _nobody(_: bytes) -> None:
    return None


def _bytes(data: bytes | str | None) -> bytes:
    return data.encode() if isinstance(data, str) else data or b""
