"""The engine: every change event verified once, every agreement's outcome the right one, every delivery the expected one."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

from bus.core import topics
from tests.oracle import keys
from tests.oracle.expectation import Expected, Rule, gravest, in_force, rules
from tests.oracle.history import Delivery, Event, History, Raw, Verified
from tests.oracle.people import Verdicts
from tests.oracle.report import Report


class Due(NamedTuple):
    """A delivery as it must be."""

    event: Event
    dataset: str
    possible: list[Expected]
    """One, or several of one outcome where it is not on record which version of somebody the old verdict was found with."""
    rule: Rule
    number: int
    """Its place among the due ones of its dataset and lane."""


class Plan(NamedTuple):
    """What one agreement's topic must hold, by the event id it is sent under, and why the rest must not be there."""

    due: dict[bytes, Due]
    withheld: dict[bytes, str]


def check(history: History, report: Report) -> None:
    plans = {a.id: Plan({}, {}) for a in history.agreements}
    by_dataset = rules(history.agreements, history.datasets, history.register, history.agreement_secret)
    verdicts = Verdicts(history, report)
    for name in history.datasets:
        _Dataset(history, name, by_dataset.get(name, []), verdicts, report).check(plans)
    for agreement in history.agreements:
        _Topic(history, agreement.id, plans[agreement.id], report).check()
    for stray in history.deliveries.keys() - plans.keys():
        report.add("misrouted", topics.agency(stray), "a topic without an agreement")


def fitting(delivery: Delivery, possible: list[Expected]) -> Expected:
    """What the delivery must be: of several possibilities the one with its op and verdict, else the first, which it misses."""
    return next((e for e in possible if (e.op, e.verdict) == (delivery.op, delivery.verdict)), possible[0])


class _Dataset:
    """One dataset: change events against verified events and dead letters."""

    def __init__(self, history: History, name: str, its_rules: list[Rule], verdicts: Verdicts, report: Report) -> None:
        self.history, self.name, self.rules, self.verdicts, self.report = history, name, its_rules, verdicts, report
        self.dataset = history.datasets[name]
        self.topic = topics.verified(name)
        self.numbers: Counter[tuple[str, int]] = Counter()
        self.latest: dict[tuple[int, bytes], Verified] = {}

    def check(self, plans: dict[str, Plan]) -> None:
        changes = self.history.changes.get(self.name, [])
        dead = self._dead_letters()
        arrived = {(e.lane, e.event_id): e for e in changes}
        used: dict[int, dict[bytes, int]] = defaultdict(dict)
        order: dict[int, int] = defaultdict(lambda: -1)
        seen: set[tuple[int, bytes]] = set()
        for verified in self.history.verified.get(self.name, []):
            self.report.facts["verified events"] += 1
            event = verified.event
            where = f"{self.topic}[{event.lane}]@{event.offset}"
            source = arrived.get((event.lane, event.event_id))
            if source is None or (event.lane, event.event_id) in seen:
                kind = "duplicate" if source else "phantom"
                self.report.add(kind, where, "verified again" if source else "no change event in this lane has this event id")
                continue
            seen.add((event.lane, event.event_id))
            self._same(where, source, event)
            if source.offset <= order[event.lane]:
                self.report.add("reordered", where, "stands in another order than its change event")
            order[event.lane] = source.offset
            self.verdicts.check(self.topic, self.dataset, verified, used[event.lane], source.timestamp_ms)
            self._decide(where, verified, source.timestamp_ms, plans)
        for event in changes:
            lone = (event.lane, event.event_id) not in seen
            if lone == ((event.lane, event.offset) not in dead):
                what = "neither verified nor dead-lettered" if lone else "verified and dead-lettered"
                self.report.add("unexplained", f"{self.dataset.topic}[{event.lane}]@{event.offset}", what)

    def _same(self, where: str, source: Event, event: Event) -> None:
        pairs = {
            "op": (source.op, event.op),
            "ts_ms": (source.ts_ms, event.ts_ms),
            "source": (source.source, event.source),
            "before": (source.before, event.before),
            "after": (source.after, event.after),
        }
        if differing := [name for name, (left, right) in pairs.items() if left != right]:
            self.report.add("wrong-field", where, f"the change event differs in {', '.join(differing)}")
        if source.key != event.key:
            self.report.add("wrong-key", where, "another key than the change event's")

    def _decide(self, where: str, verified: Verified, arrived_ms: int, plans: dict[str, Plan]) -> None:
        event = verified.event
        verdict = gravest([v["status"] for v in verified.verification])
        before = sorted(self.verdicts.before(self.dataset, verified, arrived_ms)) if self.rules else []
        recorded = Counter(d["agreement"] for d in verified.decisions)
        if recorded != Counter(r.agreement.id for r in self.rules):
            self.report.add("unexplained", where, "not exactly one decision for each agreement on the dataset")
        outcomes = {d["agreement"]: d["outcome"] for d in verified.decisions}
        for rule in self.rules:
            name = rule.agreement.id
            possible = self._expected(rule, verified, verdict, before, outcomes.get(name, ""))
            expected = possible[0]
            self.report.facts["decisions"] += 1
            if outcomes.get(name) != expected.outcome:
                self.report.add(
                    "wrong-reason", where, f"{name}: {outcomes.get(name)}, should be {expected.outcome} (op {event.op})"
                )
            sent_as = event.event_id if rule.clear else keys.pseudonym(rule.secret, event.event_id)
            if expected.outcome == "DELIVERED":
                number = self.numbers[(name, event.lane)]
                self.numbers[(name, event.lane)] += 1
                plans[name].due[sent_as] = Due(event, self.name, possible, rule, number)
            else:
                plans[name].withheld[sent_as] = expected.outcome

    def _expected(self, rule: Rule, verified: Verified, verdict: str, before: list[str], recorded: str) -> list[Expected]:
        """Where several old verdicts are possible, those that lead to the outcome that was recorded, if any does."""
        some, always = in_force(rule.agreement, verified.event.timestamp_ms, self.history.now_ms)
        if not some or (not always and recorded == "NOT_IN_FORCE"):
            return [Expected("NOT_IN_FORCE")]
        possible = [rule.expect(verified.event, verdict, old, verified.person, verified.person) for old in before]
        return [e for e in possible if e.outcome == recorded] or possible[:1]

    def _dead_letters(self) -> set[tuple[int, int]]:
        """Offsets of inputs that became dead letters; each must be an undecodable input, its bytes untouched."""
        inputs = {(raw.lane, raw.offset): raw for raw in self.history.undecodable.get(self.name, [])}
        topic, found = self.dataset.topic, set()
        for letter in self.history.dead.get(self.name, []):
            self.report.facts["dead letters"] += 1
            place = _origin(letter, topic)
            if place is None:
                continue  # capture's own: the change never was in the topic
            where = f"{topics.dead(self.name)}[{letter.lane}]@{letter.offset}"
            if place in found:
                self.report.add("duplicate", where, "the same input is a dead letter twice")
            found.add(place)
            original = inputs.pop(place, None)
            if original is None:
                self.report.add("wrong-dead", where, "the input it names can be decoded, or is not there")
            elif (original.key, original.value) != (letter.key, letter.value):
                self.report.add("wrong-dead", where, "key or value are not the input's")
        for lane, offset in inputs:
            self.report.add("unexplained", f"{topic}[{lane}]@{offset}", "cannot be decoded and is no dead letter")
        return found


def _origin(letter: Raw, topic: str) -> tuple[int, int] | None:
    headers = {k: v.decode() for k, v in letter.headers.items() if k.startswith("x-")}
    if headers.get("x-original-topic") != topic or headers.get("x-original-partition") == "-1":
        return None
    return int(headers["x-original-partition"]), int(headers["x-original-offset"])


class _Topic:
    """One agreement's topic against what is due in it."""

    def __init__(self, history: History, agreement: str, plan: Plan, report: Report) -> None:
        self.history, self.agreement, self.plan, self.report = history, agreement, plan, report
        self.grant_hash = next(a.grant_hash for a in history.agreements if a.id == agreement)
        self.topic = topics.agency(agreement)
        self.told: set[bytes] = set()
        self.lanes: dict[int, int] = defaultdict(int)
        self.order: dict[tuple[str, int], int] = defaultdict(lambda: -1)
        self.stands_for: dict[tuple[str, bytes], object] = {}
        self.keys: dict[str, keys.Keys] = {n: keys.Keys(d, history.person_secret) for n, d in history.datasets.items()}

    def check(self) -> None:
        for delivery in self.history.deliveries.get(self.agreement, []):
            self.report.facts["deliveries"] += 1
            where = f"{self.topic}[{delivery.lane}]@{delivery.offset}"
            self.lanes[delivery.lane] += 1
            if delivery.seq != self.lanes[delivery.lane]:
                self.report.add("seq-gap", where, f"seq {delivery.seq} where {self.lanes[delivery.lane]} is due")
                self.lanes[delivery.lane] = delivery.seq
            if delivery.agreement != self.agreement:
                self.report.add("misrouted", where, f"delivered under {delivery.agreement}")
            elif delivery.grant_hash != self.grant_hash:
                self.report.add("misrouted", where, "the grant hash is not that of the agreement in force")
            due = self.plan.due.get(delivery.event_id)
            if due is None and delivery.event_id in self.plan.withheld:
                self.report.add("leaked-row", where, f"had to be withheld: {self.plan.withheld[delivery.event_id]}")
            elif due is None:
                self.report.add("phantom", where, "there is no event of this id")
            elif delivery.event_id in self.told:
                self.report.add("duplicate", where, "delivered before")
            else:
                self._compare(where, delivery, due)
            self.told.add(delivery.event_id)
        for sent_as, due in self.plan.due.items():
            if sent_as not in self.told:
                where = f"{due.dataset}[{due.event.lane}] of {self.agreement}"
                self.report.add(
                    "lost",
                    where,
                    f"op {due.possible[0].op} of @{due.event.offset} in {topics.verified(due.dataset)} is not delivered",
                )

    def _compare(self, where: str, delivery: Delivery, due: Due) -> None:
        expected, event = fitting(delivery, due.possible), due.event
        if delivery.dataset != due.dataset or delivery.lane != event.lane:
            self.report.add("wrong-key", where, f"another dataset or lane than {due.dataset}[{event.lane}]")
        stream = (due.dataset, delivery.lane)
        if due.number <= self.order[stream]:
            self.report.add("reordered", where, "stands in another order than the events")
        self.order[stream] = max(due.number, self.order[stream])
        pairs = {
            "op": (expected.op, delivery.op),
            "ts_ms": (event.source["ts_ms"], delivery.ts_ms),
            "verdict": (expected.verdict, delivery.verdict),
        }
        if differing := [name for name, (left, right) in pairs.items() if left != right]:
            self.report.add("wrong-field", where, f"differs in {', '.join(differing)}")
        self._data(where, delivery, due, expected)
        self._names(where, delivery, due)

    def _data(self, where: str, delivery: Delivery, due: Due, expected: Expected) -> None:
        wanted, got = expected.data, delivery.data
        if (wanted is None) != (got is None):
            kind = "leaked-field" if wanted is None else "wrong-field"
            self.report.add(kind, where, f"data must {'' if wanted is None else 'not '}be null for op {expected.op}")
        elif wanted is not None and got is not None and wanted != got:
            if extra := sorted(got.keys() - wanted.keys()):
                self.report.add("leaked-field", where, f"carries {', '.join(extra)}, which the agreement does not grant")
            masked = {n for n, m in due.rule.grant.fields if m != "plain"}
            for name in sorted(wanted.keys() & got.keys()):
                if wanted[name] != got[name]:
                    clear = name in masked and got[name] == due.event.row.get(name)
                    kind = "leaked-field" if clear and got[name] is not None else "wrong-field"
                    self.report.add(kind, where, f"{name} {'is not masked' if clear else 'has another value'}")
            if lacking := sorted(wanted.keys() - got.keys()):
                self.report.add("wrong-field", where, f"lacks {', '.join(lacking)}")

    def _names(self, where: str, delivery: Delivery, due: Due) -> None:
        """Message key and row key stand for one person and one row each, and only under this agreement."""
        if due.rule.clear:
            if delivery.key != due.event.key:
                self.report.add("wrong-key", where, "the message key is not the person key")
        elif delivery.key == due.event.key:
            self.report.add("leaked-field", where, "the person key itself in a pseudonymous agreement")
        row_key = self.keys[due.dataset].row_key(due.event.row)
        if not due.rule.clear and delivery.row_key == row_key:
            self.report.add("leaked-field", where, "the bus's own row key in a pseudonymous agreement")
        self._stands("key", delivery.key, (due.rule.clear, due.event.key), where)
        self._stands("row", delivery.row_key, (due.dataset, row_key), where)

    def _stands(self, kind: str, name: bytes, thing: object, where: str) -> None:
        """One name for one thing, in both directions."""
        for left, right in ((("name of " + kind, name), thing), ((f"{kind} itself", repr(thing).encode()), name)):
            if self.stands_for.setdefault(left, right) != right:
                self.report.add("wrong-key", where, f"{kind} key is not one to one with what it stands for")
