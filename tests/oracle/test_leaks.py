"""The canary scan finds a planted value in whatever spelling and place, and lets pass what an agreement opens."""

from __future__ import annotations

import base64
import json
import unicodedata
import urllib.parse

import pytest

from tests.oracle.history import Raw
from tests.oracle.leaks import Canary, Scanner, opened
from tests.oracle.report import Report
from tests.oracle.synthetic_world import STATISTICS, TAX

PIN = Canary("079777000111", frozenset({"civil.birth.child_pin", "population.person.pin"}))
NAME = Canary("Chim Hoàng Yến Đặng", frozenset({"civil.birth.child_name"}))
SCANNER = Scanner([PIN, NAME])


@pytest.mark.parametrize(
    "data",
    [
        NAME.text.encode(),
        unicodedata.normalize("NFD", NAME.text).encode(),
        NAME.text.encode("utf-16-le"),
        NAME.text.upper().encode(),
        json.dumps({"row": NAME.text}).encode(),
        repr(NAME.text.encode()).encode(),
        urllib.parse.quote(NAME.text).encode(),
        b"Chim Hoang Yen Dang",
        PIN.text.encode().hex().encode(),
        PIN.text[::-1].encode(),
        *(base64.b64encode(b"x" * n + PIN.text.encode() + b"yy") for n in range(3)),
    ],
)
def test_every_spelling_is_found(data: bytes) -> None:
    report = Report()
    SCANNER.text("a.log", b"first line\n{" + data + b"}\n", report)
    assert report.counts["canary"] >= 1
    assert report.witness("canary").where == "a.log:2"


def test_nothing_is_found_where_nothing_is() -> None:
    report = Report()
    SCANNER.text("a.log", b"079777000112 Chim Ho\xc3\xa0ng " + bytes(range(256)) * 4, report)
    assert not report.anomalies


@pytest.mark.parametrize(
    ("record", "count"),
    [
        (Raw(0, 0, b"k", b"\0" + PIN.text.encode()), 0),
        (Raw(0, 0, PIN.text.encode(), b""), 1),
        (Raw(0, 0, b"k", b"", {"x": PIN.text.encode()}), 1),
        (Raw(0, 0, b"k", b"", {PIN.text: b""}), 1),
        (Raw(0, 0, None, None), 0),
    ],
)
def test_only_the_value_may_hold_what_is_granted(record: Raw, count: int) -> None:
    """TAX has the PIN in the clear; even so it is no key and no header."""
    report = Report()
    SCANNER.record("agency.tax.births", record, report, opened(TAX, "population.person"))
    assert report.counts["canary"] == count


def test_a_masked_field_does_not_open_its_value() -> None:
    report = Report()
    SCANNER.record(
        "agency.statistics.births", Raw(0, 0, b"k", PIN.text.encode()), report, opened(STATISTICS, "population.person")
    )
    assert report.counts["canary"] == 1
    assert "register" not in "".join(opened(STATISTICS, "population.person"))
