"""What a webhook's endpoint is sent next: a plain state machine over places (lane, offset). It knows no Kafka, HTTP or clock.

Events of one record key are told in their order: what is read is sent in runs, one request at a time, in the lanes' order. A run
that is refused is halved, down to the event; an event that is refused alone waits for its next attempt, and with it every later
event of its key in that lane, while all others pass. After `FAILURES_TO_OPEN` failures in a row the circuit is open: one probe at
a time, by the same schedule, and a failed probe costs no event an attempt. Nothing is ever dropped: after its last attempt an
event is given up, which is a state, and it and what waits behind it stay until an operator has it sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

SCHEDULE_SECONDS = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Before each attempt, from the one before: ten attempts over 75.6 hours, the example of Standard Webhooks 1.0."""
JITTER = 0.1
"""Each pause is longer by up to this part of itself."""
FAILURES_TO_OPEN = 10
"""More than halving one run takes (2**6 events), so that a single bad event opens no circuit."""
MAX_RUN_EVENTS = 50
MAX_RUN_BYTES = 18_000
"""Of the events; with brackets and commas a body stays below the 20 kB that the specification advises."""
MAX_WAITING = 1_000
MOST_WAITING = 10_000
"""A state of so many, each in a queue of its own, has 0.7 MB as JSON: below what a topic takes."""
LONGEST_PAUSE_SECONDS = 86_400
VERSION = 1
GONE = "gone"
LOST = "lost"

Jitter = Callable[[], float]
"""0 to 1."""


class Outcome(Enum):
    """What became of an attempt."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """It may be for what was sent: an answer other than 2xx, none in time, a connection that was cut."""
    UNREACHABLE = "unreachable"
    """Nothing was sent, so no event is to blame."""
    SLOW_DOWN = "slow_down"
    """The receiver has said when to come back."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Item:
    """One delivery: `size` is that of its event in bytes, 0 where it is not known (any more)."""

    offset: int
    key: bytes = field(repr=False)
    size: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """Goes in one request."""

    lane: int
    items: tuple[Item, ...]

    def offsets(self) -> tuple[int, ...]:
        return tuple(item.offset for item in self.items)


@dataclass(slots=True)
class Queue:
    """Events of one key: the first was refused alone `attempts` times, the others wait behind it. `due_ms` None: given up."""

    lane: int
    items: list[Item]
    attempts: int
    due_ms: int | None


@dataclass(frozen=True, slots=True)
class Send:
    run: Run
    queue: bool = False
    """Whether it is the first of a queue."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Until then, Unix milliseconds; None: until something else happens."""

    until_ms: int | None


@dataclass(frozen=True, slots=True)
class Read:
    """Read on (`take`); `otherwise`: what to do when nothing is there."""

    otherwise: Send | Wait


Action = Send | Wait | Read


@dataclass(slots=True)
class Outbox:
    """One endpoint. `nexts`: lane -> the first offset that is in no run and no queue."""

    nexts: dict[int, int] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    queues: list[Queue] = field(default_factory=list)
    failures: int = 0
    """In a row, of everything but events that were refused before."""
    not_before_ms: int = 0
    stopped: str = ""
    """Why nothing is sent until an operator says otherwise."""
    max_waiting: int = MAX_WAITING

    # -- questions -------------------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        return self.failures >= FAILURES_TO_OPEN

    def waiting(self) -> int:
        """Events that wait in queues, given up or not."""
        return sum(len(queue.items) for queue in self.queues)

    def given_up(self) -> int:
        """Events whose schedule is exhausted; what waits behind them is not counted."""
        return sum(queue.due_ms is None for queue in self.queues)

    def next_attempt_ms(self) -> int | None:
        """When something is tried again; None: nothing has failed, or nothing is sent any more by itself."""
        if self.stopped:
            return None
        due = min((queue.due_ms for queue in self.queues if queue.due_ms is not None), default=None)
        return self.not_before_ms or due

    def next(self, now_ms: int) -> Action:
        if self.stopped:
            return Wait(None)
        if self.not_before_ms > now_ms:
            return Wait(self.not_before_ms)
        first = min((q for q in self.queues if q.due_ms is not None), key=lambda q: q.due_ms or 0, default=None)
        retry = Send(Run(first.lane, (first.items[0],)), queue=True) if first else None
        due = first.due_ms if first else None
        if retry and due is not None and due <= now_ms and not self.open:
            return retry
        if self.runs:
            return Send(self.runs[0])
        otherwise: Send | Wait = retry if retry and self.open else Wait(due)
        return Read(otherwise) if self.waiting() < self.max_waiting else otherwise

    # -- what happens ----------------------------------------------------------------------------------------------------------

    def take(self, lane: int, read: Iterable[Item]) -> int:
        """Records of a lane, from `nexts` on: as many of them as go into one run, or wait. How many were taken, at least one."""
        held = {queue.items[0].key: queue for queue in self.queues if queue.lane == lane}
        room, size, taken = self.max_waiting - self.waiting(), 0, 0
        run: list[Item] = []
        for item in read:
            if queue := held.get(item.key):
                if room <= 0:
                    break
                room -= 1
                queue.items.append(item)
            elif run and (len(run) >= MAX_RUN_EVENTS or size + item.size + 1 > MAX_RUN_BYTES):
                break
            else:
                run.append(item)
                size += item.size + 1
            taken += 1
            self.nexts[lane] = item.offset + 1
        if run:
            self.runs.append(Run(lane, tuple(run)))
        return taken

    def halve(self) -> None:
        """The next run, which is too long or was refused."""
        run = self.runs.pop(0)
        middle = len(run.items) // 2
        self.runs[:0] = [Run(run.lane, run.items[:middle]), Run(run.lane, run.items[middle:])]

    def delivered(self, sent: Send) -> None:
        self.failures = self.not_before_ms = 0
        if not sent.queue:
            self.runs.pop(0)
            return
        queue = self._queue_of(sent)
        self.queues.remove(queue)
        rest = queue.items[1:]
        chunks = [tuple(rest[at : at + MAX_RUN_EVENTS]) for at in range(0, len(rest), MAX_RUN_EVENTS)]
        self.runs[:0] = [Run(queue.lane, chunk) for chunk in chunks]

    def failed(self, sent: Send, outcome: Outcome, now_ms: int, jitter: Jitter, retry_after_ms: int = 0) -> None:
        """`retry_after_ms`: the pause that the receiver asks for."""
        if outcome is Outcome.GONE:
            self.stopped = GONE
            return
        was_open = self.open
        # That an event which was refused before is so again says nothing of the endpoint: else a few would open the circuit.
        self.failures += outcome is not Outcome.REFUSED or was_open or not sent.queue
        asked_ms = min(retry_after_ms, LONGEST_PAUSE_SECONDS * 1000)
        if outcome is Outcome.UNREACHABLE or (outcome is Outcome.SLOW_DOWN and not was_open):
            self.not_before_ms = now_ms + (asked_ms or _pause_ms(self.failures, jitter))
            return
        if self.open:
            self.not_before_ms = now_ms + max(asked_ms, _pause_ms(self.failures - FAILURES_TO_OPEN + 1, jitter))
        self._refused(sent, now_ms, jitter, probe=was_open)

    def resume(self, now_ms: int) -> None:
        """An operator's word: go on, at once."""
        self.stopped, self.failures, self.not_before_ms = "", 0, 0
        self._due(now_ms)

    def retry(self, now_ms: int) -> None:
        """An operator's word: everything that waits is due, what was given up too, and has its whole schedule again."""
        self.not_before_ms = 0
        for queue in self.queues:
            queue.attempts, queue.due_ms = 0, now_ms

    def _due(self, now_ms: int) -> None:
        for queue in self.queues:
            if queue.due_ms is not None:
                queue.due_ms = min(queue.due_ms, now_ms)

    def _queue_of(self, sent: Send) -> Queue:
        offset = sent.run.items[0].offset
        return next(q for q in self.queues if q.lane == sent.run.lane and q.items[0].offset == offset)

    def _refused(self, sent: Send, now_ms: int, jitter: Jitter, *, probe: bool) -> None:
        if sent.queue:
            queue = self._queue_of(sent)
            queue.attempts += not probe
            exhausted = queue.attempts >= len(SCHEDULE_SECONDS)
            queue.due_ms = None if exhausted else now_ms + _pause_ms(max(1, queue.attempts), jitter)
        elif len(sent.run.items) > 1:
            self.halve()
        else:
            self._hold(self.runs.pop(0), now_ms + _pause_ms(1, jitter))

    def _hold(self, run: Run, due_ms: int) -> None:
        """The event waits, and with it those of its key in the runs behind it."""
        key, lane = run.items[0].key, run.lane
        later = [item for r in self.runs if r.lane == lane for item in r.items if item.key == key]
        kept = [Run(r.lane, tuple(i for i in r.items if r.lane != lane or i.key != key)) for r in self.runs]
        self.runs = [r for r in kept if r.items]
        self.queues.append(Queue(lane, [run.items[0], *later], 1, due_ms))

    # -- as it is kept ----------------------------------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """Ready for JSON: places, counts and times, nothing else."""
        return {
            "next": {str(lane): offset for lane, offset in sorted(self.nexts.items())},
            "runs": [[run.lane, list(run.offsets())] for run in self.runs],
            "waiting": [
                {"lane": q.lane, "offsets": [i.offset for i in q.items], "attempts": q.attempts, "due_ms": q.due_ms}
                for q in self.queues
            ],
            "failures": self.failures,
            "not_before_ms": self.not_before_ms,
            "stopped": self.stopped,
        }


def _pause_ms(attempts: int, jitter: Jitter) -> int:
    """Before the next attempt when there were so many."""
    seconds = SCHEDULE_SECONDS[min(attempts, len(SCHEDULE_SECONDS) - 1)]
    return int(seconds * 1000 * (1 + JITTER * jitter()))


def places(told: Mapping[str, Any]) -> dict[int, list[int]]:
    """Lane -> the offsets of which `restored` must know the keys: of runs all, of queues the first."""
    found: dict[int, list[int]] = {}
    for lane, offsets in told["runs"]:
        found.setdefault(lane, []).extend(offsets)
    for queue in told["waiting"]:
        found.setdefault(queue["lane"], []).append(queue["offsets"][0])
    return {lane: sorted(offsets) for lane, offsets in found.items()}


def kept(told: Mapping[str, Any], lows: Mapping[int, int]) -> dict[str, Any]:
    """`told` without what was deleted: places before the first offset of their lane. What waited behind one is due."""

    def there(lane: int, offsets: Sequence[int]) -> list[int]:
        return [offset for offset in offsets if offset >= lows[lane]]

    waiting = []
    for queue in told["waiting"]:
        if left := there(queue["lane"], queue["offsets"]):
            first = left[0] == queue["offsets"][0]
            waiting.append({**queue, "offsets": left} | ({} if first else {"attempts": 0, "due_ms": 0}))
    runs = [[lane, left] for lane, offsets in told["runs"] if (left := there(lane, offsets))]
    return {**told, "runs": runs, "waiting": waiting}


def restored(told: Mapping[str, Any], keys: Mapping[tuple[int, int], bytes], max_waiting: int = MAX_WAITING) -> Outbox:
    """Of what `told` gave; `keys`: (lane, offset) -> record key, for `places`."""

    def items(lane: int, offsets: Sequence[int], key: bytes | None = None) -> tuple[Item, ...]:
        return tuple(Item(offset, keys[lane, offset] if key is None else key) for offset in offsets)

    return Outbox(
        {int(lane): offset for lane, offset in told["next"].items()},
        [Run(lane, items(lane, offsets)) for lane, offsets in told["runs"]],
        [
            Queue(q["lane"], list(items(q["lane"], q["offsets"], keys[q["lane"], q["offsets"][0]])), q["attempts"], q["due_ms"])
            for q in told["waiting"]
        ],
        told["failures"],
        told["not_before_ms"],
        told["stopped"],
        max_waiting,
    )
