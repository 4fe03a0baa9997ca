"""What an agreement must make of an event, in plain Python on decoded rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from bus.avro.dataset import Dataset
from tests.oracle import keys
from tests.oracle.history import Agreement, Event, Grant
from tests.oracle.values import Row, date_text, is_date, scale_of

REGISTER = "register."


class Expected(NamedTuple):
    outcome: str
    op: str = ""
    data: Row | None = None
    verdict: str | None = None


Apply = Callable[[Any], Any]


class Rule:
    """One agreement's grant on one dataset, ready to be applied."""

    def __init__(self, agreement: Agreement, grant: Grant, dataset: Dataset, register: Dataset, master: bytes) -> None:
        self.agreement, self.grant, self.dataset = agreement, grant, dataset
        self.secret = keys.agreement_secret(master, agreement.id)
        self.columns = [(n, self._mask(m, n, dataset, register), m) for n, m in grant.fields if not n.startswith(REGISTER)]
        self.of_register = [(n, self._mask(m, n, dataset, register), m) for n, m in grant.fields if n.startswith(REGISTER)]
        subject = dataset.people[0].pin if dataset.people else None
        self.clear = any(n == subject and m == "plain" for n, m in grant.fields)
        """Whether the subject's PIN is granted in the clear: then keys and event ids are the bus's own, else pseudonyms."""

    def _mask(self, mask: str, name: str, dataset: Dataset, register: Dataset) -> Apply:
        owner, column = (register, name[len(REGISTER) :]) if name.startswith(REGISTER) else (dataset, name)
        date = is_date(owner.fields[column])
        if mask == "year":
            return _null(lambda v: _year(date_text(v) if date else v))
        if mask.startswith("last"):
            left = int(mask.removeprefix("last"))
            return _null(lambda v: v[-left:] if len(v) >= left else "")
        if mask.startswith("band"):
            width = int(mask.removeprefix("band"))
            scale = scale_of(owner.fields[column])
            return _null(lambda v: _band(_year(date_text(v)) if date else v, scale, width))
        if mask == "pseudonym":
            return _null(lambda v: keys.pseudonym(self.secret, v.encode()).hex())
        return lambda v: v

    def project(self, row: Row, person: Row | None) -> Row:
        made = {name: mask(row[name]) for name, mask, _ in self.columns}
        for name, mask, _ in self.of_register:
            made[name.replace(".", "_")] = mask(person[name[len(REGISTER) :]]) if person else None
        return made

    def filtered(self, row: Row | None) -> bool:
        """Whether the row filter lets the row through."""
        return row is not None and all(text(row[c]) in allowed for c, allowed in self.grant.where)

    def admits(self, verdict: str) -> bool:
        return not self.grant.verdicts or verdict in self.grant.verdicts

    def expect(self, event: Event, verdict: str, before_verdict: str, person: Row | None, before_person: Row | None) -> Expected:
        """The outcome by the rules for c/r, d and u; `verdict` is that of the row the event is about."""
        shared = verdict if self.grant.share_verdict else None
        if event.op in "crd":
            if not self.filtered(event.row):
                return Expected("ROW_FILTER")
            if event.op == "d":  # whoever may have the row must learn of it; a verdict not asked for stays untold
                return Expected("DELIVERED", "d", None, shared if self.admits(verdict) else None)
            if not self.admits(verdict):
                return Expected("VERDICT")
            return Expected("DELIVERED", event.op, self.project(event.row, person), shared)
        return self._update(event, verdict, before_verdict, person, before_person, shared)

    def _update(
        self, event: Event, verdict: str, before_verdict: str, person: Row | None, before_person: Row | None, shared: str | None
    ) -> Expected:
        passed, passes = self.filtered(event.before), self.filtered(event.after)
        was, now = passed and self.admits(before_verdict), passes and self.admits(verdict)
        if not was and not now:
            return Expected("VERDICT" if passed or passes else "ROW_FILTER")
        if not was:
            return Expected("DELIVERED", "c", self.project(event.row, person), shared)
        if not now:
            return Expected("DELIVERED", "w")  # nothing more is told of a row that no longer is theirs, its verdict neither
        data = self.project(event.row, person)
        assert event.before is not None
        unchanged = data == self.project(event.before, before_person)
        if unchanged and (not self.grant.share_verdict or verdict == before_verdict):
            return Expected("INVISIBLE")
        return Expected("DELIVERED", "u", data, shared)


def _band(number: Any, scale: int, width: int) -> int:
    """Where a number's band begins; decimals are spelled by their unscaled integer."""
    return math.floor(Fraction(number, 10**scale) / width) * width


def _year(text: str) -> int | None:
    """Null where a text does not begin with four digits."""
    return int(text[:4]) if re.match("[0-9]{4}", text) else None


def _null(apply: Apply) -> Apply:
    return lambda v: None if v is None else apply(v)


def text(value: Any) -> str | None:
    """A column's value as a row filter compares it; a null matches nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


NO_VERDICT = "none"
GRAVITY = ("MATCH", "NO_PIN", "NOT_FOUND", "MISMATCH")


def gravest(statuses: list[str]) -> str:
    """The event's verdict: the gravest of its roles'; NO_VERDICT where nobody is verified."""
    return max(statuses, key=GRAVITY.index) if statuses else NO_VERDICT


def in_force(agreement: Agreement, from_ms: int, to_ms: int) -> tuple[bool, bool]:
    """(in force at some time, in force all the time) between two instants."""
    until = agreement.valid_until_ms
    some = agreement.valid_from_ms <= to_ms and (until is None or from_ms < until)
    always = agreement.valid_from_ms <= from_ms and (until is None or to_ms < until)
    return some, always


def rules(agreements: list[Agreement], datasets: Mapping[str, Dataset], register: str, master: bytes) -> dict[str, list[Rule]]:
    """Dataset -> its rules, one for each agreement that grants something of it."""
    found: dict[str, list[Rule]] = {}
    for agreement in agreements:
        for grant in agreement.grants:
            rule = Rule(agreement, grant, datasets[grant.dataset], datasets[register], master)
            found.setdefault(grant.dataset, []).append(rule)
    return found
