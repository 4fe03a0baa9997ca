"""Canary people: unmistakable values, planted in the databases, that may appear only where an agreement opens that very field."""

from __future__ import annotations

import base64
import itertools
import json
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.oracle.history import Agreement, Raw
from tests.oracle.report import Report


@dataclass(frozen=True, slots=True)
class Canary:
    """One value of a canary person and the fields in which it stands: '<dataset>.<column>', of the register too."""

    text: str
    fields: frozenset[str]


def spellings(text: str) -> set[bytes]:
    """The ways in which a value could appear: encodings, Unicode forms, without marks, escaped, reversed."""
    found: set[bytes] = set()
    bare = (
        "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)).replace("đ", "d").replace("Đ", "D")
    )
    for form in {
        text,
        unicodedata.normalize("NFC", text),
        unicodedata.normalize("NFD", text),
        bare,
        text[::-1],
        text.upper(),
        text.lower(),
    }:
        raw = form.encode()
        found |= {raw, form.encode("utf-16-le"), form.encode("utf-16-be"), raw.hex().encode(), raw.hex().upper().encode()}
        found |= {json.dumps(form)[1:-1].encode(), urllib.parse.quote(form).encode(), repr(raw)[2:-1].encode()}
        found |= {_base64_core(raw, shift) for shift in range(3)}
    return found


def _base64_core(raw: bytes, shift: int) -> bytes:
    """The part of the base64 text that is the same whatever stands around the value, `shift` bytes into a group of three."""
    skip = (3 - shift) % 3
    whole = raw[skip : skip + (len(raw) - skip) // 3 * 3]
    return base64.b64encode(whole)


def _alternatives(parts: list[bytes]) -> bytes:
    """A pattern for any of the sorted `parts`, common beginnings told once: thousands of them cost little more than one."""
    if len(parts) == 1:
        return re.escape(parts[0])
    if parts[0] == b"":
        return b"(?:" + _alternatives(parts[1:]) + b")?"
    heads = [(head, [p[1:] for p in group]) for head, group in itertools.groupby(parts, key=lambda p: p[:1])]
    return b"(?:" + b"|".join(re.escape(head) + _alternatives(group) for head, group in heads) + b")"


class Scanner:
    """Finds canaries in bytes."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self.owners: dict[bytes, Canary] = {}
        for canary in canaries:
            for spelling in spellings(canary.text):
                self.owners[spelling] = canary
        self._pattern = re.compile(_alternatives(sorted(self.owners)), re.DOTALL)

    def find(self, data: bytes | None) -> Iterator[Canary]:
        for hit in self._pattern.finditer(data or b""):
            yield self.owners[hit[0]]

    def record(self, where: str, record: Raw, report: Report, opened: frozenset[str] = frozenset()) -> None:
        """Key and headers may hold nothing; the value only what `opened` names: '<dataset>.<column>'."""
        report.facts["records scanned"] += 1
        places = [
            ("key", record.key),
            *((f"header {name}", name.encode() + b" " + value) for name, value in record.headers.items()),
        ]
        for what, data in places:
            for _ in self.find(data):
                report.add("canary", f"{where}[{record.lane}]@{record.offset}", f"in its {what}")
        for canary in self.find(record.value):
            if not canary.fields & opened:
                report.add(
                    "canary", f"{where}[{record.lane}]@{record.offset}", f"in its value: {', '.join(sorted(canary.fields))}"
                )

    def text(self, where: str, data: bytes, report: Report) -> None:
        """A log file, a /metrics page, an error text: nothing at all."""
        report.facts["texts scanned"] += 1
        for number, line in enumerate(data.split(b"\n"), 1):
            for canary in self.find(line):
                report.add("canary", f"{where}:{number}", f"{', '.join(sorted(canary.fields))}")


def opened(agreement: Agreement, register: str) -> frozenset[str]:
    """The fields an agreement grants in the clear, as '<dataset>.<column>'."""
    return frozenset(
        f"{register}.{name.removeprefix('register.')}" if name.startswith("register.") else f"{grant.dataset}.{name}"
        for grant in agreement.grants
        for name, mask in grant.fields
        if mask == "plain"
    )
