"""Bugs of the engine, one function each."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bus.avro.projection import _part
from bus.avro.scalar import scalar
from bus.core import topics
from bus.core.agreement import Mask
from bus.core.outcome import CHANGE_OPS
from bus.engine import client, lanes, plan, policy
from bus.engine.audit import LaneCount
from bus.engine.batch import Batch, Run
from bus.engine.lanes import Recovered
from bus.engine.member import GROUP
from bus.engine.policy import Policy
from bus.engine.replica import ReplicaReader
from bus.engine.transaction import Transactions
from tests.chaos.planting import ABORTS, EXPIRY, KILLS, bug, replace

AGENCY = topics.agency("")
DELETE = 2 * CHANGE_OPS.index("d")
OP_AT = 21
"""Of a framed change event."""


# -- the transaction


@bug(KILLS)
def offsets_committed_before_the_outputs() -> None:
    """The lane records and offsets in one transaction, the outputs in the next."""
    late: list[tuple[Any, ...]] = []
    begin, commit = Batch.__init__, Transactions.commit

    def init(self: Batch, *given: Any) -> None:
        begin(self, *given)
        late.clear()
        honest = self._produce

        def produce(topic: str, *rest: Any) -> None:
            if topic in (topics.AUDIT, topics.LANES):
                honest(topic, *rest)
            else:
                late.append((topic, *rest))

        replace(self, "_produce", produce)

    def commit_twice(self: Transactions, *given: Any) -> None:
        commit(self, *given)
        self.begin()
        for record in late:
            self.produce(*record)
        self.flush(GROUP)
        self.end()

    replace(Batch, "__init__", init)
    replace(Transactions, "commit", commit_twice)


@bug(KILLS)
def outputs_committed_before_the_offsets() -> None:
    """The outputs in one transaction, the lane records and offsets in the next."""
    made: list[Transactions] = []
    honest, begin = Batch.close, Transactions.begin

    def note(self: Transactions) -> None:
        made[:] = [self]
        begin(self)

    def close(self: Batch, *given: Any) -> Any:
        made[0].flush(GROUP)
        made[0].end()
        begin(made[0])
        return honest(self, *given)

    replace(Transactions, "begin", note)
    replace(Batch, "close", close)


@bug(ABORTS)
def seq_goes_on_after_an_abort() -> None:
    kept: dict[int, list[int]] = {}
    honest = Batch.count_on

    def count_on(self: Batch, lane: int) -> list[int]:
        self._seqs[lane] = kept.setdefault(lane, honest(self, lane))
        return self._seqs[lane]

    replace(Batch, "count_on", count_on)


@bug()
def seq_shared_by_all_lanes() -> None:
    kept: list[list[int]] = []
    honest = Batch.count_on

    def count_on(self: Batch, lane: int) -> list[int]:
        kept.append(honest(self, lane))
        self._seqs[lane] = kept[0]
        return kept[0]

    replace(Batch, "count_on", count_on)


# -- where to go on


@bug(KILLS)
def tail_scan_off() -> None:
    """The group's offsets are believed instead of the lane records."""
    honest = lanes.recover

    def recover(*given: Any, **named: Any) -> Recovered:
        found = honest(*given, **named)
        states = {
            lane: dataclasses.replace(state, seqs={}, inputs=found.committed.get(lane, {}))
            for lane, state in found.states.items()
        }
        at = {(t, lane): offset for lane, inputs in found.committed.items() for t, offset in inputs.items()}
        return dataclasses.replace(found, states=states, starts={**found.starts, **at})

    replace(lanes, "recover", recover)


@bug(KILLS)
def one_record_passed_over_at_a_take_over() -> None:
    honest = lanes.recover

    def recover(*given: Any, **named: Any) -> Recovered:
        found = honest(*given, **named)

        def shifted(topic: str, offset: int) -> int:
            return offset + (offset > 0 and topic.startswith("change."))

        states = {
            lane: dataclasses.replace(state, inputs={t: shifted(t, offset) for t, offset in state.inputs.items()})
            for lane, state in found.states.items()
        }
        starts = {(t, lane): shifted(t, offset) for (t, lane), offset in found.starts.items()}
        return dataclasses.replace(found, states=states, starts=starts)

    replace(lanes, "recover", recover)


@bug()
def reads_what_was_never_committed() -> None:
    client.MEMBER["isolation.level"] = "read_uncommitted"


@bug()
def two_records_change_places() -> None:
    honest = Batch.take

    def take(self: Batch, messages: list[Any], person_of: Any) -> None:
        found = list(messages)
        for i in range(1, len(found) - 2):
            if len({(m.topic(), m.partition()) for m in found[i - 1 : i + 3]}) == 1:
                found[i], found[i + 1] = found[i + 1], found[i]
                break
        honest(self, found, person_of)

    replace(Batch, "take", take)


# -- what an agency gets


def _with_handles(wrap: Callable[[Any], Any]) -> None:
    """Every plan's `handle` inside of another one."""
    honest = plan.compile_plan

    def compile_plan(*given: Any, **named: Any) -> plan.Plan:
        made = honest(*given, **named)
        return dataclasses.replace(made, handle=wrap(made.handle))

    replace(policy, "compile_plan", compile_plan)


def _with_grants(change: Callable[[Any, Any, bytes, Any], tuple[Any, Any, bytes]]) -> None:
    """Every compiled grant changed: change(grant, projection, secret, dataset)."""
    honest = plan._subscribe

    def subscribe(dataset: Any, *given: Any) -> Any:
        made = honest(dataset, *given)
        return made and change(*made, dataset)

    replace(plan, "_subscribe", subscribe)


@bug(EXPIRY)
def agreements_in_force_looked_up_once() -> None:
    kept: list[tuple[bool, ...]] = []
    honest = Policy.force

    def force(self: Policy, now_ms: int) -> tuple[bool, ...]:
        kept.append(honest(self, now_ms))
        return kept[0]

    replace(Policy, "force", force)


@bug()
def mask_off_by_one_field() -> None:
    """The field before the masked one is masked, and the masked one is not."""

    def change(grant: Any, projection: Any, secret: bytes, dataset: Any) -> tuple[Any, Any, bytes]:
        parts = list(projection.parts)
        for i, (left, right) in enumerate(itertools.pairwise(grant.fields)):
            text = not parts[i].of_register and scalar(dataset.fields[parts[i].column]) == "string"
            if text and left.mask == Mask.PLAIN and right.mask in (Mask.LAST4, Mask.PSEUDONYM) and not parts[i + 1].of_register:
                parts[i] = _part(dataset, dataset, left.name, right.mask, secret)
                parts[i + 1] = _part(dataset, dataset, right.name, left.mask, secret)
                break
        return grant, dataclasses.replace(projection, parts=tuple(parts)), secret

    _with_grants(change)


@bug()
def hidden_field_under_a_granted_name() -> None:
    def change(grant: Any, projection: Any, secret: bytes, dataset: Any) -> tuple[Any, Any, bytes]:
        granted = {f.name for f in grant.fields}
        hidden = [f["name"] for f in dataset.row["fields"] if "pii" in f and f["name"] not in granted]
        for i, part in enumerate(projection.parts):
            if part.of_register or part.masked.apply is not None:
                continue
            if found := [h for h in hidden if dataset.fields[h] == dataset.fields[part.column]]:
                parts = [*projection.parts[:i], dataclasses.replace(part, column=found[0]), *projection.parts[i + 1 :]]
                return grant, dataclasses.replace(projection, parts=tuple(parts)), secret
        return grant, projection, secret

    _with_grants(change)


@bug()
def row_filter_ignored() -> None:
    _with_grants(lambda grant, projection, secret, _: (grant, dataclasses.replace(projection, conditions=()), secret))


@bug()
def verdict_filter_ignored() -> None:
    _with_grants(lambda grant, projection, secret, _: (dataclasses.replace(grant, verdicts=()), projection, secret))


@bug()
def one_pseudonym_for_all_agreements() -> None:
    _with_grants(lambda grant, projection, _, __: (grant, projection, bytes(32)))


@bug()
def person_key_in_a_pseudonymous_topic() -> None:
    replace(plan, "sees_pin", lambda *_: True)


@bug()
def another_grant_hash() -> None:
    honest = plan.compile_plan

    def compile_plan(dataset: Any, register: Any, listed: Any, *rest: Any, **named: Any) -> plan.Plan:
        other = [dataclasses.replace(a, grant_hash=hashlib.sha256(a.id.encode()).digest()) for a in listed]
        return honest(dataset, register, other, *rest, **named)

    replace(policy, "compile_plan", compile_plan)


@bug()
def delete_not_delivered() -> None:
    def wrap(honest: Any) -> Any:
        def handle(value: Any, key: Any, person_of: Any, seqs: list[int], force: Any, out: list[Any]) -> Any:
            before = list(seqs)
            tally = honest(value, key, person_of, seqs, force, out)
            if value[OP_AT] == DELETE:
                out[:] = [record for record in out if not record[0].startswith(AGENCY)]
                seqs[:] = before
            return tally

        return handle

    _with_handles(wrap)


@bug()
def delivered_to_another_agency() -> None:
    """Now and then, and the same one each time."""
    known: list[str] = []
    count = itertools.count(1)

    def wrap(honest: Any) -> Any:
        def handle(value: Any, key: Any, person_of: Any, seqs: list[int], force: Any, out: list[Any]) -> Any:
            tally = honest(value, key, person_of, seqs, force, out)
            for i, (topic, made, name) in enumerate(out):
                if topic.startswith(AGENCY):
                    known.extend({topic} - set(known))
                    if next(count) % 10 == 0:
                        out[i] = (known[0] if topic != known[0] else known[-1], made, name)
            return tally

        return handle

    _with_handles(wrap)


@bug()
def somebody_elses_record() -> None:
    """The register's record of another person, under the right PIN so that the engine's own look does not see it."""
    honest = ReplicaReader.view
    last: list[bytes] = []
    pin = re.compile(rb"\x18[0-9]{12}")

    @contextmanager
    def view(self: ReplicaReader) -> Iterator[Any]:
        with honest(self) as get:

            def other(key: bytes) -> bytes | None:
                found: bytes | None = get(key)
                if found is None:
                    return None
                last.append(bytes(found))
                own, foreign = pin.search(last[-1]), pin.search(last[0])
                assert own is not None
                assert foreign is not None
                return last[0].replace(foreign[0], own[0])

            yield other

    replace(ReplicaReader, "view", view)


# -- what is on record


@bug()
def dead_letter_dropped() -> None:
    def bury(self: Batch, message: Any, run: Run, code: Any) -> None:
        run.dead[code] = run.dead.get(code, 0) + 1

    replace(Batch, "_bury", bury)


@bug()
def audit_line_left_out() -> None:
    honest, count = Batch.produce, itertools.count(1)

    def produce(self: Batch, topic: str, *rest: Any) -> None:
        if topic != topics.AUDIT or next(count) % 3:
            honest(self, topic, *rest)

    replace(Batch, "produce", produce)


@bug()
def audit_counts_one_too_many() -> None:
    honest = Batch._count

    def count(self: Batch, number: int) -> LaneCount:
        found = honest(self, number)
        for what in list(found.outcomes)[:1]:
            found.outcomes[what] += 1
        return found

    replace(Batch, "_count", count)
