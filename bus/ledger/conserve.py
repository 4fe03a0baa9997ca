"""Taking the conservation ledger of a running bus: lane after lane, from its topics, with an operator's rights and no group.

Order of looking, which makes it exact while the bus works: first the committed ends of inputs and outputs, then the end of the
audit. Whatever stands below the first was committed before, so its audit line stands below the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import access
from bus.avro import dataset
from bus.config import ConfigError, Settings
from bus.core import identity, topics
from bus.engine import lanes
from bus.engine.policy import AGREEMENT_KEY
from bus.ledger.conservation import LaneWalk, Scope
from bus.ledger.entries import Distillery, Line
from bus.ledger.lane_tape import LaneTape, TapeError, consumer_config
from bus.ledger.reading import ReadTimeout
from bus.ledger.sums import Books, Finding
from bus.registry import log as registry
from bus.replay.extent import Point, ReplayError, parse_point

PRINCIPAL = "operator"
"""Of the command; the process has a user of its own."""
PATIENCE_SECONDS = 20.0
"""Longest wait, in one lane, for records that a committed audit line speaks of and that do not show yet."""
CLOCK_MS = 60_000
"""How far a worker's clock may have gone back within a transaction: outputs are sought from so long before its decision."""
TOLD_RECORDS = 200_000
_ANSWER_SECONDS = 15.0
_STATE_RECORDS = 2_000
Progress = Callable[[str], None]


class LedgerError(ValueError):
    """The ledger cannot be taken; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the ledger is to be about. Empty: all. `since`: as of `bus replay --from`, a time or a duration."""

    agency: str = ""
    dataset: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a lane was left: next offsets of its topics, and what the audit had said of it by then."""

    starts: Mapping[str, int]
    at: Mapping[str, int]
    seqs: Mapping[str, int]
    agreed: Mapping[str, Mapping[str, bytes]] | None


def take(settings: Settings, asked: Asked, progress: Progress = lambda _: None, principal: str = PRINCIPAL) -> dict[str, Any]:
    """The ledger, ready for JSON. Raises LedgerError, ConfigError when there is no bus."""
    began = time.monotonic()
    found = Session(settings, asked, principal)
    try:
        for lane in range(found.lanes):
            found.lane(lane, progress)
    except KafkaException as error:
        raise LedgerError(f"cannot read the topics: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    except (ReadTimeout, TapeError) as error:
        raise LedgerError(str(error)) from None
    finally:
        found.close()
    about = {"since": asked.since or "beginning", "lanes": found.lanes, "records": found.records}
    told = _only(found.books.told(), asked)
    return about | {"seconds": round(time.monotonic() - began, 3)} | told


class Session:
    """One taking. `books` grows with every lane. `resume`: lane -> where an earlier one left it."""

    def __init__(self, settings: Settings, asked: Asked, principal: str, resume: Mapping[int, Resume] | None = None) -> None:
        connection = access.confluent(settings, principal)
        self.books, self.records, self._told = Books(), 0, 0
        self._at_ms, self._resume = _since(asked.since), resume or {}
        every = dataset.load(settings.schemas)
        wanted = {n: d for n, d in every.items() if asked.dataset in ("", n)}
        if not wanted:
            raise LedgerError(f"no dataset {asked.dataset!r}: there are {', '.join(every)}")
        self._admin = AdminClient(connection | {"log_level": 0})
        self._consumer = Consumer(consumer_config(connection, principal))
        there = self._topics()
        self._inputs = {d.topic: d.name for d in wanted.values() if d.topic in there}
        self._agencies = frozenset(_agreements(there, asked.agency))
        self._register = dataset.register_of(every).name
        self._secrets = _Secrets(settings)
        self.lanes = len(there[topics.AUDIT].partitions)
        names = {f"{d.domain}_{d.table}": d.name for d in every.values()}
        self._distillery = Distillery(registry.read(connection), names)

    def _topics(self) -> Mapping[str, Any]:
        try:
            found = self._admin.list_topics(timeout=_ANSWER_SECONDS).topics
        except KafkaException as error:
            raise LedgerError(f"the broker does not answer: {error.args[0].str()}; is it up? (`bus status`)") from None
        if topics.AUDIT not in found:
            raise LedgerError(f"there is no topic {topics.AUDIT!r}: run `bus up` once")
        return found

    @property
    def datasets(self) -> list[str]:
        return list(self._inputs.values())

    def close(self) -> None:
        self._consumer.close()

    # -- one lane ------------------------------------------------------------------------------------------------------------

    def lane(self, lane: int, progress: Progress) -> Resume:
        """Where the lane was left. Raises KafkaException, ReadTimeout, TapeError."""
        outputs = self._outputs()
        ends = self._edges([*self._inputs, *outputs], lane, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        audit_end = self._edges([topics.AUDIT], lane, OffsetSpec.latest())[topics.AUDIT]  # type: ignore[no-untyped-call]
        tape = LaneTape(self._consumer, lane, partial(self._distillery.of, inputs=self._inputs), PATIENCE_SECONDS)
        begins = partial(self._begin, tape) if self._at_ms is not None else lambda _: ()
        scope = Scope(self._inputs, self._agencies, self._secrets.other_id, self._register, begins)
        walk = LaneWalk(tape, self.books, scope)
        if (left := self._resume.get(lane)) is not None:
            walk.at, walk.seqs = dict(left.at), dict(left.seqs)
            walk.agreed = None if left.agreed is None else {d: dict(found) for d, found in left.agreed.items()}
        try:
            self._open(tape, lane, outputs)
            for line in self._lines(tape, audit_end, partial(walk.leftovers, ends)):
                walk.take(line)
                self._tell(tape, lane, progress)
            state = self._state(tape, walk)
            self._open_rest(tape, state, outputs, ends)
            walk.close(ends)
            starts = {t: tape.position(t) for t in (topics.AUDIT, *outputs) if tape.is_open(t)}
            starts |= {t: walk.at[t] for t in self._inputs if t in walk.at}
        finally:
            self.records += tape.records
            tape.close()
        progress(f"lane {lane}: {tape.records:,} records, {self.books.lines:,} audit lines so far")
        return Resume(starts, walk.at, walk.seqs, walk.agreed)

    def _tell(self, tape: LaneTape, lane: int, progress: Progress) -> None:
        """Every so often; to be called after each line."""
        if tape.records // TOLD_RECORDS != self._told:
            self._told = tape.records // TOLD_RECORDS
            if self._told:
                progress(f"lane {lane} of {self.lanes}: {tape.records:,} records")

    def _outputs(self) -> list[str]:
        found = [f(name) for name in self._inputs.values() for f in (topics.verified, topics.dead)]
        return [*found, *map(topics.agency, sorted(self._agencies))]

    def _open(self, tape: LaneTape, lane: int, outputs: Sequence[str]) -> None:
        earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        if self._at_ms is None:
            known = dict(self._resume[lane].starts) if lane in self._resume else {}
            tape.open(self._edges([topics.AUDIT, *self._inputs, *outputs], lane, earliest) | known)
        else:
            tape.open(self._times([topics.AUDIT], lane, self._at_ms))
        first = self._edges([topics.LANES], lane, earliest)[topics.LANES]
        end = self._edges([topics.LANES], lane, OffsetSpec.latest())[topics.LANES]  # type: ignore[no-untyped-call]
        tape.open({topics.LANES: max(first, end - _STATE_RECORDS)})

    def _begin(self, tape: LaneTape, line: Line) -> list[str]:
        """Open what a line is the first to speak of: inputs where it says, outputs some time before it was decided; these."""
        fresh = {s["topic"]: s["first_offset"] for s in line.content["inputs"] if s["topic"] in self._inputs}
        fresh = {topic: at for topic, at in fresh.items() if not tape.is_open(topic)}
        outputs = [f(self._inputs[t]) for t in fresh for f in (topics.verified, topics.dead)]
        given = [topics.agency(d["agreement"]) for d in line.content["deliveries"] if d["agreement"] in self._agencies]
        outputs += [name for name in given if not tape.is_open(name)]
        if outputs:
            tape.open(fresh | self._times(outputs, tape.lane, max(0, line.content["decided_at_ms"] - CLOCK_MS)))
        return outputs

    def _lines(self, tape: LaneTape, end: int, more: Callable[[], bool]) -> Iterable[Line]:
        """Up to the end, and beyond it as long as outputs below theirs have no line yet."""
        while (line := tape.next(topics.AUDIT)) is not None:
            if line.offset >= end and not more():
                tape.back(topics.AUDIT, [line])
                return
            yield line
        while more():
            line = tape.next(topics.AUDIT, doubt=True)
            if line is None:
                return
            yield line

    def _state(self, tape: LaneTape, walk: LaneWalk) -> lanes.LaneState:
        """The newest lane record, which was written with the last audit line or a later one."""
        state, at = lanes.LaneState(), -1
        while (record := tape.next(topics.LANES)) is not None:
            state, at = record.state, record.offset
        for topic, come in walk.at.items():
            if state.inputs.get(topic, 0) < come:
                known = state.inputs.get(topic, 0)
                self._behind(tape.lane, at, self._inputs[topic], "", input=topic, audited=come, lane_record=known)
        for agreement, seq in walk.seqs.items():
            if state.seqs.get(agreement, 0) < seq:
                self._behind(tape.lane, at, "", agreement, audited_seq=seq, lane_record_seq=state.seqs.get(agreement, 0))
        return state

    def _behind(self, lane: int, offset: int, name: str, agreement: str, **detail: Any) -> None:
        self.books.find(Finding("lane_record", name, agreement, topics.LANES, lane, offset, detail))

    def _open_rest(self, tape: LaneTape, state: lanes.LaneState, outputs: Sequence[str], ends: Mapping[str, int]) -> None:
        """With a beginning in time: inputs that no line has spoken of, from where they wait, and outputs from then on."""
        if self._at_ms is None:
            return
        inputs = [topic for topic in self._inputs if not tape.is_open(topic)]
        earliest = self._edges(inputs, tape.lane, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        rest = self._times([t for t in outputs if not tape.is_open(t)], tape.lane, self._at_ms)
        wanted = {topic: max(state.inputs.get(topic, 0), earliest[topic]) for topic in inputs} | rest
        tape.open({topic: min(at, max(ends[topic], 0)) for topic, at in wanted.items()})

    # -- offsets ---------------------------------------------------------------------------------------------------------------

    def _edges(self, names: Iterable[str], lane: int, spec: OffsetSpec) -> dict[str, int]:
        found = lanes.offsets(self._admin, [(n, lane) for n in names], spec, IsolationLevel.READ_COMMITTED)
        return {topic: at for (topic, _), at in found.items()}

    def _times(self, names: Sequence[str], lane: int, at_ms: int) -> dict[str, int]:
        """The first offset written at this time or later, or the end."""
        if not names:
            return {}
        places = self._consumer.offsets_for_times([TopicPartition(n, lane, at_ms) for n in names], _ANSWER_SECONDS)
        ends = self._edges(names, lane, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {tp.topic: tp.offset if tp.offset >= 0 else ends[tp.topic] for tp in places}


class _Secrets:
    """The id an event has for an agency that does not see the PIN. The key is the home's own: without it ids are not compared."""

    def __init__(self, settings: Settings) -> None:
        try:
            self._master: bytes | None = settings.secret(AGREEMENT_KEY)
        except ConfigError:
            self._master = None
        self._keyed: dict[str, identity.Keyed] = {}

    def other_id(self, agreement: str, event_id: bytes) -> bytes | None:
        if self._master is None:
            return None
        keyed = self._keyed.get(agreement)
        if keyed is None:
            keyed = self._keyed[agreement] = identity.pseudonyms(identity.agreement_secret(self._master, agreement))
        return keyed(event_id)


def _since(text: str) -> int | None:
    """Unix milliseconds; None: from the beginning."""
    if text in ("", "beginning"):
        return None
    try:
        point: Point = parse_point(text, datetime.now(UTC))
    except ReplayError as error:
        raise LedgerError(str(error)) from None
    if point.at_ms is None:
        raise LedgerError(f"--since takes a time or how long ago, as 15m: offsets differ from topic to topic, got {text!r}")
    return point.at_ms


def _agreements(there: Mapping[str, Any], agency: str) -> list[str]:
    names = [name.removeprefix(topics.agency("")) for name in there if name.startswith(topics.agency(""))]
    found = [name for name in names if agency in ("", name.partition(".")[0])]
    if agency and not found:
        raise LedgerError(f"no agency {agency!r}: there are {', '.join(sorted({n.partition('.')[0] for n in names})) or 'none'}")
    return found


def _only(told: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """With --agency: the agreements of that agency, and what is said of datasets as such."""
    if not asked.agency:
        return told
    agreements = {n: sums for n, sums in told["agreements"].items() if n.partition(".")[0] == asked.agency}
    return told | {"agreements": agreements}
