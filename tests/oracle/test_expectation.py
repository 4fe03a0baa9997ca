"""The checker's own idea of the rules, case by case as they are written down, and of values, names and dates."""

from __future__ import annotations

import datetime
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.engine import fitting
from tests.oracle.expectation import Expected, Rule, gravest, in_force
from tests.oracle.history import Agreement, Delivery, Event, Grant
from tests.oracle.people import same
from tests.oracle.synthetic_world import AGREEMENT_SECRET, BIRTH, PERSON
from tests.oracle.values import UNCONVERTIBLE, Row, converters, date_text, days

ROW = {
    "id": 1,
    "child_pin": "1",
    "child_name": "An",
    "child_date": 0,
    "mother_pin": None,
    "mother_year": None,
    "province": "01",
    "fee": 5,
}
ELSEWHERE = ROW | {"province": "48"}
RENAMED = ROW | {"child_name": "Bo"}
UNSEEN = ROW | {"mother_year": 1980}


def rule(verdicts: tuple[str, ...] = (), share: bool = False) -> Rule:
    grant = Grant(
        "civil.birth", (("child_name", "plain"), ("register.sex", "plain")), (("province", ("01", "79")),), verdicts, share
    )
    return Rule(Agreement("x.y", "x", (grant,)), grant, BIRTH, PERSON, AGREEMENT_SECRET)


def event(op: str, before: Row | None, after: Row | None) -> Event:
    return Event(0, 0, b"", 0, b"", op, 0, {}, before, after)


@pytest.mark.parametrize(
    ("op", "before", "after", "outcome", "sent", "name"),
    [
        ("c", None, ROW, "DELIVERED", "c", "An"),
        ("r", None, ROW, "DELIVERED", "r", "An"),
        ("c", None, ELSEWHERE, "ROW_FILTER", "", None),
        ("d", ROW, None, "DELIVERED", "d", None),
        ("d", ELSEWHERE, None, "ROW_FILTER", "", None),
        ("u", ELSEWHERE, ELSEWHERE | {"fee": 1}, "ROW_FILTER", "", None),
        ("u", ELSEWHERE, ROW, "DELIVERED", "c", "An"),
        ("u", ROW, ELSEWHERE, "DELIVERED", "w", None),
        ("u", ROW, RENAMED, "DELIVERED", "u", "Bo"),
        ("u", ROW, UNSEEN, "INVISIBLE", "", None),
        ("c", None, ROW | {"province": None}, "ROW_FILTER", "", None),
    ],
)
def test_filter_and_visibility(op: str, before: Row | None, after: Row | None, outcome: str, sent: str, name: str | None) -> None:
    got = rule().expect(event(op, before, after), "MATCH", "MATCH", None, None)
    assert (got.outcome, got.op, got.data and got.data["child_name"]) == (outcome, sent, name)


@pytest.mark.parametrize(
    ("op", "before", "after", "was", "now", "outcome", "sent"),
    [
        ("c", None, ROW, "", "MISMATCH", "VERDICT", ""),
        ("c", None, ELSEWHERE, "", "MISMATCH", "ROW_FILTER", ""),
        ("d", ROW, None, "", "NOT_FOUND", "DELIVERED", "d"),
        ("d", ROW, None, "", "MATCH", "DELIVERED", "d"),
        ("d", ELSEWHERE, None, "", "MATCH", "ROW_FILTER", ""),
        ("u", ROW, RENAMED, "MISMATCH", "MATCH", "DELIVERED", "c"),
        ("u", ROW, RENAMED, "MATCH", "MISMATCH", "DELIVERED", "w"),
        ("u", ROW, RENAMED, "MISMATCH", "MISMATCH", "VERDICT", ""),
        ("u", ELSEWHERE, ROW, "MATCH", "MISMATCH", "VERDICT", ""),
    ],
)
def test_verdict_as_a_condition(
    op: str, before: Row | None, after: Row | None, was: str, now: str, outcome: str, sent: str
) -> None:
    got = rule(("MATCH",)).expect(event(op, before, after), now, was, None, None)
    assert (got.outcome, got.op) == (outcome, sent)


def test_a_shared_verdict_that_changes_is_visible() -> None:
    change = event("u", ROW, UNSEEN)
    assert rule(share=True).expect(change, "MATCH", "MISMATCH", None, None) == Expected(
        "DELIVERED", "u", {"child_name": "An", "register_sex": None}, "MATCH"
    )
    assert rule(share=True).expect(change, "MATCH", "MATCH", None, None).outcome == "INVISIBLE"


@pytest.mark.parametrize(("verdict", "told"), [("MATCH", "MATCH"), ("NOT_FOUND", None)])
def test_a_delete_tells_no_verdict_that_is_not_asked_for(verdict: str, told: str | None) -> None:
    gone = event("d", ROW, None)
    assert rule(("MATCH",), share=True).expect(gone, verdict, verdict, None, None) == Expected("DELIVERED", "d", None, told)
    assert rule(("MATCH",)).expect(gone, verdict, verdict, None, None) == Expected("DELIVERED", "d")


def test_gravity() -> None:
    assert gravest(["MATCH", "NO_PIN"]) == "NO_PIN"
    assert gravest(["MISMATCH", "NOT_FOUND", "MATCH"]) == "MISMATCH"


def test_validity_is_half_open() -> None:
    agreement = Agreement("x.y", "x", (), 100, 200)
    assert in_force(agreement, 100, 199) == (True, True)
    assert in_force(agreement, 100, 200) == (True, False)
    assert in_force(agreement, 200, 300) == (False, False)
    assert in_force(agreement, 0, 99) == (False, False)


@pytest.mark.parametrize(
    ("kind", "left", "right", "expected"),
    [
        ("name", "Nguyễn Thị Hòa", "NGUYỄN  THỊ HOÀ", True),
        ("name", "Trần Thuý Quỳnh", unicodedata.normalize("NFD", "trần thúy quỳnh "), True),
        ("name", "Nguyễn Văn An", "Nguyễn Văn Ân", False),
        ("name", "Hoa", "Hòa", False),
        ("name", "Hỏa", "Hòa", False),
        ("name", "Nguyễn An", "An Nguyễn", False),
        ("name", "Đỗ Loan", "Do Loan", False),
        ("date", "1985", "1985-03-02", True),
        ("date", "1985-02", "1985-03-02", False),
        ("date", "1985-03", "1985-03-02", True),
        ("date", "1986", "1985-03-02", False),
        ("date", "1985-03-20", "1985-03-02", False),
        ("sex", "Nam", "M", True),
        ("sex", "Nữ", "M", False),
        ("sex", "nữ", "F", True),
        ("text", " a", "a ", True),
        ("text", "a", "A", False),
    ],
)
def test_comparison_with_the_register(kind: str, left: str, right: str, expected: bool) -> None:
    assert same(kind, left, right) is expected
    assert same(kind, right, left) is expected


@given(st.dates())
def test_days_and_dates_are_inverse(date: datetime.date) -> None:
    number = (date - datetime.date(1970, 1, 1)).days
    assert days(date.year, date.month, date.day) == number
    assert date_text(number) == date.isoformat()


def test_values_from_jsonb() -> None:
    convert = converters(
        {
            "d": {"type": "int", "logicalType": "date"},
            "t": ["null", {"type": "long", "logicalType": "timestamp-micros"}],
            "n": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
            "b": "bytes",
            "f": "float",
            "j": "string",
        }
    )
    assert convert["d"]("2024-02-29") == 19782
    assert convert["d"]("4714-11-24 BC") == days(-4713, 11, 24)
    assert convert["d"]("infinity") == UNCONVERTIBLE
    assert convert["t"](None) is None
    assert convert["t"]("1970-01-01T07:00:00.5+07:00") == 500_000
    assert convert["t"]("294276-12-31T23:59:59.999999+00:00") > 2**62
    assert convert["n"](Decimal("12.50")) == 1250
    assert convert["n"]("NaN") == UNCONVERTIBLE
    assert convert["b"]("\\x00ff") == b"\0\xff"
    assert convert["f"](Decimal("0.1")) != 0.1
    assert convert["j"]({"b": 1, "a": [Decimal("1.5")]}) == '{"a":[1.5],"b":1}'


def test_an_old_verdict_that_is_not_on_record_leaves_only_what_follows_from_a_possible_one() -> None:
    """Somebody who is in the old row only and whose record changed just then: a create or an update, no withdrawal."""
    of, changed = rule(("MISMATCH",)), event("u", ROW, RENAMED)
    possible = [of.expect(changed, "MISMATCH", was, None, None) for was in ("MATCH", "MISMATCH")]
    for op, told in (("c", "c"), ("u", "u"), ("w", "c")):
        delivery = Delivery(0, 0, b"", "civil.birth", b"", 1, "x.y", b"", op, 0, b"", None, None)
        assert fitting(delivery, possible).op == told
