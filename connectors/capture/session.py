"""One session of capture: what the snapshot and the stream share, from the first connection to the first error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from bus import telemetry
from bus.config import Settings
from bus.core.outcome import CHANGE_OPS
from connectors.capture import progress as progress_
from connectors.capture.columns import Binding
from connectors.capture.errors import Interrupted, Misfit
from connectors.capture.events import Events, Target
from connectors.capture.lag import Lag
from connectors.capture.progress import Progress, Streamed
from connectors.capture.sink import Sink
from connectors.capture.source import Db, Table
from connectors.capture.walsender import WalSender


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as one of its schemas describes it, and where events under that go. `usable`: today's schema can read them."""

    binding: Binding
    target: Target
    usable: bool = True


@dataclass(slots=True)
class Session:
    """Open connections and the progress they stand at. `now_ms` is the clock, `nonce` the randomness for sealing keys."""

    settings: Settings
    domain: str
    slot: str
    secret: bytes
    db: Db
    wal: WalSender
    sink: Sink
    lag: Lag
    events: Events
    bindings: dict[str, Binding]
    targets: dict[str, Target]
    earlier: dict[str, tuple[Shape, ...]]
    """Table -> what it was before, by schemas that are registered, the newest first."""
    tables: dict[str, Table]
    """Those that fit their schemas."""
    misfits: dict[str, Misfit]
    """The others, and why."""
    progress: Progress
    stopped: Callable[[], bool]
    now_ms: Callable[[], int]
    nonce: progress_.Nonce
    log: Any = field(init=False)
    commits: int = 0

    def __post_init__(self) -> None:
        self.log = telemetry.logger("capture", self.domain)

    def check_stop(self) -> None:
        if self.stopped():
            raise Interrupted("asked to stop")

    def begin_at(self, slot_position: int) -> None:
        """Before anything is published, what the slot may have been told is where it was made."""
        if self.progress.confirmed is None:
            self.progress = replace(self.progress, confirmed=slot_position)

    def commit(self, progress: Progress) -> None:
        """Commits what was produced together with `progress`, which counts from then on; and the figures of it."""
        progress = progress.settled()
        self.sink.commit(progress_.to_json(progress, self.secret, self.nonce))
        self.progress = progress
        self.commits += 1
        self.events.committed()
        captured = telemetry.counter("bus_captured_events_total")
        for target in self.targets.values():
            for op, count in zip(CHANGE_OPS, target.counts, strict=True):
                if count:
                    captured.labels(dataset=target.name, op=op).inc(count)
            target.counts[:] = [0, 0, 0, 0]

    def commit_stream(self, confirmed: int, inside: bool) -> None:
        """As `commit`, for the events so far of the stream; `confirmed` is what the slot may be told afterwards, unless a table
        is held: its changes are still to be read. `inside`: a source transaction is open."""
        streamed = self.events.streamed() or self.progress.streamed
        told = self.progress.confirmed or 0
        confirmed = told if self.progress.held else max(confirmed, told)
        self.commit(replace(self.progress, streamed=streamed, confirmed=confirmed, whole=self.is_whole(streamed, inside)))

    def is_whole(self, streamed: Streamed | None, inside: bool) -> bool:
        """Whether the stream has come to the end of the transaction of `streamed`, now or before."""
        before = self.progress
        if streamed is None or (streamed == before.streamed and before.whole):
            return streamed is not None
        return bool(self.events.xid) and (self.events.lsn > streamed.lsn or (self.events.lsn == streamed.lsn and not inside))


def system_now_ms() -> int:
    return time.time_ns() // 1_000_000
