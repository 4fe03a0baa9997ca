"""Capture completeness: the change topic explains exactly the journal.

Each row (primary key) lives a life in the journal: a chain of states. What the topic tells of it must be at most one snapshot
read, equal to a state of the chain, and then every later entry, in order, value by value. Nothing else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bus.core import topics
from tests.oracle import keys
from tests.oracle.history import Entry, Event, History, Table
from tests.oracle.keys import Keys
from tests.oracle.report import Report
from tests.oracle.values import UNCONVERTIBLE, Row

DEAD = "dead"
"""The op of a change that has no Avro form: it is a dead letter of capture's and no event."""
Pk = tuple[object, ...]
Signature = tuple[object, ...]


class Told(NamedTuple):
    """One event as it should be, or as it is: compared by `signature`."""

    signature: Signature
    """(op, before values, after values)."""
    before: Pk | None
    after: Pk | None
    xid: int
    where: str
    event: Event | None


def check(history: History, report: Report) -> None:
    for domain, tables in history.domains().items():
        sides: dict[int, set[str]] = defaultdict(set)
        for table in tables:
            _Rows(history, table, report).check(sides)
        for xid, seen in sides.items():
            if len(seen) > 1:
                report.add("torn", domain, f"transaction {xid} is partly in the snapshot and partly in the stream")
        names = [t.dataset.name for t in tables]
        dead = [d for name in names for d in dead_positions(history, name)]
        _positions(domain, [e for name in names for e in history.changes.get(name, [])], dead, report)
        _orders(domain, history, tables, report)
    _lanes(history, report)


class _Rows:
    """One table: the journal's chains against the topic's."""

    def __init__(self, history: History, table: Table, report: Report) -> None:
        self.table, self.report, self.name = table, report, table.dataset.name
        self.columns = tuple(table.dataset.fields)
        self.pk = table.dataset.primary_key
        self.keys = Keys(table.dataset, history.person_secret)
        self.events = sorted(history.changes.get(self.name, []), key=position)
        self.dead = Counter(xid for _, xid, _ in dead_positions(history, self.name))
        self.unconvertible: Counter[int] = Counter()
        self.tainted: set[Pk | None] = set()
        """Rows that once had a value without an Avro form."""
        report.facts["change events"] += len(self.events)
        report.facts["journal entries"] += len(table.journal)

    def check(self, sides: dict[int, set[str]]) -> None:
        expected, told, reads = defaultdict(list), defaultdict(list), defaultdict(list)
        for item in self._expected():
            for pk in {item.before, item.after} - {None}:
                expected[pk].append(item)
        for event in self._once():
            item = self._told(event)
            if event.op == "r":
                reads[item.after].append(item)
                continue
            for pk in {item.before, item.after} - {None}:
                told[pk].append(item)
        for xid in {*self.unconvertible, *self.dead} - {0}:
            if self.unconvertible[xid] != self.dead[xid]:
                what = f"{self.unconvertible[xid]} changes without an Avro form, {self.dead[xid]} dead letters"
                self.report.add("unexplained", topics.dead(self.name), f"transaction {xid}: {what}")
        final = {self._pk(row): self._values(row) for row in self.table.final}
        for pk in {*expected, *told, *reads, *final}:
            self._life(pk, expected[pk], told[pk], reads[pk], final.get(pk), sides)
        self._fold(final)

    def _expected(self) -> Iterator[Told]:
        for e in self.table.journal:
            old, new = e.before, e.after
            where = f"{self.name} journal {e.seq}"
            if any(UNCONVERTIBLE in row.values() for row in (old, new) if row):
                self._taint(e)
                yield self._item(DEAD, old, new, e.xid, where)
            elif old and new and (self._pk(old) != self._pk(new) or self.keys.of(old) != self.keys.of(new)):
                yield self._item("d", old, None, e.xid, where)
                yield self._item("c", None, new, e.xid, where)
            else:
                yield self._item("c" if not old else "u" if new else "d", old, new, e.xid, where)

    def _taint(self, e: Entry) -> None:
        """A change without an Avro form must be a dead letter of capture's, and nothing else."""
        self.report.facts["unconvertible entries"] += 1
        self.unconvertible[e.xid & 0xFFFFFFFF] += 1
        self.tainted |= {self._pk(e.before), self._pk(e.after)} - {None}

    def _item(self, op: str, before: Row | None, after: Row | None, xid: int, where: str, event: Event | None = None) -> Told:
        signature = (op, self._values(before), self._values(after))
        return Told(signature, self._pk(before), self._pk(after), xid, where, event)

    def _told(self, event: Event) -> Told:
        where = f"{self.name}[{event.lane}]@{event.offset}"
        expected = self.keys.of(event.row)
        if event.key != expected:
            self.report.add("wrong-key", where, "the message key is not that of the row's subject")
        shape = (event.before is not None, event.after is not None)
        if shape != {"c": (False, True), "r": (False, True), "u": (True, True), "d": (True, False)}[event.op]:
            self.report.add("wrong-field", where, f"op {event.op} with the wrong images")
        return self._item(event.op, event.before, event.after, event.source["xid"], where, event)

    def _once(self) -> Iterator[Event]:
        """Events without repeats of an event id; each repeat is reported."""
        seen: dict[bytes, Event] = {}
        for event in self.events:
            first = seen.setdefault(event.event_id, event)
            if first is event:
                yield event
            else:
                where = f"{self.name}[{event.lane}]@{event.offset}"
                self.report.add("duplicate", where, f"same event id as [{first.lane}]@{first.offset}")

    def _values(self, row: Row | None) -> Signature | None:
        return None if row is None else tuple(row[c] for c in self.columns)

    def _pk(self, row: Row | None) -> Pk | None:
        return None if row is None else tuple(row[c] for c in self.pk)

    def _life(
        self,
        pk: Pk | None,
        expected: list[Told],
        told: list[Told],
        reads: list[Told],
        final: Signature | None,
        sides: dict[int, set[str]],
    ) -> None:
        """One row's chain. `sides` collects, by transaction, on which side of the snapshot it fell."""
        states, last = self._states(pk, expected, final)
        live = [e for e in expected if e.signature[0] != DEAD]
        if last != final:
            self.report.add("harness", self.name, "the journal's last state of a row is not the table's")
        for extra in reads[1:]:
            self.report.add("duplicate", extra.where, "a second snapshot read of the same row")
        read = reads[0].signature[2] if reads else None
        skipped = len(live) - len(told)
        begins = skipped >= 0 and read in states[skipped]
        if begins and all(e.signature == t.signature for e, t in zip(live[skipped:], told, strict=True)):
            self._sides(live, skipped, told, sides)
        else:
            self._explain(live, told, reads, states)

    def _states(self, pk: Pk | None, expected: list[Told], final: Signature | None) -> tuple[list[set[object]], object]:
        """What the row was while 0, 1, 2, … of its changes had been made that are events, and what it was at last."""
        if not expected:
            return [{final}], final
        now: object = expected[0].signature[1] if expected[0].before == pk else None
        states = [{now}]
        for e in expected:
            now = e.signature[2] if e.after == pk else None
            if e.signature[0] == DEAD:
                states[-1].add(now)
            else:
                states.append({now})
        return states, now

    def _sides(self, expected: list[Told], skipped: int, told: list[Told], sides: dict[int, set[str]]) -> None:
        for e in expected[:skipped]:
            sides[e.xid].add("snapshot")
        for e, t in zip(expected[skipped:], told, strict=True):
            sides[e.xid].add("stream")
            if t.xid != e.xid & 0xFFFFFFFF:
                self.report.add("wrong-position", t.where, "names another transaction than the one that made the change")

    def _explain(self, expected: list[Told], told: list[Told], reads: list[Told], states: list[set[object]]) -> None:
        """Name what is wrong with a chain that does not fit."""
        read = reads[0].signature[2] if reads else None
        fitting = [k for k, possible in enumerate(states) if read in possible]
        close = len(expected) - len(told)
        streamed = close >= 0 and [e.signature for e in expected[close:]] == [t.signature for t in told]
        if streamed or not fitting:  # then it is the snapshot that is wrong
            self._explain_read(reads, [s for possible in states for s in possible if s is not None])
        if not streamed:
            begin = close if close in fitting else (fitting[0] if fitting else 0)
            self._compare(expected[begin:], told)

    def _explain_read(self, reads: list[Told], known: list[object]) -> None:
        if reads and known:
            self.report.add("wrong-field", reads[0].where, f"snapshot read: {self._columns(known, [reads[0].signature[2]])}")
        elif reads:
            self.report.add("phantom", reads[0].where, "a snapshot read of a row that never was")
        else:
            self.report.add("lost", self.name, "no snapshot read of a row that was there before the stream began")

    def _compare(self, expected: list[Told], told: list[Told]) -> None:
        missing = list((Counter(e.signature for e in expected) - Counter(t.signature for t in told)).elements())
        extra = list((Counter(t.signature for t in told) - Counter(e.signature for e in expected)).elements())
        if not missing and not extra:
            if [e.signature for e in expected] != [t.signature for t in told]:
                self.report.add("reordered", told[0].where, "the row's events stand in another order than its changes")
            return
        at = {s: t.where for s, t in zip([t.signature for t in told], told, strict=True)}
        of = {s: e.where for s, e in zip([e.signature for e in expected], expected, strict=True)}
        for signature in extra:
            twin = next((m for m in missing if m[0] == signature[0]), None)
            if twin:
                missing.remove(twin)
                self.report.add(
                    "wrong-field", at[signature], f"{of[twin]}: {self._columns([twin[1], twin[2]], [signature[1], signature[2]])}"
                )
            elif any(signature == t.signature for t in expected):
                self.report.add("duplicate", at[signature], "the change is told more than once")
            else:
                self.report.add("phantom", at[signature], "no committed change explains it")
        for signature in missing:
            self.report.add("lost", of[signature], f"op {signature[0]} is not in the topic")

    def _columns(self, left: Sequence[object], right: Sequence[object]) -> str:
        differing = set()
        for a, b in zip(left, right, strict=False):
            if isinstance(a, tuple) and isinstance(b, tuple):
                differing |= {c for c, x, y in zip(self.columns, a, b, strict=True) if x != y}
            elif a != b:
                differing.add("(whole image)")
        return f"differs in {', '.join(sorted(differing))}"

    def _fold(self, final: dict[Pk | None, Signature | None]) -> None:
        """Replaying all events by position, as one who knows rows by their key only, gives the table."""
        rows: dict[Pk | None, Signature | None] = {}
        for event in self.events:
            if event.after is None:
                rows.pop(self._pk(event.before), None)
            else:
                rows[self._pk(event.after)] = self._values(event.after)
        clean = {"lost", "phantom", "wrong-field", "duplicate", "reordered", "harness"}.isdisjoint(self.report.kinds())
        differing = {pk for pk in rows.keys() | final.keys() if rows.get(pk) != final.get(pk)} - self.tainted
        if differing and clean:
            self.report.add("wrong-field", self.name, "the events folded by primary key are not the table's contents")


def position(event: Event) -> tuple[bool, int, int]:
    """Sorts a database's events: snapshot first, then by commit and ordinal."""
    return (not event.source["snapshot"], event.source["lsn"], event.source["ordinal"])


def dead_positions(history: History, name: str) -> Iterator[tuple[int, int, int]]:
    """(LSN, xid, ordinal) of the changes that capture itself dead-lettered: they never were in the change topic."""
    for letter in history.dead.get(name, []):
        if letter.headers.get("x-original-partition") == b"-1":
            lsn, xid, ordinal = letter.headers["x-original-offset"].decode().split(":")
            high, low = lsn.split("/")
            yield (int(high, 16) << 32) + int(low, 16), int(xid), int(ordinal)


def _positions(domain: str, events: list[Event], dead: list[tuple[int, int, int]], report: Report) -> None:
    """Ids follow from positions; a transaction has one commit LSN; its ordinals are 0, 1, 2, … without gaps."""
    ordinals: dict[tuple[int, int], list[int]] = defaultdict(list)
    commits: dict[int, set[int]] = defaultdict(set)
    for lsn, xid, ordinal in dead:
        ordinals[(lsn, xid)].append(ordinal)
        commits[xid].add(lsn)
    for event in events:
        source = event.source
        if event.event_id != keys.event_id(source) or source["db"] != domain:
            report.add(
                "wrong-position", f"{domain} [{event.lane}]@{event.offset}", "the event id does not follow from the position"
            )
        if source["snapshot"] != (event.op == "r") or (source["snapshot"] and source["xid"] != 0):
            report.add(
                "wrong-position",
                f"{domain} [{event.lane}]@{event.offset}",
                "op, snapshot flag and transaction contradict each other",
            )
        ordinals[(source["lsn"], source["xid"])].append(source["ordinal"])
        commits[source["xid"]].add(source["lsn"])
    for (lsn, xid), found in ordinals.items():
        if sorted(found) != list(range(len(found))):
            report.add("wrong-position", domain, f"ordinals of transaction {xid} at {lsn:X} are not dense from 0")
    for xid, lsns in commits.items():
        if xid and len(lsns) > 1:
            report.add("wrong-position", domain, f"transaction {xid} has {len(lsns)} commit positions")


def _orders(domain: str, history: History, tables: list[Table], report: Report) -> None:
    """In each topic a key's events stand in commit order."""
    for table in tables:
        last: dict[bytes, Event] = {}
        for event in history.changes.get(table.dataset.name, []):
            before = last.get(event.key)
            if before is not None and before.lane == event.lane and position(before) > position(event):
                where = f"{table.dataset.name}[{event.lane}]@{event.offset}"
                report.add("reordered", where, f"committed before @{before.offset} of the same person, stands after it")
            last[event.key] = event


def _lanes(history: History, report: Report) -> None:
    """A key has one lane, the same in every topic."""
    lanes: dict[bytes, int] = {}
    for name, events in history.changes.items():
        for event in events:
            if lanes.setdefault(event.key, event.lane) != event.lane:
                report.add(
                    "wrong-key",
                    f"{name}[{event.lane}]@{event.offset}",
                    f"the same key stands in lane {lanes[event.key]} elsewhere",
                )
