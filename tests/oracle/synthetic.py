"""Clean histories made up without any server: two databases live, are captured, and a small engine delivers."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

from tests.oracle.history import Entry, Event, History, Raw, Table
from tests.oracle.keys import Keys, event_id
from tests.oracle.synthetic_engine import Mill
from tests.oracle.synthetic_world import (
    AGREEMENT_SECRET,
    BIRTH,
    LANES,
    NOW,
    PERSON,
    PERSON_SECRET,
    QUALITY,
    STATISTICS,
    SYSTEM,
    TAX,
)
from tests.oracle.values import UNCONVERTIBLE, Row


class Made:
    """A history in the making."""

    def __init__(self, seed: int, people: int, transactions: int) -> None:
        self.random = random.Random(seed)
        self.lsn, self.xid, self.clock, self.seq = 1000, 700, NOW - 1_000_000, 0
        self.history = History(
            {PERSON.name: PERSON, BIRTH.name: BIRTH},
            PERSON.name,
            [QUALITY, STATISTICS, TAX],
            PERSON_SECRET,
            AGREEMENT_SECRET,
            {d.name: Table(d, [], []) for d in (PERSON, BIRTH)},
            now_ms=NOW,
        )
        self.keys = {d.name: Keys(d, PERSON_SECRET) for d in (PERSON, BIRTH)}
        self.offsets: dict[tuple[str, int], int] = defaultdict(int)
        self.people = [self._person(i) for i in range(people)]
        self.rows: dict[str, dict[Any, Row]] = {PERSON.name: {p["pin"]: p for p in self.people}, BIRTH.name: {}}
        self.next_id = 0
        for _ in range(people):
            row = self._birth()
            self.rows[BIRTH.name][row["id"]] = row
        self._live(transactions // 10, captured=False)
        self._snapshot()
        self._live(transactions, captured=True)
        for name, rows in self.rows.items():
            self.history.tables[name].final = [dict(r) for r in rows.values()]
        Mill(self).run()

    def _person(self, number: int) -> Row:
        year = 1950 + number % 60
        name = self.random.choice(["Nguyễn Thị Hòa", "Trần Văn Bình", "Lê Quỳnh", "Phạm Thúy Loan"])
        sex = self.random.choice("MF")
        return {"pin": f"{number:012d}", "full_name": name, "birth_date": f"{year}-03-02", "sex": sex, "address": None}

    def _birth(self) -> Row:
        child, mother = self.random.choice(self.people), self.random.choice([*self.people, None, None])
        self.next_id += 1
        name = child["full_name"]
        name = self.random.choices([name, name.upper(), name + " X"], [90, 5, 5])[0]
        year = int(child["birth_date"][:4])
        return {
            "id": self.next_id,
            "child_pin": self.random.choices([child["pin"], None, "9" * 12], [90, 5, 5])[0],
            "child_name": name,
            "child_date": (year - 1970) * 365 + (year - 1969) // 4 + 60 + (year % 4 == 0),
            "mother_pin": mother and mother["pin"],
            "mother_year": mother and int(mother["birth_date"][:4]),
            "province": self.random.choice(["01", "79", "48"]),
            "fee": self.random.choice([None, 1250]),
        }

    def _live(self, transactions: int, captured: bool) -> None:
        for _ in range(transactions):
            self.lsn, self.xid, self.clock = self.lsn + 10, self.xid + 1, self.clock + 5
            ordinals = dict.fromkeys(("population", "civil"), 0)
            for _ in range(self.random.choice([1, 1, 2, 5])):
                name, before, after = self._change()
                if captured and before and after and name == BIRTH.name and self.random.random() < 0.05:
                    after = after | {"fee": UNCONVERTIBLE}
                domain = name.split(".")[0]
                ordinals[domain] = self._commit(name, before, after, ordinals[domain], captured)

    def _change(self) -> tuple[str, Row | None, Row | None]:
        births = self.rows[BIRTH.name]
        kind = self.random.random()
        if kind < 0.1:
            person = self.random.choice(self.people)
            old = self.rows[PERSON.name][person["pin"]]
            return PERSON.name, dict(old), old | {"address": f"{self.random.randrange(10**6)} Lê Lợi"}
        if kind < 0.5 or not births:
            return BIRTH.name, None, self._birth()
        old = births[self.random.choice(list(births)[-50:])]
        if kind < 0.6:
            return BIRTH.name, dict(old), None
        fresh = self._birth()
        columns = self.random.choice([("fee",), ("province",), ("child_name",), ("mother_pin", "mother_year"), (), ("id",)])
        if self.random.random() < 0.1:
            columns = ("child_pin", "child_name", "child_date")
        return BIRTH.name, dict(old), old | {c: fresh[c] for c in columns}

    def _commit(self, name: str, before: Row | None, after: Row | None, ordinal: int, captured: bool) -> int:
        table, key = self.history.tables[name], table_key(name)
        if before is not None:
            del self.rows[name][before[key]]
        if after is not None:
            self.rows[name][after[key]] = after
        self.seq += 1
        op = "u" if before and after else "c" if after else "d"
        table.journal.append(Entry(self.seq, self.xid, op, before, after))
        if not captured:
            return ordinal
        if any(UNCONVERTIBLE in row.values() for row in (before, after) if row):
            self._bury(name, ordinal)
            return ordinal + 1
        of = self.keys[name]
        split = before and after and (before[key] != after[key] or of.of(before) != of.of(after))
        images = [("d", before, None), ("c", None, after)] if split else [(op, before, after)]
        for event_op, old, new in images:
            self._emit(name, event_op, old, new, self.lsn, self.xid, ordinal)
            ordinal += 1
        return ordinal

    def _bury(self, name: str, ordinal: int) -> None:
        """Capture's own dead letter, of a change that has no Avro form."""
        at = f"0/{self.lsn:X}:{self.xid}:{ordinal}"
        headers = {"x-original-partition": b"-1", "x-original-offset": at.encode(), "x-dead-code": b"UNCONVERTIBLE"}
        self.history.dead.setdefault(name, []).append(Raw(0, self.offset("dead", 0), b"", at.encode(), headers))

    def _snapshot(self) -> None:
        self.lsn += 10
        ordinals = dict.fromkeys(("population", "civil"), 0)
        for name, rows in self.rows.items():
            domain = name.split(".")[0]
            for row in rows.values():
                self._emit(name, "r", None, row, self.lsn, 0, ordinals[domain])
                ordinals[domain] += 1

    def _emit(self, name: str, op: str, before: Row | None, after: Row | None, lsn: int, xid: int, ordinal: int) -> None:
        domain, table = name.split(".")
        source = {"db": domain, "schema": "public", "table": table, "system_id": SYSTEM, "lsn": lsn, "xid": xid}
        source |= {"ordinal": ordinal, "ts_ms": self.clock, "snapshot": op == "r"}
        row = after if after is not None else before
        assert row is not None
        key = self.keys[name].of(row)
        lane = lane_of(key)
        event = Event(lane, self.offset(name, lane), key, self.clock, event_id(source), op, self.clock, source, before, after)
        self.history.changes.setdefault(name, []).append(event)

    def offset(self, topic: str, lane: int) -> int:
        """The next offset of a lane; now and then one is skipped, as transaction markers do."""
        at = self.offsets[(topic, lane)]
        self.offsets[(topic, lane)] += self.random.choice([1, 1, 1, 2])
        return at


def table_key(name: str) -> str:
    return "id" if name == BIRTH.name else "pin"


def lane_of(key: bytes) -> int:
    return key[0] % LANES


def clean(seed: int = 0, people: int = 40, transactions: int = 120) -> History:
    """A history without anomalies."""
    return Made(seed, people, transactions).history
