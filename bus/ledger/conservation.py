"""The walk over one lane: audit line by audit line, what each says is held against what stands in the topics.

An audit line names, exactly, the offsets of every input that its transaction read, the `seq` of every delivery that it gave
out, and how many events came to which outcome. So each line is an account of its own, that needs the records of one
transaction in memory: its inputs by offset, dead letters by the offset of their origin, verified events by event id, and
deliveries by `seq`, whose event ids must then be those of the events decided DELIVERED. Pure: entries come from a `Tape`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from bus.core import topics
from bus.core.outcome import Outcome
from bus.ledger.collect import Tape, below, collect, coming
from bus.ledger.entries import Captured, Delivered, Entry, Letter, Line, Verified
from bus.ledger.sums import Books, Finding

_DELIVERED = Outcome.DELIVERED.value
_offset, _seq, _event_id = attrgetter("offset"), attrgetter("seq"), attrgetter("event_id")
"""What an entry is found by."""


@dataclass(slots=True)
class Scope:
    """What is looked at. `inputs`: input topic -> dataset; `agencies`: agreements whose topics are read; `begins`: how to
    open a line's topics where the ledger does not begin at the beginning, and which of them may hold older records; `other_id`:
    (agreement, event id) -> the id that the agreement's deliveries bear where they do not bear the bus's own, None: not known."""

    inputs: Mapping[str, str]
    agencies: frozenset[str]
    other_id: Callable[[str, bytes], bytes | None]
    register: str
    """The dataset whose input is compacted."""
    begins: Callable[[Line], Iterable[str]] = lambda _: ()


@dataclass(slots=True)
class _Taken:
    """One line, as it is worked through: the ids that must be among the deliveries, by agreement and dataset."""

    line: Line
    live: dict[str, dict[bytes, str]] = field(default_factory=dict)


class LaneWalk:
    """Feed it the lane's audit lines in order, then `close`."""

    def __init__(self, tape: Tape, books: Books, scope: Scope) -> None:
        self._tape, self._books, self._scope, self._lane = tape, books, scope, tape.lane
        self.at: dict[str, int] = {}
        """Input topic -> next offset by the audit."""
        self.seqs: dict[str, int] = {}
        """Agreement -> last `seq` by the audit."""
        self.agreed: dict[str, dict[str, bytes]] | None = None
        """Dataset -> agreement on it -> its grant hash; None before the first line that says."""
        self._early = set[str]()
        """Outputs that were opened somewhat before the first line, as long as it is not known where in them the ledger begins."""

    # -- one line ------------------------------------------------------------------------------------------------------------

    def take(self, line: Line) -> None:
        self._books.lines += 1
        self._early.update(self._scope.begins(line))
        content = line.content
        if content["change"] is not None:
            self._change(content["change"])
        taken = _Taken(line)
        audited = _outcomes(content["outcomes"])
        for span in content["inputs"]:
            if span["topic"] in self._scope.inputs:
                self._input(span, taken, audited)
        self._past(content)
        self._deliveries(taken)

    def _change(self, change: Mapping[str, Any]) -> None:
        self.agreed = {}
        for one in change["agreements"]:
            for dataset in one["datasets"]:
                self.agreed.setdefault(dataset, {})[one["agreement"]] = bytes(one["grant_hash"])

    def _input(self, span: Mapping[str, Any], taken: _Taken, audited: Mapping[str, Counter[tuple[str, str]]]) -> None:
        topic, first, end = span["topic"], span["first_offset"], span["next_offset"]
        dataset, sums = self._scope.inputs[topic], self._books.of(self._scope.inputs[topic])
        come = self.at.get(topic)
        if come is not None and first < come:
            self._find("read_twice", dataset, "", topics.AUDIT, taken.line.offset, input=topic, first_offset=first, next=come)
        self.at[topic] = end
        records: list[Captured] = below(self._tape, topic, end, _offset)
        for passed in [r for r in records if r.offset < first]:
            self._find("passed_over", dataset, "", topic, passed.offset, **_event(passed.event_id))
        records = [r for r in records if r.offset >= first]
        sums.captured += sum(not r.redriven for r in records)
        sums.redriven += sum(r.redriven for r in records)
        gone = span["events"] - len(records)
        if gone > 0 and dataset == self._scope.register:
            sums.captured, sums.compacted = sums.captured + gone, sums.compacted + gone
        elif gone:
            self._audit(taken, dataset, "", input=topic, first_offset=first, audited=span["events"], captured=len(records))
        dead = self._letters(dataset, first, end, records, gone)
        if len(dead) != span["dead"]:
            self._audit(taken, dataset, "", input=topic, first_offset=first, audited_dead=span["dead"], dead=len(dead))
        good = [r for r in records if r.offset not in dead]
        compacted = gone if gone > 0 and dataset == self._scope.register else 0
        decided = self._decided(dataset, topic, good, max(0, compacted - (len(dead) - len(records) + len(good))))
        self._outcomes(dataset, decided, taken, audited.get(dataset, Counter()))
        self._sum(dataset, records, dead, decided, compacted)

    def _letters(self, dataset: str, first: int, end: int, records: list[Captured], gone: int) -> dict[int, Letter]:
        """Origin -> the letter, of this span."""
        found: dict[int, Letter] = {}
        topic, offsets = topics.dead(dataset), {r.offset for r in records}
        while (letter := self._tape.next(topic)) is not None:
            if letter.origin >= end:
                self._tape.back(topic, [letter])
                break
            if letter.origin < 0:
                self._books.of(dataset).at_capture[letter.code] += 1
            elif letter.origin < first and topic in self._early:
                continue
            elif letter.origin in found or letter.origin < first or (letter.origin not in offsets and gone <= 0):
                kind = "repeated" if letter.origin in found else "unexplained"
                self._find(kind, dataset, "", topic, letter.offset, original_offset=letter.origin)
                self._books.of(dataset).dead[letter.code] += 1
            else:
                found[letter.origin] = letter
                self._books.of(dataset).dead[letter.code] += 1
        self._early.discard(topic)
        return found

    def _decided(self, dataset: str, source: str, good: list[Captured], compacted: int) -> list[Verified]:
        """The verified events of these records. `compacted`: as many more, whose records are no longer there."""
        topic = topics.verified(dataset)
        wanted = {r.event_id: r for r in good}
        if len(wanted) < len(good):
            self._find("repeated", dataset, "", source, good[-1].offset, events=len(good) - len(wanted))
        later = {r.event_id for r in coming(self._tape, source)} - {b""} if good and topic in self._early else set()
        found = self._collect(topic, wanted, len(wanted), _event_id, later.__contains__, dataset, "", compacted)
        sums = self._books.of(dataset)
        sums.decided += len(found)
        there = {v.event_id for v in found}
        for event_id, record in wanted.items():
            if event_id not in there:
                self._find("not_verified", dataset, "", topic, -1, input=source, input_offset=record.offset, **_event(event_id))
        return found

    def _outcomes(self, dataset: str, decided: list[Verified], taken: _Taken, audited: Mapping[tuple[str, str], int]) -> None:
        """The decisions on record, beside what the audit line counts and what agreements there are."""
        by_kind = Counter(v.decisions for v in decided)
        counted: Counter[tuple[str, str]] = Counter()
        for decisions, events in by_kind.items():
            for decision in decisions:
                counted[decision] += events
        for place in sorted(counted.keys() | audited.keys()):
            if counted[place] != audited.get(place, 0):
                agreement, outcome = place
                about = {"outcome": outcome, "audited": audited.get(place, 0), "decided": counted[place]}
                self._audit(taken, dataset, agreement, **about)
        if self.agreed is not None:
            expected = sorted(self.agreed.get(dataset, {}))
            wrong = sum(n for decisions, n in by_kind.items() if sorted(name for name, _ in decisions) != expected)
            if wrong:
                at = next(v.offset for v in decided if sorted(name for name, _ in v.decisions) != expected)
                self._find("decisions", dataset, "", topics.verified(dataset), at, events=wrong)
        for event in decided:
            for agreement, outcome in event.decisions:
                if outcome == _DELIVERED and agreement in self._scope.agencies:
                    taken.live.setdefault(agreement, {})[event.event_id] = dataset

    def _sum(
        self, dataset: str, records: list[Captured], dead: Mapping[int, Letter], decided: list[Verified], compacted: int
    ) -> None:
        counted: Counter[tuple[str, str]] = Counter()
        for decisions, events in Counter(v.decisions for v in decided).items():
            for decision in decisions:
                counted[decision] += events
        listed = self.agreed.get(dataset, {}) if self.agreed is not None else {name for name, _ in counted}
        redriven = sum(r.redriven for r in records)
        for agreement in listed:
            sums = self._books.between(dataset, agreement)
            sums.captured += len(records) - redriven + compacted
            sums.redriven += redriven
            sums.dead += len(dead)
        for (agreement, outcome), events in counted.items():
            if outcome != _DELIVERED:
                self._books.between(dataset, agreement).withheld[outcome] += events
            elif agreement not in self._scope.agencies:
                self._books.between(dataset, agreement).delivered += events

    # -- deliveries ------------------------------------------------------------------------------------------------------------

    def _past(self, content: Mapping[str, Any]) -> None:
        for one in content["past_outcomes"]:
            if one["dataset"] in self._scope.inputs.values():
                self._books.between(one["dataset"], one["agreement"]).past[one["outcome"]] += one["count"]

    def _deliveries(self, taken: _Taken) -> None:
        content = taken.line.content
        past = Counter[str]()
        for one in content["past_outcomes"]:
            if one["outcome"] == _DELIVERED:
                past[one["agreement"]] += one["count"]
        ranges = {d["agreement"]: (d["first_seq"], d["last_seq"]) for d in content["deliveries"]}
        for agreement in sorted((ranges.keys() | taken.live.keys()) & self._scope.agencies):
            first, last = ranges.get(agreement, (0, -1))
            due = self.seqs.get(agreement)
            if due is not None and last >= first and first != due + 1:
                self._audit(taken, "", agreement, first_seq=first, expected_seq=due + 1)
            if last >= first:
                self.seqs[agreement] = last
            self._agency(taken, agreement, range(first, last + 1), past[agreement])

    def _agency(self, taken: _Taken, agreement: str, numbers: range, past: int) -> None:
        topic = topics.agency(agreement)
        found: list[Delivered] = self._collect(
            topic, numbers, len(numbers), _seq, lambda seq: bool(seq >= numbers.stop), "", agreement
        )
        live = self._names(agreement, taken.live.get(agreement, {}))
        strangers: list[Delivered] = []
        for one in found:
            event = live.pop(one.event_id, None)
            if event is None:
                strangers.append(one)
            else:
                self._books.between(event[1], agreement).delivered += 1
            self._hash(agreement, one)
        missing = sorted(set(numbers) - {one.seq for one in found})
        others = len(taken.line.content["past"]) > 0 or not self._all_datasets(taken)
        self._unmatched(taken, agreement, live, strangers if not others else strangers[past:], missing)

    def _all_datasets(self, taken: _Taken) -> bool:
        """Whether every input of the line is looked at: else deliveries of the others are nobody's here."""
        return all(span["topic"] in self._scope.inputs for span in taken.line.content["inputs"])

    def _names(self, agreement: str, live: Mapping[bytes, str]) -> dict[bytes, tuple[bytes, str]]:
        """Id in the agency's topic -> (event id, dataset). Which of the two an agreement uses, its own deliveries tell."""
        if not live:
            return {}
        made = {event_id: (event_id, dataset) for event_id, dataset in live.items()}
        other = {self._scope.other_id(agreement, event_id): found for event_id, found in made.items()}
        return _Either(made, {k: v for k, v in other.items() if k is not None})

    def _hash(self, agreement: str, one: Delivered) -> None:
        if self.agreed is not None and one.dataset:
            expected = self.agreed.get(one.dataset, {}).get(agreement)
            if expected is not None and expected != one.grant_hash:
                self._find("grant_hash", one.dataset, agreement, topics.agency(agreement), one.offset, seq=one.seq)

    def _unmatched(
        self,
        taken: _Taken,
        agreement: str,
        live: Mapping[bytes, tuple[bytes, str]],
        strangers: list[Delivered],
        missing: list[int],
    ) -> None:
        topic = topics.agency(agreement)
        left = list(dict(live).values())
        told = left if len(left) == len(missing) else [(b"", one) for one in [*{name for _, name in left}][:1]] * len(missing)
        for seq, (event_id, dataset) in zip(missing, told or [(b"", "")] * len(missing), strict=True):
            about = _event(event_id)
            self._find("missing", dataset, agreement, topic, -1, seq=seq, audit_offset=taken.line.offset, **about)
        if not self._all_datasets(taken):
            strangers = [one for one in strangers if one.dataset in self._scope.inputs.values()]
        for one in strangers:
            self._find("other_event", one.dataset, agreement, topic, one.offset, seq=one.seq, **_event(one.event_id))
            if one.dataset:
                self._books.between(one.dataset, agreement).delivered += 1
        for event_id, dataset in left[len(missing) :]:
            self._find("not_delivered", dataset, agreement, topic, -1, audit_offset=taken.line.offset, **_event(event_id))

    # -- the end -----------------------------------------------------------------------------------------------------------------

    def leftovers(self, ends: Mapping[str, int]) -> bool:
        """Whether an output holds, below its end as given, what no line so far has spoken of."""
        for topic in self._outputs():
            entry = self._tape.next(topic)
            if entry is not None:
                self._tape.back(topic, [entry])
                if entry.offset < ends.get(topic, 0) and not (isinstance(entry, Letter) and entry.origin < 0):
                    return True
        return False

    def close(self, ends: Mapping[str, int]) -> None:
        """What waits, and what stands in outputs without a line. `ends`: topic -> committed end of before the last line was
        read, so that whatever stands below had its line written."""
        for topic, dataset in self._scope.inputs.items():
            if self._tape.is_open(topic):
                self._waiting(dataset, below(self._tape, topic, ends.get(topic, 0), _offset))
        for topic in self._outputs():
            for entry in below(self._tape, topic, ends.get(topic, 0), _offset):
                self._stray(topic, entry)

    def _outputs(self) -> list[str]:
        """Those whose entries must all be of some line: not where what is older was opened too and no line was found yet."""
        names = [f(d) for d in self._scope.inputs.values() for f in (topics.verified, topics.dead)]
        names += [topics.agency(a) for a in sorted(self._scope.agencies)]
        return [t for t in names if self._tape.is_open(t) and t not in self._early]

    def _waiting(self, dataset: str, records: list[Captured]) -> None:
        sums, redriven = self._books.of(dataset), sum(r.redriven for r in records)
        sums.captured += len(records) - redriven
        sums.redriven += redriven
        sums.waiting += len(records)
        for agreement in (self.agreed or {}).get(dataset, {}):
            one = self._books.between(dataset, agreement)
            one.captured += len(records) - redriven
            one.redriven += redriven
            one.waiting += len(records)

    def _stray(self, topic: str, entry: Entry) -> None:
        if isinstance(entry, Letter):
            dataset = topic.removeprefix(topics.dead(""))
            if entry.origin < 0:
                self._books.of(dataset).at_capture[entry.code] += 1
                return
            self._books.of(dataset).dead[entry.code] += 1
            self._find("unexplained", dataset, "", topic, entry.offset, original_offset=entry.origin)
        elif isinstance(entry, Verified):
            self._extra(topic, topic.removeprefix(topics.verified("")), "", entry)
        else:
            self._extra(topic, "", topic.removeprefix(topics.agency("")), entry)

    def _collect(
        self,
        topic: str,
        wanted: Container[Any],
        count: int,
        key: Callable[[Entry], Hashable],
        later: Callable[[Any], bool],
        dataset: str,
        agreement: str,
        others: int = 0,
    ) -> list[Any]:
        """The `count` entries that are wanted, each once, and `others` more; what stands between them is nobody's."""
        got = collect(self._tape, topic, wanted, count, key, others, later if topic in self._early else None)
        for one in (*got.before, *got.between):
            self._extra(topic, dataset, agreement, one)
        if got.begun:
            self._early.discard(topic)
        return got.found

    # -- findings ----------------------------------------------------------------------------------------------------------------

    def _extra(self, topic: str, dataset: str, agreement: str, entry: Entry) -> None:
        """A record that no audit line explains: it is counted, so that the sums show it."""
        about: dict[str, Any] = dict(_event(entry.event_id))
        kind = "unexplained"
        if isinstance(entry, Delivered):
            kind = "repeated" if 0 < entry.seq <= self.seqs.get(agreement, 0) else kind
            dataset, about = entry.dataset, about | {"seq": entry.seq}
            if self._scope.inputs and dataset and dataset not in self._scope.inputs.values():
                return
            if dataset:
                self._books.between(dataset, agreement).delivered += 1
        else:
            self._books.of(dataset).decided += 1
        self._find(kind, dataset, agreement, topic, entry.offset, **about)

    def _audit(self, taken: _Taken, dataset: str, agreement: str, **detail: Any) -> None:
        self._find("audit", dataset, agreement, topics.AUDIT, taken.line.offset, **detail)

    def _find(self, kind: str, dataset: str, agreement: str, topic: str, offset: int, **detail: Any) -> None:
        self._books.find(Finding(kind, dataset, agreement, topic, self._lane, offset, detail))


class _Either(dict[bytes, tuple[bytes, str]]):
    """Events by either of two ids; whoever takes one takes the event."""

    def __init__(self, own: Mapping[bytes, tuple[bytes, str]], other: Mapping[bytes, tuple[bytes, str]]) -> None:
        super().__init__(own)
        self._other = dict(other)

    def pop(self, key: bytes, default: Any = None) -> Any:
        event = self._other.pop(key, None)
        return super().pop(key if event is None else event[0], default)


def _outcomes(listed: Iterable[Mapping[str, Any]]) -> dict[str, Counter[tuple[str, str]]]:
    found: dict[str, Counter[tuple[str, str]]] = {}
    for one in listed:
        found.setdefault(one["dataset"], Counter())[one["agreement"], one["outcome"]] += one["count"]
    return found


def _event(event_id: bytes) -> dict[str, str]:
    return {"event_id": event_id.hex()} if event_id else {}
