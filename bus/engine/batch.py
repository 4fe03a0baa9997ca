"""One transaction's work: records in, outputs produced, and what is needed to account for it. The hot loop is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bus.avro.frame import Malformed
from bus.core import failpoint, topics
from bus.core.failpoint import Point
from bus.core.outcome import DeadCode
from bus.engine import deadletter, lanes
from bus.engine.audit import AuditEncoder, Change, InputSpan, LaneCount, PastSpan
from bus.engine.lanes import NOTHING, Lane, Past
from bus.engine.plan import Plan, Record, Sums, Tally
from bus.engine.policy import Policy

Message = Any
"""confluent_kafka.Message with neither error nor missing offset; typed so that the hot loop is free of None checks."""
PersonOf = Callable[[bytes], bytes | None]
Produce = Callable[..., None]
"""produce(topic, value, key, lane[, headers]), as of bus.engine.transaction."""
MARKER = 1
"""Offsets that the commit marker of a transaction takes."""


class Run:
    """One topic's share of one lane. `tallies`: results -> events; `sample`: the value of the last good record."""

    __slots__ = ("_sums", "dead", "force", "lane", "plan", "sample", "seqs", "span", "tallies")

    def __init__(self, plan: Plan, lane: int, seqs: list[int], force: tuple[bool, ...], first: int) -> None:
        self.plan, self.lane, self.seqs, self.force = plan, lane, seqs, force
        self.span = InputSpan(first, first)
        self.tallies: dict[Tally, int] = {}
        self.dead: dict[DeadCode, int] = {}
        self.sample = b""
        self._sums: Sums | None = None

    def leave(self, last: Message, good: Message | None) -> None:
        """`last`: what was taken last; `good`: the last record of this stretch that the plan took as it was, if there is one."""
        self.span.next = last.offset() + 1
        if good is not None:
            self.sample = good.value()

    def sums(self) -> Sums:
        """Of the whole run, so to be asked for when nothing more is taken in."""
        if self._sums is None:
            self._sums = self.plan.sums(self.tallies)
        return self._sums

    def events(self) -> int:
        return sum(self.tallies.values()) + sum(self.dead.values())


class Batch:
    """What one open transaction has taken in so far. Nothing in `held` changes until the commit is certain."""

    def __init__(self, policy: Policy, held: Mapping[int, Lane], produce: Produce, now_ms: int) -> None:
        self.now_ms = now_ms
        self.records = 0
        self.runs: dict[tuple[str, int], Run] = {}
        self._policy, self._held, self._produce = policy, held, produce
        self._force = policy.force(now_ms)
        self._seqs: dict[int, list[int]] = {}
        self._out: list[Record] = []
        self._joints: list[tuple[str, int, int, int]] = []
        self._places: Mapping[tuple[str, int], int] = {}
        self._counts: dict[int, LaneCount] = {}
        self._pasts: dict[int, dict[str, Past]] = {}

    def change(self, places: Mapping[tuple[str, int], int]) -> None:
        """Let the policy take effect in the lanes that were worked under another one, be there input or not. `places`: (input
        topic, lane) -> next offset, of all of them."""
        self._places = places
        for number in lanes.under_another(self._held, self._policy.digest):
            held = self._held[number]
            self.count_on(number)
            self._counts[number].change = Change(held.digest, self._policy, self._stands(number))
            self._pasts[number] = self._policy.carry(held)

    def take(self, messages: list[Message], person_of: PersonOf) -> None:
        """Verify and project these records and produce what comes of them.

        Raises Abort, Indefinite or Stopped when the transaction cannot go on; any exception leaves it to be aborted.
        """
        produce, out = self._produce, self._out
        topic, lane = "", -1
        run: Any = None
        last: Any = None
        good: Any = None
        handle: Any = None
        seqs: list[int] = []
        force: tuple[bool, ...] = ()
        tallies: dict[Tally, int] = {}
        for message in messages:
            if message.partition() != lane or message.topic() != topic:
                if run is not None:
                    run.leave(last, good)
                good = None
                topic, lane = message.topic(), message.partition()
                run = self._run(topic, lane, message.offset())
                handle, seqs, force, tallies = run.plan.handle, run.seqs, run.force, run.tallies
            last = message
            try:
                tally = handle(message.value(), message.key(), person_of, seqs, force, out)
                good = message
            except Malformed as bad:
                tally = self._take_older(message, run, person_of, bad.code)
                if not tally:
                    continue
            if tally in tallies:
                tallies[tally] += 1
            else:
                tallies[tally] = 1
            for to, value, key in out:
                produce(to, value, key, lane)
            out.clear()
        if run is not None:
            run.leave(last, good)
        self.records += len(messages)

    def _run(self, topic: str, lane: int, offset: int) -> Run:
        found = self.runs.get((topic, lane))
        if found is None:
            failpoint.hit(Point.PRODUCING)
            seqs = self.count_on(lane)
            found = self.runs[topic, lane] = Run(self._policy.plans[topic], lane, seqs, self._force_in(lane), offset)
        elif offset != found.span.next and offset != found.span.next + MARKER:
            self._joints.append((topic, lane, found.span.next, offset))
        return found

    # -- the past, before anything live of its lane ------------------------------------------------------------------------

    def count_on(self, lane: int) -> list[int]:
        """The lane's sequence numbers in this transaction. A lane that has them gets an audit line and a lane record."""
        if lane not in self._seqs:
            self._seqs[lane] = list(self._held[lane].seqs)
            self._counts[lane] = LaneCount()
            self._pasts[lane] = dict(self._held[lane].past)
        return self._seqs[lane]

    def past(self, lane: int, agreement: str, dataset: str, span: tuple[int, int], outcome: str) -> None:
        """One verified event was read again, [from, next) of its topic. `outcome`: ''  when it had been decided on before."""
        count = self._counts[lane]
        found = count.past.setdefault((agreement, dataset), PastSpan(*span))
        found.next = span[1]
        found.events += 1
        found.decided += not outcome
        if outcome:
            count.past_outcomes[agreement, dataset, outcome] += 1
        so_far = self._pasts[lane].get(agreement, NOTHING)
        self._pasts[lane][agreement] = Past({**so_far.next, topics.verified(dataset): span[1]})

    def in_force(self, slot: int) -> bool:
        """Whether the agreement at this place is, by its validity."""
        return self._force[slot]

    def caught_up(self, lane: int, agreement: str, ends: Mapping[str, int]) -> None:
        """The agreement has its past; what comes in this transaction is delivered to it."""
        self.count_on(lane)
        self._pasts[lane][agreement] = Past(dict(ends), live=True)
        self._counts[lane].caught_up[agreement] = dict(ends), self._stands(lane)

    def _stands(self, number: int) -> dict[str, int]:
        return {topic: at for (topic, lane), at in self._places.items() if lane == number}

    def _force_in(self, lane: int) -> tuple[bool, ...]:
        """Which agreements are in force in the lane."""
        return self._policy.force_in(self._pasts[lane], self._force)

    def _take_older(self, message: Message, run: Run, person_of: PersonOf, code: DeadCode) -> Tally:
        """A record that the plan refuses, once more if an earlier schema of its topic explains that; b'' if it was buried."""
        try:
            return run.plan.again(message.value(), message.key(), person_of, run.seqs, run.force, self._out, code)
        except Malformed as bad:
            self._bury(message, run, bad.code)
        return b""

    def _bury(self, message: Message, run: Run, code: DeadCode) -> None:
        at_ms = message.timestamp()[1]
        about = deadletter.headers(message.topic(), message.partition(), message.offset(), code, at_ms)
        key, value = deadletter.carried(message.key(), message.value())
        self.produce(deadletter.topic(run.plan.dataset), value, key, run.lane, about)
        run.dead[code] = run.dead.get(code, 0) + 1
        failpoint.hit(Point.AFTER_DEAD_LETTER)

    def produce(self, topic: str, value: bytes | None, key: bytes | None, lane: int, *headers: list[tuple[str, bytes]]) -> None:
        """`headers`: one list, or none."""
        self._produce(topic, value, key, lane, *headers)

    def close(self, audit: AuditEncoder) -> dict[int, Lane]:
        """Produce audit lines and lane records; the lanes as they are once the transaction is committed."""
        after: dict[int, Lane] = {}
        for number, seqs in self._seqs.items():
            failpoint.hit(Point.BEFORE_AUDIT)
            before = self._held[number]
            count = self._count(number)
            past, policy = self._pasts[number], self._policy
            lane = before.after(seqs, self._inputs(number), policy.version, policy.digest, past)
            given = {a.id: (old + 1, new) for a, old, new in zip(policy.agreements, before.seqs, seqs, strict=True) if new > old}
            line = audit.encode(number, self.now_ms, policy.name(self._force_in(number)), count, given)
            self.produce(topics.AUDIT, line, None, number)
            failpoint.hit(Point.AFTER_AUDIT)
            self.produce(topics.LANES, lanes.encode(lane.state()), lanes.KEY, number)
            failpoint.hit(Point.AFTER_LANE_RECORD)
            after[number] = lane
        return after

    def _inputs(self, number: int) -> dict[str, int]:
        """Input topic -> next offset, of what this transaction read or where it found the lane."""
        read = {topic: run.span.next for (topic, lane), run in self.runs.items() if lane == number}
        return read if read and not self._counts[number].change else self._stands(number) | read

    def _count(self, number: int) -> LaneCount:
        count = self._counts[number]
        for (topic, lane), run in self.runs.items():
            if lane != number:
                continue
            run.span.events, run.span.dead = run.events(), sum(run.dead.values())
            count.inputs[topic] = run.span
            verdicts, outcomes = run.sums()
            for verdict, n in verdicts.items():
                count.verdicts[run.plan.dataset, verdict] += n
            for (agreement, outcome), n in outcomes.items():
                count.outcomes[agreement, run.plan.dataset, outcome] += n
        return count

    def joints(self, starts: Mapping[tuple[str, int], int]) -> Iterator[tuple[str, int, int, int]]:
        """(topic, lane, expected offset, offset read instead), in the order of reading.

        One for the first record of each run, which is to follow the lane record or, where that says nothing of the topic,
        `starts`; and one for each place within a run where more than a commit marker is missing, or where it went back.
        """
        for (topic, lane), run in self.runs.items():
            yield topic, lane, self._held[lane].inputs.get(topic, starts[topic, lane]), run.span.first
        yield from self._joints

    def past_events(self) -> Iterator[tuple[str, int]]:
        """(agreement, verified events read again)."""
        for count in self._counts.values():
            yield from ((agreement, span.events) for (agreement, _), span in count.past.items())

    def gone_live(self) -> Iterator[tuple[int, str]]:
        """(lane, agreement) that has its past with this transaction."""
        for lane, count in self._counts.items():
            yield from ((lane, agreement) for agreement in count.caught_up)

    def offsets(self) -> dict[tuple[str, int], int]:
        """The group's, to be committed with it: never none, for they are what an owner that has lost its lanes is refused by."""
        return {(topic, number): at for number in self._seqs for topic, at in self._inputs(number).items()}
