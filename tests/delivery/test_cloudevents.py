"""Laws of a delivery as a CloudEvent: the attributes are the specification's, and no value is lost on the way to JSON."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.outcome import DELIVERY_OPS
from bus.delivery import cloudevents

KEY = bytes(range(16))


def delivery(op: str = "c", data: dict[str, Any] | None = None, ts_ms: int = 1_790_000_000_123) -> dict[str, Any]:
    return {
        "event_id": b"\x01" * 16, "seq": 7, "agreement": "tax.births", "grant_hash": b"\x02" * 32, "op": op, "ts_ms": ts_ms,
        "row_key": b"\x03" * 16, "verdict": None, "data": data,
    }  # fmt: skip


@pytest.mark.parametrize("op", DELIVERY_OPS)
def test_every_attribute_has_a_name_and_a_type_that_the_specification_allows(op: str) -> None:
    """CloudEvents 1.0.2: names of lower-case letters and digits, at most 20; values are never null."""
    made = json.loads(json.dumps(cloudevents.event(delivery(op), "civil.birth", KEY, 3)))
    assert {"specversion", "id", "source", "type"} <= made.keys()
    for name, value in made.items():
        assert re.fullmatch("[a-z0-9]{1,20}", name)
        assert name == "data" or (isinstance(value, str | int) and value != "")
    assert made["time"] == "2026-09-21T14:13:20.123Z"
    assert made["partitionkey"] == KEY.hex()
    assert len({cloudevents.event(delivery(o), "civil.birth", KEY, 3)["type"] for o in DELIVERY_OPS}) == len(DELIVERY_OPS)


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(), st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_what_json_knows_stays_what_it_is(value: Any) -> None:
    assert json.loads(json.dumps(cloudevents.plain({"a": [value]})))["a"] == [value]


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.dates(),
    st.binary(),
    st.uuids(),
)
def test_what_json_does_not_know_can_be_made_again_of_its_text(
    number: Decimal, instant: dt.datetime, day: dt.date, raw: bytes, identity: uuid.UUID
) -> None:
    said = json.loads(json.dumps(cloudevents.plain({"n": number, "t": instant, "d": day, "b": raw, "u": identity})))
    assert Decimal(said["n"]) == number
    assert dt.datetime.fromisoformat(said["t"]) == instant
    assert dt.date.fromisoformat(said["d"]) == day
    assert base64.b64decode(said["b"]) == raw
    assert uuid.UUID(said["u"]) == identity


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_has_no_word_for_are_told_as_text(value: float) -> None:
    assert json.loads(json.dumps(cloudevents.plain(value), allow_nan=False)) == str(value)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_a_commits_time_is_an_instant_of_rfc_3339(ts_ms: int) -> None:
    made = cloudevents.event(delivery(ts_ms=ts_ms), "civil.birth", KEY, 0)["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made)
    assert (dt.datetime.fromisoformat(made) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(milliseconds=1) == ts_ms
