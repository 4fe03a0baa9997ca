"""Verdicts recomputed: the register version that was used must be that person's, recent enough, and compared rightly.

Names, dates and sexes are normalised here in another way than the bus does it: names to letters and tones apart, without regard
to where in oa, oe, uy the tone stands, dates to number triples, sexes to the first letter or digit.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from bisect import bisect_right
from typing import Any, NamedTuple

from bus.avro.dataset import Dataset, Role
from tests.oracle import keys
from tests.oracle.expectation import gravest
from tests.oracle.history import Event, History, Verified
from tests.oracle.report import Report
from tests.oracle.values import Row, date_text, is_date

_TONES = {"\u0300", "\u0301", "\u0303", "\u0309", "\u0323"}
_GLIDES = {"oa", "oe", "oy", "ua", "ue", "uy"}


@functools.lru_cache(maxsize=100_000)
def name(text: str) -> tuple[tuple[str, str], ...]:
    """Per syllable (letters without tone, tone). Where the tone stands counts except within oa, oe, uy and their like."""
    syllables = []
    for word in text.casefold().split():
        letters, tone, at = "", "", -1
        for mark in unicodedata.normalize("NFD", word):
            if mark in _TONES:
                tone, at = tone + mark, len(unicodedata.normalize("NFC", letters))
            else:
                letters += mark
        composed = unicodedata.normalize("NFC", letters)
        free = not tone or composed[at - 1 : at + 1] in _GLIDES or composed[max(at - 2, 0) : at] in _GLIDES
        place = "" if free else str(at)
        syllables.append((composed, tone + place))
    return tuple(syllables)


def date(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip().split("-") if part)


def sex(text: str) -> str:
    folded = unicodedata.normalize("NFC", text.strip().casefold())
    if folded in ("m", "nam", "male", "1"):
        return "man"
    return "woman" if folded in ("f", "nữ", "nu", "female", "0", "2") else folded


def same(kind: str, left: str, right: str) -> bool:
    if kind == "name":
        return name(left) == name(right)
    if kind == "date":
        one, two = date(left), date(right)
        shorter = min(len(one), len(two))
        return shorter > 0 and one[:shorter] == two[:shorter]
    if kind == "sex":
        return sex(left) == sex(right)
    return unicodedata.normalize("NFC", left.strip()) == unicodedata.normalize("NFC", right.strip())


class Version(NamedTuple):
    offset: int
    row: Row | None
    timestamp_ms: int


class Register:
    """The population's history: person key -> versions by offset in their lane."""

    def __init__(self, history: History) -> None:
        self.dataset = history.datasets[history.register]
        self.secret = history.person_secret
        self._keys: dict[str, bytes] = {}
        self.versions: dict[bytes, list[Version]] = {}
        self.compare = {f["name"]: f.get("compare", "text") for f in self.dataset.row["fields"]}
        for event in history.changes.get(history.register, []):
            made = Version(event.offset, event.after, event.timestamp_ms)
            self.versions.setdefault(event.key, []).append(made)

    def key(self, pin: str) -> bytes:
        found = self._keys.get(pin)
        if found is None:
            found = self._keys[pin] = keys.person_key(self.secret, pin)
        return found

    def at(self, pin: str, offset: int) -> Version | None:
        """The version of this person that stands at exactly this offset."""
        found = self.versions.get(self.key(pin), [])
        place = bisect_right(found, offset, key=lambda v: v.offset) - 1
        return found[place] if place >= 0 and found[place].offset == offset else None

    def newest(self, pin: str, before_ms: int) -> Version | None:
        """The last version that stood in the topic before an instant."""
        found = [v for v in self.versions.get(self.key(pin), []) if v.timestamp_ms < before_ms]
        return found[-1] if found else None

    def between(self, pin: str, from_ms: int, to_ms: int) -> list[Row | None]:
        """The person's records that were the newest at some time between two instants; None for times without one."""
        found = self.versions.get(self.key(pin), [])
        old = [v for v in found if v.timestamp_ms < from_ms]
        return [old[-1].row if old else None, *(v.row for v in found if from_ms <= v.timestamp_ms <= to_ms)]

    def differing(self, dataset: Dataset, role: Role, row: Row, person: Row) -> list[str]:
        """Register fields in which the row contradicts the person; what one of them leaves open is no contradiction."""
        found = []
        for field, column in role.match.items():
            left, right = as_text(row[column], dataset.fields[column]), as_text(person[field], self.dataset.fields[field])
            if left is not None and right is not None and not same(self.compare[field], left, right):
                found.append(field)
        return found


def as_text(value: Any, kind: Any) -> str | None:
    if value is None:
        return None
    return date_text(value) if is_date(kind) else str(value)


class Verdicts:
    """Checks the verification part of verified events, and says what the verdict of any row would be."""

    def __init__(self, history: History, report: Report) -> None:
        self.history, self.report = history, report
        self.register = Register(history)

    def check(self, topic: str, dataset: Dataset, verified: Verified, used: dict[bytes, int], arrived_ms: int) -> None:
        """One verified event; `used` remembers per person the newest version already used in this topic's lane."""
        event = verified.event
        where = f"{topic}[{event.lane}]@{event.offset}"
        entries = {v["role"]: v for v in verified.verification}
        roles = [r for r in dataset.people if not dataset.register and self.present(dataset, r, event.row)]
        if [v["role"] for v in verified.verification] != [r.name for r in roles]:
            self.report.add("wrong-verdict", where, f"roles {sorted(entries)} verified, not {sorted(r.name for r in roles)}")
            return
        for role in roles:
            self.report.facts["verdicts"] += 1
            self._role(where, dataset, role, event, entries[role.name], used, arrived_ms)
        self._person(where, dataset, verified)

    def present(self, dataset: Dataset, role: Role, row: Row) -> bool:
        """A row's subject always is; another person only if the row says anything about him."""
        return role is dataset.people[0] or any(row[c] is not None for c in (role.pin, *role.match.values()))

    def before(self, dataset: Dataset, verified: Verified, arrived_ms: int) -> set[str]:
        """What the verdict of an update's old row can have been, by the register of that moment.

        The versions used for it are recorded only for people who are in the new row as well; for others every version that was
        the newest at some time since shortly before the change arrived is possible.
        """
        event, row = verified.event, verified.event.before
        verdict = gravest([v["status"] for v in verified.verification])
        columns = {c for r in dataset.people for c in (r.pin, *r.match.values())}
        if event.op != "u" or row is None or dataset.register or all(row[c] == event.row[c] for c in columns):
            return {verdict}
        used = {
            event.row[r.pin]: v["register_offset"] for v in verified.verification for r in dataset.people if r.name == v["role"]
        }
        options = [
            {self._status(dataset, role, row, v) for v in self._candidates(row[role.pin], used, arrived_ms, event)}
            for role in dataset.people
            if self.present(dataset, role, row)
        ]
        return {gravest(list(statuses)) for statuses in itertools.product(*options)}

    def _candidates(self, pin: str | None, used: dict[str | None, int | None], arrived_ms: int, event: Event) -> list[Row | None]:
        if not pin:
            return [None]
        if pin in used:
            offset = used[pin]
            version = self.register.at(pin, offset) if offset is not None else None
            return [version.row if version else None]
        return self.register.between(pin, arrived_ms - (self.history.staleness_ms or 60_000), event.timestamp_ms)

    def _status(self, dataset: Dataset, role: Role, row: Row, person: Row | None) -> str:
        if not row[role.pin]:
            return "NO_PIN"
        if person is None:
            return "NOT_FOUND"
        return "MISMATCH" if self.register.differing(dataset, role, row, person) else "MATCH"

    def _role(
        self,
        where: str,
        dataset: Dataset,
        role: Role,
        event: Event,
        entry: dict[str, Any],
        used: dict[bytes, int],
        arrived_ms: int,
    ) -> None:
        pin, offset, status = event.row[role.pin], entry["register_offset"], entry["status"]
        expected: tuple[str, list[str]]
        if not pin:
            expected = ("NO_PIN", [])
        elif offset is None:
            expected = ("NOT_FOUND", [])
        else:
            version = self.register.at(pin, offset)
            if version is None:
                self.report.add("wrong-person", where, f"role {role.name}: offset {offset} is not a record of this person")
                return
            differing = self.register.differing(dataset, role, event.row, version.row) if version.row else []
            expected = ("NOT_FOUND" if version.row is None else "MISMATCH" if differing else "MATCH", differing)
        if (status, sorted(entry["mismatched"])) != (expected[0], sorted(expected[1])):
            got = f"{status} {sorted(entry['mismatched'])}"
            self.report.add("wrong-verdict", where, f"role {role.name}: {got}, should be {expected[0]} {sorted(expected[1])}")
        if pin:
            self._fresh(where, role, pin, -1 if offset is None else offset, used, arrived_ms)

    def _fresh(self, where: str, role: Role, pin: str, offset: int, used: dict[bytes, int], arrived_ms: int) -> None:
        person = self.register.key(pin)
        if offset < used.get(person, -1):
            absent = offset < 0 and any(v.row is None for v in self.register.versions.get(person, []))
            if not absent:
                self.report.add("stale-register", where, f"role {role.name}: version {offset} after {used[person]} was used")
        used[person] = max(offset, used.get(person, -1))
        if self.history.staleness_ms is None:
            return
        newest = self.register.newest(pin, arrived_ms - self.history.staleness_ms)
        if newest is None or offset >= newest.offset:
            return
        gone = offset < 0 and any(v.row is None and v.offset >= newest.offset for v in self.register.versions[person])
        if not gone:
            self.report.add(
                "stale-register", where, f"role {role.name}: version {offset} where {newest.offset} had long been there"
            )

    def _person(self, where: str, dataset: Dataset, verified: Verified) -> None:
        """The register's record that rides along is the subject's, at the version that was used."""
        if dataset.register or not dataset.people:
            return
        entry = verified.verification[0]
        pin = verified.event.row[dataset.people[0].pin]
        version = self.register.at(pin, entry["register_offset"]) if pin and entry["register_offset"] is not None else None
        if (version.row if version else None) != verified.person:
            self.report.add("wrong-person", where, "the register's record in the event is not the one of the subject's version")
