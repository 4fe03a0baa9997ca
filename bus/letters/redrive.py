"""Putting dead letters through the engine again: the original bytes, in their lane, once, in an order that harms nobody.

Each letter is one Kafka transaction of two records: the copy in the input topic, with a header that names the letter, and the
record in `bus.redriven` that it was done. A killed run leaves a transaction that the next run's producer aborts, so a letter is
done or it is not. One run at a time: a second one takes the transactional id, and the first stops.

What came after the letter is looked at twice: when the run begins, and, with the copy written and its transaction still open,
between there and the copy, undecided records included. So nothing newer of the person stands before the copy.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException, Producer

from bus import access
from bus.access import Connections
from bus.config import Settings
from bus.core import failpoint, topics
from bus.core.failpoint import Point
from bus.core.topics import REDRIVEN_HEADER
from bus.letters import reading
from bus.letters.letter import Letter, LetterError, Place
from bus.letters.plan import REDRIVE, Item, Plan, judge
from bus.letters.reading import InputReader
from bus.letters.rows import Candidate, Newer, Rows
from bus.letters.today import Today, today

PRINCIPAL = "redrive"
TRANSACTIONAL_ID = "redrive"
STEP_SECONDS = 30.0
FLUSH_SECONDS = 30.0
PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",
    "message.max.bytes": 33_554_432,  # far above what a topic takes: whatever could be read must be able to go back
    "queue.buffering.max.kbytes": 36_864,
    "transaction.timeout.ms": 15_000,
    "linger.ms": 0,
    "retry.backoff.ms": 20,
    "retry.backoff.max.ms": 500,
    "reconnect.backoff.max.ms": 1_000,
}
_AGAIN = "Run the same plan again: what was done is not done twice"


@dataclass(slots=True)
class Result:
    """`redriven`: letters put through; `left`: place -> why not, now."""

    redriven: list[dict[str, Any]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        return {"redriven": self.redriven, "left": [{"letter": p, "reason": why} for p, why in sorted(self.left.items())]}


class _Newer(Exception):
    """Something newer stands before the copy."""


class Run:
    """`wait`: sleeps for so many seconds. Raises LetterError, ConfigError."""

    def __init__(
        self, settings: Settings, plan: Plan, now_ms: Callable[[], int], wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._settings, self._plan, self._now_ms, self._wait = settings, plan, now_ms, wait
        self._connection = access.confluent(settings, PRINCIPAL)
        self._connections = Connections()

    def run(self, per_second: float, progress: Callable[[str], None] = lambda _: None) -> Result:
        """All letters of the plan that may still go through. What was done stays done, whatever is raised."""
        result, chosen = Result(), self._plan.chosen()
        producer = self._producer()
        with today(self._settings, PRINCIPAL, self._now_ms()) as now:
            began_ms = self._now_ms()
            every = list(reading.letters(self._connection, sorted({item.place.topic for item in chosen})))
            letters = self._letters(chosen, every)
            judged = self._judge(chosen, every, letters, now, progress)
        result.left = {str(item.place): item.reason for item in judged if item.action != REDRIVE}
        due = [item for item in judged if item.action == REDRIVE]
        guards = self._guards(due, every, letters, now, began_ms)
        try:
            for number, item in enumerate(due):
                began = time.monotonic()
                self._one(producer, item, letters[str(item.place)], guards[item.source, item.lane], result)
                if (number + 1) % 100 == 0:
                    progress(f"{number + 1:,} of {len(due):,} letters")
                self._wait(max(0.0, 1 / per_second - (time.monotonic() - began)))
        finally:
            for guard in guards.values():
                guard.reader.close()
        return result

    # -- before ----------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _letters(chosen: Sequence[Item], every: Sequence[Letter]) -> dict[str, Letter]:
        """As they lie there. Raises LetterError where one is not what the plan was made of."""
        wanted = {str(item.place): item for item in chosen}
        found = {str(one.place): one for one in every if str(one.place) in wanted}
        for place, item in wanted.items():
            if place not in found or found[place].digest != item.digest:
                raise LetterError(
                    f"{place} is not the letter that the plan was made of: make a new plan (`bus dead redrive --dry-run`)"
                )
        return found

    def _judge(
        self,
        chosen: Sequence[Item],
        every: Sequence[Letter],
        letters: Mapping[str, Letter],
        now: Today,
        progress: Callable[[str], None],
    ) -> list[Item]:
        asked = [letters[str(item.place)] for item in chosen]
        return judge(self._connection, every, asked, reading.redriven(self._connection), now, progress)

    def _guards(
        self, due: Sequence[Item], every: Sequence[Letter], letters: Mapping[str, Letter], now: Today, began_ms: int
    ) -> dict[tuple[str, int], _Guard]:
        """By (input topic, lane). `began_ms`: of before the last look."""
        made: dict[tuple[str, int], _Guard] = {}
        for item in due:
            place, letter = (item.source, item.lane), letters[str(item.place)]
            if place not in made:
                starts = reading.starts(self._connection, item.source, [], began_ms)
                reader = InputReader(self._connection, item.source, {item.lane: starts[item.lane]}, "read_uncommitted")
                dead = {one.origin for one in every if one.source == item.source and one.origin}
                made[place] = _Guard(reader, Newer(Rows(now.datasets[letter.dataset], now.found), dead))
            made[place].add(letter)
        return made

    def _producer(self) -> Producer:
        own = {"transactional.id": TRANSACTIONAL_ID}
        producer = Producer(self._connection | PRODUCER | own | self._connections.settings())
        try:
            producer.init_transactions(STEP_SECONDS)
        except KafkaException as error:
            raise LetterError(f"no transaction can be begun: {error.args[0].str()}; has `bus up` made the rights?") from None
        return producer

    # -- one letter --------------------------------------------------------------------------------------------------------------

    def _one(self, producer: Producer, item: Item, letter: Letter, guard: _Guard, result: Result) -> None:
        """Raises LetterError when it is not certain that more can be done; what became of this letter the next run finds out."""
        try:
            producer.poll(0)
            if self._connections.lost:  # what ended the last transaction may come a second time, and end this one (KAFKA-17754)
                raise LetterError(f"stopped before {item.place}: a connection to the broker was lost. {_AGAIN}")
            producer.begin_transaction()
            try:
                offset = self._copy(producer, item, letter)
                failpoint.hit(Point.REDRIVE_COPIED)
                if reason := guard.newer(letter, item.lane, offset):
                    raise _Newer(reason)
                producer.produce(topics.REDRIVEN, self._record(item, offset), str(item.place).encode(), 0)
                failpoint.hit(Point.REDRIVE_RECORDED)
                producer.commit_transaction(STEP_SECONDS)
                failpoint.hit(Point.REDRIVE_COMMITTED)
            except _Newer as newer:
                producer.abort_transaction(STEP_SECONDS)
                result.left[str(item.place)] = str(newer)
                return
            except (LetterError, KeyboardInterrupt):
                with contextlib.suppress(KafkaException):
                    producer.abort_transaction(STEP_SECONDS)
                raise
        except KafkaException as error:
            told = f"{error.args[0].str()}; {len(result.redriven)} letters were redriven"
            raise LetterError(f"stopped at {item.place}: {told}. {_AGAIN}") from None
        result.redriven.append({"letter": str(item.place), "topic": item.source, "lane": item.lane, "offset": offset})

    def _copy(self, producer: Producer, item: Item, letter: Letter) -> int:
        """The copy's offset, its transaction open."""
        places: list[int] = []
        refused: list[str] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                refused.append(error.str())
            else:
                places.append(message.offset())

        about = [(REDRIVEN_HEADER, str(item.place).encode())]
        producer.produce(item.source, letter.value, letter.key, item.lane, headers=about, on_delivery=delivered)  # type: ignore[arg-type]  # a list of pairs is a list of pairs
        producer.flush(FLUSH_SECONDS)
        if not places:
            raise LetterError(f"stopped at {item.place}: {item.source!r} does not take it: {''.join(refused) or 'no answer'}")
        return places[0]

    def _record(self, item: Item, offset: int) -> bytes:
        about = {"topic": item.source, "lane": item.lane, "offset": offset, "plan": self._plan.digest, "at_ms": self._now_ms()}
        return json.dumps(about, separators=(",", ":")).encode()


@dataclass(slots=True)
class _Guard:
    """What stands in a lane of an input between the last look and a copy."""

    reader: InputReader
    look: Newer
    _candidates: dict[Place, Candidate] = field(default_factory=dict)

    def add(self, letter: Letter) -> None:
        made = self._candidates[letter.place] = Candidate(letter, self.look.rows.stand(letter.value))
        self.look.add([made])

    def newer(self, letter: Letter, lane: int, offset: int) -> str:
        """Why the letter is too late, or ''. Copies are not newer: they were in the plan."""
        for message in self.reader.to(lane, offset):
            if REDRIVEN_HEADER not in dict(message.headers() or ()):
                self.look.look(message)
        return self._candidates[letter.place].newer
