"""Named places at which a process can be made to kill itself, for tests: what is promised must hold wherever it dies.

    failpoint.hit(Point.BEFORE_COMMIT)

Off unless the environment says otherwise: BUS_FAILPOINT=before-commit:3 kills the process with SIGKILL when it comes there for
the third time; before-commit:3:200 lets 200 ms pass first, in which the Kafka client's own threads send what was produced.
Never in a loop over records: a hit costs a tenth of a microsecond, which is nothing once a batch.
"""

from __future__ import annotations

import os
import signal
import time
from enum import Enum

VARIABLE = "BUS_FAILPOINT"


class Point(Enum):
    """Every place there is, in the order in which a process comes by. Tests try each, so that none is forgotten."""

    # the engine's worker
    BEFORE_PRODUCER = "before-producer"
    """No producer yet: an earlier one's transaction may be open."""
    AFTER_PRODUCER = "after-producer"
    BEFORE_JOIN = "before-join"
    AFTER_ASSIGNED = "after-assigned"
    """The group has given us lanes; where they stand is not known."""
    BEFORE_RECOVER = "before-recover"
    AFTER_GROUP_OFFSETS = "after-group-offsets"
    """Within the recovery: the group's offsets are decided, the lane records are not read."""
    AFTER_RECOVER = "after-recover"
    BEFORE_ASSIGN = "before-assign"
    AFTER_ASSIGN = "after-assign"
    BEFORE_READ = "before-read"
    AFTER_READ = "after-read"
    AFTER_BEGIN = "after-begin"
    PRODUCING = "producing"
    """In a batch, where another topic's or lane's first record is taken in."""
    AFTER_TAKE = "after-take"
    """Some of the batch's records are processed and their outputs produced."""
    BEFORE_AUDIT = "before-audit"
    AFTER_AUDIT = "after-audit"
    """A lane's audit line is produced, its record is not."""
    AFTER_LANE_RECORD = "after-lane-record"
    PARTITIONS_ADDED = "partitions-added"
    """The coordinator knows of more partitions of the transaction; nothing is sent to them."""
    BEFORE_OFFSETS = "before-offsets"
    """All records are with the brokers."""
    AFTER_OFFSETS = "after-offsets"
    """Everything of the transaction is there but its end."""
    AFTER_COMMIT = "after-commit"
    """Committed, and nobody here knows it yet."""
    AFTER_COUNTED = "after-counted"
    AFTER_DEAD_LETTER = "after-dead-letter"
    BEFORE_REVOKE = "before-revoke"
    AFTER_REVOKE = "after-revoke"
    BEFORE_ABORT = "before-abort"
    AFTER_ABORT = "after-abort"
    BEFORE_DISCARD = "before-discard"
    """The outcome is open; the producer is about to be thrown away."""
    AFTER_DISCARD = "after-discard"

    # capture
    SINK_OPENED = "sink-opened"
    """Older producers are fenced; how far they came is not read."""
    BEFORE_SLOT = "before-slot"
    """That the slot will be ours is on record; it is not made."""
    AFTER_SLOT = "after-slot"
    SNAPSHOT_EXPORTED = "snapshot-exported"
    SNAPSHOT_BATCH = "snapshot-batch"
    """A batch of rows is committed."""
    SNAPSHOT_TABLE = "snapshot-table"
    """A table is read to its end; that is not on record."""
    SNAPSHOT_DONE = "snapshot-done"
    STREAM_STARTED = "stream-started"
    TRANSACTION_BEGUN = "transaction-begun"
    """A Kafka transaction; its first record is not produced."""
    BEFORE_POSITION = "before-position"
    """The events are produced, the position record is not."""
    AFTER_POSITION = "after-position"
    CAPTURE_COMMITTED = "capture-committed"
    """Committed, and the session does not count it yet."""
    BEFORE_CONFIRM = "before-confirm"
    """The slot is about to be told what Kafka has."""
    AFTER_CONFIRM = "after-confirm"

    # redriving dead letters
    REDRIVE_COPIED = "redrive-copied"
    """The copy is written, its transaction open."""
    REDRIVE_RECORDED = "redrive-recorded"
    REDRIVE_COMMITTED = "redrive-committed"

    # sending webhooks
    WEBHOOK_WRITTEN = "webhook-written"
    """What is sent next, or what became of it, is on record."""
    WEBHOOK_PLANNED = "webhook-planned"
    """On record, and not sent."""
    WEBHOOK_ANSWERED = "webhook-answered"
    """Sent and answered; that is not on record."""


_CAPTURE_BEGINS, _REDRIVE_BEGINS, _WEBHOOKS_BEGIN = map(
    list(Point).index, (Point.SINK_OPENED, Point.REDRIVE_COPIED, Point.WEBHOOK_WRITTEN)
)
ENGINE, CAPTURE, REDRIVE, WEBHOOKS = (
    tuple(Point)[:_CAPTURE_BEGINS],
    tuple(Point)[_CAPTURE_BEGINS:_REDRIVE_BEGINS],
    tuple(Point)[_REDRIVE_BEGINS:_WEBHOOKS_BEGIN],
    tuple(Point)[_WEBHOOKS_BEGIN:],
)


class Armed:
    """Counts down to the end of the process. Raises ValueError for a text that names no point."""

    def __init__(self, text: str) -> None:
        name, _, rest = text.partition(":")
        count, _, pause_ms = rest.partition(":")
        try:
            self.point, self._left, self._pause_ms = Point(name), int(count or 1), int(pause_ms or 0)
        except ValueError:
            raise ValueError(f"{VARIABLE}={text!r}: write POINT:COUNT or POINT:COUNT:PAUSE_MS") from None

    def hit(self, point: Point) -> None:
        if point is not self.point:
            return
        self._left -= 1
        if self._left == 0:
            time.sleep(self._pause_ms / 1000)
            os.kill(os.getpid(), signal.SIGKILL)


def _off(_: Point) -> None: ...


hit = Armed(os.environ[VARIABLE]).hit if VARIABLE in os.environ else _off
