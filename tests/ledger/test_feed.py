"""A subscriber's check: a feed as the engine writes it passes, and whatever is taken out, put in or moved is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.avro import varint
from bus.ledger import feed
from bus.ledger.feed import Feed, FeedError

NAME = "tax.taxpayers"
Record = tuple[int, bytes]
"""Offset and value."""
Recorded = list[list[Record]]
"""By lane."""


def delivery(number: int, seq: int, agreement: str = NAME) -> bytes:
    return b"\0\0\0\0\7" + number.to_bytes(16, "big") + varint.encode(seq) + varint.encode_text(agreement) + b"the rest"


@st.composite
def recorded(draw: st.DrawFn, least: int = 0) -> tuple[Recorded, bool]:
    """(a feed of some lanes, whether it begins at the topic's first record); offsets have holes, as markers leave them."""
    whole = draw(st.booleans())
    lanes: Recorded = []
    number = draw(st.integers(0, 2**64))
    for _ in range(draw(st.integers(1, 3))):
        first = 1 if whole else draw(st.integers(1, 10_000))
        count = draw(st.integers(least, 12))
        offset = 0 if whole else 5_000
        lane: list[Record] = []
        for seq in range(first, first + count):
            offset += draw(st.integers(1, 3))
            number += draw(st.integers(1, 2**120))
            lane.append((offset, delivery(number % 2**128, seq)))
        lanes.append(lane)
    return lanes, whole


def check(lanes: Recorded, whole: bool) -> Feed:
    made = Feed(NAME, dict.fromkeys(range(len(lanes)), 0 if whole else 5_000))
    for number, lane in enumerate(lanes):
        for offset, value in lane:
            made.add(number, offset, value)
    return made


@given(recorded())
def test_what_the_engine_writes_is_whole(made: tuple[Recorded, bool]) -> None:
    lanes, whole = made
    found = check(lanes, whole)
    assert found.finish()
    assert found.records == sum(map(len, lanes))
    for lane, told in zip(lanes, found.lanes.values(), strict=True):
        assert told.records == len(lane)
        assert (told.last_seq or 0) - (told.first_seq or 1) + 1 == len(lane)


@given(recorded(least=3), st.data())
def test_every_deletion_is_found_but_at_the_edges(made: tuple[Recorded, bool], data: st.DataObject) -> None:
    """Of the last record of a lane nothing is left to tell, nor of the first where retention may have taken it."""
    lanes, whole = made
    lane = data.draw(st.sampled_from(lanes))
    first = data.draw(st.integers(0 if whole else 1, len(lane) - 2))
    end = data.draw(st.integers(first + 1, len(lane) - 1))
    del lane[first:end]
    found = check(lanes, whole)
    assert not found.finish()
    assert sum(told.missing() for told in found.lanes.values()) == end - first


@given(recorded(least=1), st.data())
def test_every_repetition_is_found(made: tuple[Recorded, bool], data: st.DataObject) -> None:
    """The very record, or the event under a number of its own; in its lane or in another."""
    lanes, whole = made
    source, target = data.draw(st.sampled_from(lanes)), data.draw(st.sampled_from(lanes))
    value = data.draw(st.sampled_from(source))[1]
    if data.draw(st.booleans()):
        last = varint.decode(target[-1][1], 21)[0]
        event_id, rest = value[:21], value[varint.decode(value, 21)[1] :]
        target.append((target[-1][0] + 1, event_id + varint.encode(last + 1) + rest))
    else:
        place = data.draw(st.integers(0, len(target)))
        target.insert(place, (target[place - 1][0] if place else 0, value))
    found = check(lanes, whole)
    assert not found.finish()
    assert sum(told.repeated_events.count for told in found.lanes.values()) == 1


@given(recorded(least=2), st.data())
def test_every_swap_within_a_lane_is_found(made: tuple[Recorded, bool], data: st.DataObject) -> None:
    lanes, whole = made
    lane = data.draw(st.sampled_from(lanes))
    one, two = data.draw(st.lists(st.integers(0, len(lane) - 1), min_size=2, max_size=2, unique=True))
    (a, left), (b, right) = lane[one], lane[two]
    lane[one], lane[two] = (a, right), (b, left)
    found = check(lanes, whole)
    assert not found.finish()
    assert sum(told.late.count for told in found.lanes.values()) >= 1


def test_numbers_that_come_late_are_told_from_missing_and_repeated_ones() -> None:
    """1 4 3 5 3 7: 2 and 6 are missing, 3 comes late and then again."""
    found = check([[(offset, delivery(offset, seq)) for offset, seq in enumerate((1, 4, 3, 5, 3, 7))]], True)
    assert not found.finish()
    told = found.lanes[0].told()
    assert (told["missing_ranges"], told["late"], told["repeated"]) == ([[2, 2], [6, 6]], 1, 1)
    assert (told["late_at"], told["repeated_at"]) == ([{"offset": 2, "seq": 3}], [{"offset": 4, "seq": 3}])


@pytest.mark.parametrize(
    "value", [None, b"", b"\0", b"\1" + delivery(1, 1)[1:], delivery(1, 1)[:21], delivery(1, 0), delivery(1, 1, "tax.other"),
              delivery(1, 1)[:21] + b"\xff" * 20],
)  # fmt: skip
def test_what_is_no_delivery_of_this_agreement_is_found(value: bytes | None) -> None:
    found = check([[]], True)
    found.add(0, 0, value)
    assert not found.finish()
    assert found.lanes[0].told()["foreign_at"] == [{"offset": 0}]


def test_too_many_records_are_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_RECORDS", 2)
    with pytest.raises(FeedError, match="--since"):
        check([[(n, delivery(n, n + 1)) for n in range(3)]], True)
