"""The society's time line: what is under way in which agency, and what happens next."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import partial
from itertools import accumulate, count
from random import Random
from typing import Any

import psycopg
from psycopg import sql

from connectors.society import follow
from connectors.society.agency import SocietyError, agency, domains, schemas
from connectors.society.chances import CHANCES, Chance
from connectors.society.desk import Desk
from connectors.society.events import Event
from connectors.society.people import Person
from connectors.society.roster import Roster

_ROLLBACK_SHARE = 0.01
"""Of transactions that are rolled back and then done again, as by a clerk whose form was refused."""
BEAT_SECONDS = 0.02
_MOST_STEPS = 20_000
_MOST_TRIES = 4
"""Of one transaction that meets others."""
_MOST_BEGINNINGS = 500
"""In one beat."""
_MEND_WEIGHT = 3.0
"""Weight of mending a wrong record, for each agency, beside the chances' weights."""
_FOLLOW_SECONDS = (0.5, 3.0)
_AWAY_SECONDS = 60.0
"""How long a database may stay away."""
_RETRY_SECONDS = 0.25

Work = Callable[[Desk], None]


@dataclass(order=True, slots=True)
class _Step:
    """One transaction of one agency, due at a moment of the society's time (seconds)."""

    due: float
    order: int
    domain: str = field(compare=False)
    work: Work = field(compare=False)
    pins: tuple[str, ...] = field(compare=False)
    changing: bool = field(compare=False)


class Life:
    """All desks, the steps that are still to come, and the society's time `now` in seconds.

    Time goes in beats. In one beat the agencies work side by side, each doing its due transactions one after the other, so
    what is written does not depend on who is faster.
    """

    def __init__(
        self, dsns: Mapping[str, str], rate: float, seed: int, wall: Callable[[], datetime], pause: Callable[[float], None]
    ) -> None:
        self.now = 0.0
        self.done: Counter[str] = Counter()
        self._rate, self._wall, self._pause = rate, wall, pause
        self._order = count()
        self._steps: list[_Step] = []
        self._taken = 0
        self._busy: Counter[str] = Counter()
        self._changing: Counter[str] = Counter()
        self._agencies = {d: agency(d) for d in domains() if d in dsns}
        self._register = next(iter(self._agencies))
        with ExitStack() as opened:
            self._desks = {d: self._open(opened, d, dsns[d]) for d in self._agencies}
            counter = self._open(opened, self._register, dsns[self._register])  # for questions, beside the register's own work
            self._rng = Random(f"{seed}/{self._run_number(seed)}")
            counter.rng.seed(self._rng.random())
            self._roster = Roster(counter, self._agencies[self._register], self._rng, self._busy, self._changing)
            self._pool = opened.enter_context(ThreadPoolExecutor(len(self._desks)))
            self._stack = opened.pop_all()
        self._counter = counter
        self._choices = list(self._all_choices())
        self._weights = list(accumulate(weight for weight, _ in self._choices))

    def close(self) -> None:
        self._stack.close()

    def beat(self) -> None:
        """BEAT_SECONDS of life: as much begins as the rate allows beside what is due."""
        self.now += BEAT_SECONDS
        due = sum(step.due <= self.now for step in self._steps)
        room = self._rate * self.now - self.done.total() - due * self._changes_per_step()
        for _ in range(_MOST_BEGINNINGS):
            if room <= 0 or len(self._steps) >= _MOST_STEPS:
                break
            before = len(self._steps)
            self._guarded(self._counter, self._rng.choices(self._choices, cum_weights=self._weights)[0][1])
            room -= (len(self._steps) - before) * self._changes_per_step()
        self._take(lambda step: step.due <= self.now)

    def finish(self, at_once: bool) -> bool:
        """A beat in which nothing begins and the next steps are taken whether due or not; whether any were left."""
        self.now += BEAT_SECONDS
        room = self._rate * BEAT_SECONDS / self._changes_per_step()
        left = count()
        self._take(lambda _: at_once or next(left) < room)
        return bool(self._steps)

    def _changes_per_step(self) -> float:
        return max(self.done.total(), 10) / max(self._taken, 10)

    def _take(self, wanted: Callable[[_Step], bool]) -> None:
        """Do the next steps as long as they are wanted, in each agency in their order."""
        work: dict[str, list[_Step]] = {}
        while self._steps and wanted(self._steps[0]):
            step = heapq.heappop(self._steps)
            work.setdefault(step.domain, []).append(step)
        for done in self._pool.map(lambda domain: self._work(domain, work[domain]), work):
            self.done.update(done)
        for step in (step for steps in work.values() for step in steps):
            self._taken += 1
            _release(self._busy, step.pins)
            if step.changing:
                _release(self._changing, step.pins)

    def _work(self, domain: str, steps: list[_Step]) -> Counter[str]:
        """One agency's share of a beat; committed row changes."""
        desk, done = self._desks[domain], Counter[str]()
        for step in steps:
            self._guarded(desk, partial(self._perform, desk, step, done))
        return done

    def _open(self, opened: ExitStack, domain: str, dsn: str) -> Desk:
        try:
            desk = Desk(domain, dsn, schemas()[domain])
        except psycopg.OperationalError as error:
            raise SocietyError(f"database {domain!r} cannot be reached: {str(error).splitlines()[0]}") from None
        desk.now = self._wall()
        opened.callback(desk.close)
        first = self._agencies[domain].tables[0]
        try:
            found = desk.connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(first))).fetchone()
        except psycopg.errors.UndefinedTable:
            found = None
        if not found:
            raise SocietyError(f"database {domain!r} is empty: fill it first, for example with `bus simulate --people 5000`")
        self.done.update({d.name: 0 for d in desk.datasets.values()})
        return desk

    def _run_number(self, seed: int) -> int:
        """Another number each time, so that a second run with the same seed does not repeat the first one's papers."""
        run = self._desks[self._register].number()
        for desk in self._desks.values():
            desk.rng.seed(f"{seed}/{run}/{desk.domain}")
        return run

    def _all_choices(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for weight, chance in CHANCES:
            yield weight, partial(self._happen, chance)
        for domain, one in self._agencies.items():
            for weight, work in one.routine:
                yield weight, partial(self._add, 0.0, domain, work)
            if domain != self._register:
                yield _MEND_WEIGHT, partial(self._add, 0.0, domain, partial(follow.mend, find=self._roster.find))

    def _happen(self, chance: Chance) -> None:
        for delay, event in chance(self._roster, self._rng, self._wall().date()):
            self._spread(delay, event)

    def _spread(self, delay: float, event: Event) -> None:
        """One step for each agency that reacts to the event, about as long after it as that agency takes."""
        keep_up = follow.FOLLOW.get(type(event))
        for domain, one in self._agencies.items():
            if reaction := one.reactions.get(type(event)):
                usual, react = reaction
                self._add(
                    delay + usual * self._rng.uniform(0.5, 1.5), domain, _about(event, react), _pins(event), keep_up is not None
                )
            if keep_up and domain != self._register:
                self._add(delay + self._rng.uniform(*_FOLLOW_SECONDS), domain, _about(event, keep_up), _pins(event), True)

    def _add(self, delay: float, domain: str, work: Work, pins: tuple[str, ...] = (), changing: bool = False) -> None:
        self._busy.update(pins)
        if changing:
            self._changing.update(pins)
        heapq.heappush(self._steps, _Step(self.now + delay, next(self._order), domain, work, pins, changing))

    def _perform(self, desk: Desk, step: _Step, done: Counter[str]) -> None:
        """One transaction. What another record stands in the way of (a number taken, a row gone) is given up."""
        refused = desk.rng.random() < _ROLLBACK_SHARE
        for _ in range(_MOST_TRIES):
            desk.begin(self._wall())
            try:
                step.work(desk)
            except psycopg.errors.IntegrityError:
                desk.rollback()
                return
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                refused = True
            if not refused:
                done.update(desk.commit())
                return
            desk.rollback()
            refused = False

    def _guarded(self, desk: Desk, work: Callable[[], None]) -> None:
        """Do `work`; if the database goes away, give the work up and wait until the database is back."""
        try:
            work()
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self._reconnect(desk)

    def _reconnect(self, desk: Desk) -> None:
        waited = 0.0
        while True:
            self._pause(_RETRY_SECONDS)
            waited += _RETRY_SECONDS
            try:
                desk.close()
                return desk.connect()
            except psycopg.OperationalError as error:
                if waited >= _AWAY_SECONDS:
                    reason = str(error).splitlines()[0]
                    raise SocietyError(
                        f"database {desk.domain!r} has been away for {_AWAY_SECONDS:.0f} seconds: {reason}"
                    ) from None


def _about(event: Event, react: Callable[[Desk, Any], None]) -> Work:
    return lambda desk: react(desk, event)


def _pins(event: Event) -> tuple[str, ...]:
    """The PINs of everybody in an event."""
    found: list[str] = []
    for one in fields(event):
        value = getattr(event, one.name)
        found += [p.pin for p in (value if isinstance(value, tuple) else (value,)) if isinstance(p, Person)]
    return tuple(found)


def _release(held: Counter[str], pins: tuple[str, ...]) -> None:
    for pin in pins:
        held[pin] -= 1
        if held[pin] <= 0:
            del held[pin]
