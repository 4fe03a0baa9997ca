"""An engine of a few hand-written rules for the synthetic world; it shares nothing with the checker's general ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.oracle.history import Delivery, Event, Verified
from tests.oracle.keys import Keys, agreement_secret, pseudonym
from tests.oracle.synthetic_world import (
    AGREEMENT_SECRET,
    BIRTH,
    NOW,
    PERSON,
    PERSON_SECRET,
    QUALITY,
    STATISTICS,
    TAX,
)
from tests.oracle.values import Row

if TYPE_CHECKING:
    from tests.oracle.synthetic import Made


class Mill:
    """Verifies and delivers what a Made history captured, in batches with audit lines."""

    def __init__(self, made: Made) -> None:
        self.made, self.history = made, made.history
        self.seq: dict[tuple[str, int], int] = defaultdict(int)
        self.secrets = {a.id: agreement_secret(AGREEMENT_SECRET, a.id) for a in self.history.agreements}
        self.register: dict[str, tuple[int, Row]] = {}
        self.keys = Keys(BIRTH, PERSON_SECRET)
        self.given: dict[tuple[str, int], int] = {}
        self.read_at = {e.event_id: e.offset for events in self.history.changes.values() for e in events}

    def run(self) -> None:
        every = [e for events in self.history.changes.values() for e in events]
        batch: dict[tuple[str, int], list[Verified]] = defaultdict(list)
        for event in sorted(every, key=lambda e: (not e.source["snapshot"], e.source["lsn"])):
            person = event.source["table"] == "person"
            place = (PERSON.name if person else BIRTH.name, event.lane)
            batch[place].append(self._pass(event) if person else self._verify(event))
            if len(batch[place]) >= 50:
                self._audit(*place, batch.pop(place))
        for place, rest in batch.items():
            self._audit(*place, rest)

    def _pass(self, event: Event) -> Verified:
        """The register's own events are verified against nothing."""
        if event.after is not None:
            self.register[event.after["pin"]] = (event.offset, event.after)
        verified = Verified(_again(event, self.made.offset("verified.person", event.lane)), [], [], None)
        self.history.verified.setdefault(PERSON.name, []).append(verified)
        return verified

    def _verify(self, event: Event) -> Verified:
        entries, verdict = self._compare(event.row)
        old = self._compare(event.before)[1] if event.before is not None and event.op == "u" else verdict
        child = self.register.get(event.row["child_pin"] or "")
        person = child[1] if child else None
        verified = Verified(_again(event, self.made.offset("verified", event.lane)), entries, [], person)
        self.history.verified.setdefault(BIRTH.name, []).append(verified)
        self._tax(verified, verdict, old)
        self._statistics(verified, person)
        self._quality(verified, verdict, old)
        return verified

    def _compare(self, row: Row) -> tuple[list[dict[str, Any]], str]:
        """Verification entries of a row, and its verdict."""
        child, name = self.register.get(row["child_pin"] or ""), row["child_name"].upper()
        entries = [self._entry("child", row["child_pin"], child, lambda p: name != p["full_name"].upper(), "full_name")]
        if row["mother_pin"] is not None or row["mother_year"] is not None:
            mother, year = self.register.get(row["mother_pin"] or ""), str(row["mother_year"])
            entries.append(self._entry("mother", row["mother_pin"], mother, lambda p: year != p["birth_date"][:4], "birth_date"))
        statuses = {e["status"] for e in entries}
        return entries, next(v for v in ("MISMATCH", "NOT_FOUND", "NO_PIN", "MATCH") if v in statuses)

    def _entry(
        self, role: str, pin: str | None, found: tuple[int, Row] | None, wrong: Callable[[Row], bool], field: str
    ) -> dict[str, Any]:
        status = "NO_PIN" if not pin else "NOT_FOUND" if not found else "MISMATCH" if wrong(found[1]) else "MATCH"
        mismatched = [field] if status == "MISMATCH" else []
        return {"role": role, "status": status, "mismatched": mismatched, "register_offset": found[0] if found else None}

    def _tax(self, verified: Verified, verdict: str, old: str) -> None:
        event = verified.event
        fields = ("child_pin", "child_name", "fee")
        was, now = (r is not None and r["province"] in ("01", "79") for r in (event.before, event.after))
        data = {f: event.after[f] for f in fields} if event.after else None
        if event.op == "u":
            same = was and now and event.before and data == {f: event.before[f] for f in fields} and verdict == old
            op = "" if not was and not now else "c" if not was else "w" if not now else "INVISIBLE" if same else "u"
        else:
            op = event.op if was or now else ""
        self._decide(verified, TAX.id, op or "ROW_FILTER", None if op in ("d", "w") else data, None if op == "w" else verdict)

    def _statistics(self, verified: Verified, person: Row | None) -> None:
        event = verified.event

        def project(row: Row) -> Row:
            pin = row["child_pin"]
            return {
                "child_pin": pin and pseudonym(self.secrets[STATISTICS.id], pin.encode()).hex(),
                "child_name": row["child_name"][-4:],
                "child_date": 1970 + (row["child_date"] * 4 + 2) // 1461,
                "register_sex": person and person["sex"],
            }

        if event.op == "d" or event.after is None:
            return self._decide(verified, STATISTICS.id, "d", None, None)
        data = project(event.after)
        same = event.before is not None and project(event.before) == data
        return self._decide(verified, STATISTICS.id, "INVISIBLE" if same else event.op, data, None)

    def _quality(self, verified: Verified, verdict: str, old: str) -> None:
        event, update = verified.event, verified.event.op == "u"
        if event.op == "d":
            return self._decide(verified, QUALITY.id, "d", None, None)
        was, now = update and old == "MISMATCH", verdict == "MISMATCH"
        data = {"child_name": event.after["child_name"]} if event.after and now else None
        if not was and not now:
            return self._decide(verified, QUALITY.id, "VERDICT", None, None)
        if was and now and event.before and event.after and event.before["child_name"] == event.after["child_name"]:
            return self._decide(verified, QUALITY.id, "INVISIBLE", None, None)
        op = event.op if not update else "c" if not was else "w" if not now else "u"
        return self._decide(verified, QUALITY.id, op, data, None)

    def _decide(self, verified: Verified, agreement: str, op: str, data: Row | None, verdict: str | None) -> None:
        event, secret = verified.event, self.secrets[agreement]
        delivered = op in ("c", "r", "u", "d", "w")
        verified.decisions.append({"agreement": agreement, "outcome": "DELIVERED" if delivered else op})
        if not delivered:
            return
        self.seq[(agreement, event.lane)] += 1
        clear = agreement == TAX.id
        row_key = self.keys.row_key(event.row)
        key, sent_as, row_key = (
            (event.key, event.event_id, row_key)
            if clear
            else tuple(pseudonym(secret, v) for v in (event.key, event.event_id, row_key))
        )
        delivery = Delivery(
            event.lane,
            self.made.offset(agreement, event.lane),
            key,
            BIRTH.name,
            sent_as,
            self.seq[(agreement, event.lane)],
            agreement,
            b"g" * 32,
            op,
            event.source["ts_ms"],
            row_key,
            verdict,
            data,
        )
        self.history.deliveries.setdefault(agreement, []).append(delivery)

    def _audit(self, name: str, lane: int, batch: list[Verified]) -> None:
        topic = self.history.datasets[name].topic
        first, last = self.read_at[batch[0].event.event_id], self.read_at[batch[-1].event.event_id]
        verdicts: dict[str, int] = defaultdict(int)
        outcomes: dict[tuple[str, str], int] = defaultdict(int)
        for verified in batch:
            statuses = {e["status"] for e in verified.verification}
            verdicts[next((v for v in ("MISMATCH", "NOT_FOUND", "NO_PIN", "MATCH") if v in statuses), "none")] += 1
            for d in verified.decisions:
                outcomes[(d["agreement"], d["outcome"])] += 1
        deliveries = []
        for (agreement, outcome), count in outcomes.items():
            if outcome == "DELIVERED":
                end = self.given[(agreement, lane)] = self.given.get((agreement, lane), 0) + count
                deliveries.append({"agreement": agreement, "first_seq": end - count + 1, "last_seq": end})
        self.history.audit.append(
            {
                "worker": "0",
                "lane": lane,
                "decided_at_ms": NOW,
                "policy": "",
                "inputs": [{"topic": topic, "first_offset": first, "next_offset": last + 1, "events": len(batch), "dead": 0}],
                "verdicts": [{"dataset": name, "verdict": v, "count": n} for v, n in verdicts.items()],
                "outcomes": [{"agreement": a, "dataset": name, "outcome": o, "count": n} for (a, o), n in outcomes.items()],
                "deliveries": deliveries,
            }
        )


def _again(event: Event, offset: int) -> Event:
    return Event(
        event.lane,
        offset,
        event.key,
        event.timestamp_ms,
        event.event_id,
        event.op,
        event.ts_ms,
        event.source,
        event.before,
        event.after,
    )
