"""Laws of the feed's pure parts: cursors, shares, pages, and what today's text opens of yesterday's deliveries."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.agreement import Agreement, Delivery, Grant, GrantedField, Mask, Way
from bus.delivery import cloudevents
from bus.delivery.entitled import Entitlement
from bus.delivery.feed import asked, cursor, page, streams
from bus.delivery.feed.answers import Pieces
from bus.delivery.feed.asked import Wrong
from bus.delivery.feed.cursor import ANY, LIVE, Cursor, Forged, Place
from bus.delivery.feed.limits import Limits, TooMuch
from bus.delivery.feed.page import Gone
from bus.delivery.feed.records import Batch

SECRET = bytes(range(32))
PLACES = st.builds(Place, st.integers(0, 2**62), st.integers(-1, 2**62), st.integers(-1, 2**62))
CURSORS = st.builds(Cursor, st.dictionaries(st.integers(0, 255), PLACES, min_size=1, max_size=64), st.integers(0, 256))


# -- cursors


@given(CURSORS, st.from_regex(r"[a-z]{1,9}\.[a-z]{1,9}", fullmatch=True))
def test_a_cursor_comes_back_as_it_was_and_fits_into_an_address(one: Cursor, agreement: str) -> None:
    text = cursor.encode(one, agreement, SECRET)
    assert cursor.decode(text, agreement, SECRET) == one
    assert len(text) <= cursor.MOST_CHARS


def test_a_cursor_with_any_bit_changed_is_none() -> None:
    text = cursor.encode(Cursor({0: Place(17, 9), 3: Place(0, ANY, 40)}, 1), "a.b", SECRET)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Forged):
            cursor.decode(base64.urlsafe_b64encode(changed).rstrip(b"=").decode(), "a.b", SECRET)
    for at in range(len(text)):
        for letter in {chr(code) for code in range(33, 127)} - {text[at]}:
            with pytest.raises(Forged):
                cursor.decode(text[:at] + letter + text[at + 1 :], "a.b", SECRET)


@given(st.text(max_size=300))
def test_whatever_is_no_cursor_is_refused_and_nothing_else_is_raised(text: str) -> None:
    with pytest.raises(Forged) as refused:
        cursor.decode(text, "a.b", SECRET)
    assert len(text) < 4 or text not in str(refused.value)


@given(CURSORS)
def test_a_cursor_is_of_one_agreement_and_one_secret(one: Cursor) -> None:
    text = cursor.encode(one, "a.b", SECRET)
    for agreement, secret in (("a.bc", SECRET), ("a.b", bytes(32))):
        with pytest.raises(Forged):
            cursor.decode(text, agreement, secret)


# -- shares


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), max_size=200), st.floats(0.5, 50))
def test_nobody_gets_more_than_his_rate_and_what_one_takes_is_no_other_ones(
    steps: list[tuple[str, float]], per_second: float
) -> None:
    now = [0.0]
    limits, alone = (Limits(per_second, {}, lambda: now[0]) for _ in range(2))
    allowed = {"a": 0, "b": 0}
    for agency, pause in steps:
        now[0] += pause
        outcomes = []
        for one in (limits, alone) if agency == "a" else (limits,):  # 'alone' knows nothing of b
            try:
                one.request(agency)
                outcomes.append(True)
            except TooMuch:
                outcomes.append(False)
        assert len(set(outcomes)) == 1
        allowed[agency] += outcomes[0]
        assert allowed[agency] <= max(1.0, 2 * per_second) + now[0] * per_second + 1e-6


def test_who_was_told_when_to_come_again_is_let_in_then() -> None:
    now = [0.0]
    limits = Limits(0.5, {}, lambda: now[0])
    limits.request("a")
    with pytest.raises(TooMuch) as refused:
        limits.request("a")
    assert refused.value.retry_seconds == 2
    now[0] += refused.value.retry_seconds
    limits.request("a")


def test_a_share_is_given_back_however_its_use_ends() -> None:
    limits = Limits(1, {"streams": 2}, lambda: 0.0)
    for _ in range(5):
        with suppress(KeyError), limits.holding("a", "streams"), limits.holding("a", "streams"), limits.holding("b", "streams"):
            assert limits.held("streams") == 3
            with pytest.raises(TooMuch), limits.holding("a", "streams"):
                pass
            raise KeyError
    assert limits.held("streams") == 0


# -- parameters


@given(st.lists(st.tuples(st.sampled_from([*asked.PAGE, "x"]), st.text(max_size=12)), max_size=4))
def test_parameters_are_read_within_their_bounds_or_refused_without_being_quoted(query: list[tuple[str, str]]) -> None:
    try:
        found = asked.read(query, asked.PAGE, 8, 500)
    except Wrong as refused:
        quoted = [value for _, value in query if len(value) > 6 and value in str(refused)]
    else:
        quoted = []
        assert 1 <= found.limit <= 500
        assert found.lane is None or 0 <= found.lane < 8
        assert 0 <= found.wait_seconds <= asked.MOST_WAIT_SECONDS
        assert not (found.snapshot and found.cursor)
    assert not quoted


# -- pages


def decode(value: bytes, key: bytes, _: int) -> tuple[dict[str, Any], str, bytes]:
    return delivery(int(value)), "civil.birth", key


def delivery(seq: int, **more: Any) -> dict[str, Any]:
    return {
        "event_id": seq.to_bytes(16, "big"), "seq": seq, "agreement": "a.b", "grant_hash": b"\1" * 32, "op": "c",
        "ts_ms": 0, "row_key": b"\3" * 16, "verdict": None, "data": {"x": seq},
    } | more  # fmt: skip


@given(
    st.dictionaries(st.integers(0, 7), st.integers(0, 30), min_size=1),
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.integers(1, 400),
    st.data(),
)
def test_pages_of_any_size_tell_each_record_once_and_in_its_lanes_order(
    counts: dict[int, int], limits: list[int], most_bytes: int, data: st.DataObject
) -> None:
    """Offsets have holes, as ends of transactions make them; a read may give more than the page takes."""
    lanes = {lane: [(3 * n, b"k" * 16, str(n + 1).encode()) for n in range(count)] for lane, count in counts.items()}
    bounds = {lane: (0, 3 * count + 1) for lane, count in counts.items()}
    place, told = cursor.beginning(lanes), []
    for turn in range(1_000):
        place = page.settle(place, bounds)
        starts = page.starts(place, bounds)
        if not starts:
            break
        items = {lane: [item for item in lanes[lane] if item[0] >= at] for lane, at in starts.items()}
        cut = {lane: data.draw(st.integers(1, 9)) for lane in items}
        ends = {lane: bounds[lane][1] for lane in items if len(items[lane]) <= cut[lane]}
        batch = Batch({lane: found[: cut[lane]] for lane, found in items.items() if found}, ends)
        made = page.make(place, batch, bounds, decode, limits[turn % len(limits)], most_bytes=most_bytes)
        assert made.lost == []
        assert len(made.events) <= limits[turn % len(limits)]
        told += [(after, text) for text, after in made.events]
        place = made.next
    assert len(told) == sum(counts.values())
    for lane, count in counts.items():
        assert [text for after, text in told if f'"lane":{lane},' in text] == [
            page.text(cloudevents.event(delivery(n + 1), "civil.birth", b"k" * 16, lane)) for n in range(count)
        ]
    assert not page.more(place, bounds)


@pytest.mark.parametrize(("seq", "first"), [(3, 5), (3, 2), (3, 3), (0, 2)])
def test_a_number_that_is_not_the_next_one_is_never_passed_over(seq: int, first: int) -> None:
    batch = Batch({0: [(10, b"k" * 16, str(first).encode())]})
    with pytest.raises(Gone):
        page.make(Cursor({0: Place(9, seq)}), batch, {0: (0, 11)}, decode, 10)
    made = page.make(Cursor({0: Place(0, ANY)}), batch, {0: (5, 11)}, decode, 10)
    assert [lost.told() for lost in made.lost] == [{"lane": 0, "first_seq": 1, "last_seq": first - 1}]


# -- what today's text opens


def agreement(number: int, *fields: GrantedField, **more: Any) -> Agreement:
    grant = Grant("civil.birth", fields, **more)
    return Agreement("a.b", "a", "", "", (grant,), 0, None, bytes([number]) * 32, delivery=Delivery(Way.FEED))


FORMS = {"x": "int", "p": ["null", "string"], "y": "string"}
ROW = {"x": 7, "p": "79", "y": "abcd"}
ALL = (GrantedField("x"), GrantedField("p"), GrantedField("y"))
OLD = agreement(1, *ALL)
KEY = b"\5" * 16


def view(today: Agreement, *, ended: bool = False, written: Any = None, **more: Any) -> Any:
    earlier = {OLD.grant_hash: OLD}
    return seen(today, earlier, ended, written, **more)[0]


def seen(today: Agreement, earlier: dict[bytes, Agreement], ended: bool = False, written: Any = None, **more: Any) -> Any:
    pins = {"civil.birth": "p"}
    entitlement = Entitlement(today, earlier, {OLD.grant_hash} if ended else set(), {"civil.birth": FORMS}, pins)
    return entitlement.view(delivery(1, data=dict(ROW)) | more, "civil.birth", written or FORMS, KEY, 3)


def test_a_delivery_of_todays_text_goes_out_as_it_is() -> None:
    assert view(OLD) == delivery(1, data=ROW)


def test_of_an_earlier_text_only_what_is_granted_now_in_the_same_form_goes_out() -> None:
    assert view(agreement(2, *ALL))["data"] == ROW
    assert view(agreement(2, *ALL[:2]))["data"] == {"x": 7, "p": "79"}
    assert view(agreement(2, *ALL[:2], GrantedField("y", Mask.LAST4)))["data"] == {"x": 7, "p": "79"}
    assert view(agreement(2, *ALL), written=FORMS | {"x": "long"})["data"] == {"p": "79", "y": "abcd"}


def test_what_was_masked_then_is_never_told_as_the_plain_value() -> None:
    """Nor does it say that a row passes a filter: a band is not the number."""
    masked = agreement(1, GrantedField("x", Mask.of("band10")), ALL[1], GrantedField("y", Mask.LAST4))
    earlier = {masked.grant_hash: masked}
    assert seen(agreement(2, *ALL), earlier)[0]["data"] == {"p": "79"}
    told, _ = seen(agreement(2, *ALL, where=(("x", ("7",)),)), earlier)
    assert (told["op"], told["data"]) == ("w", None)


def test_of_a_text_that_is_not_known_any_more_nothing_goes_out() -> None:
    told, key = seen(agreement(2, *ALL), {})
    assert (told["op"], told["data"], told["seq"], key) == ("w", None, 1, KEY)


def test_where_the_pin_was_open_and_is_no_more_not_even_keys_are_told() -> None:
    """They were the bus's own, and the same for every agency that sees PINs."""
    for earlier in ({OLD.grant_hash: OLD}, {}):
        told, key = seen(agreement(2, ALL[0], GrantedField("p", Mask.PSEUDONYM)), earlier)
        assert (told["op"], told["data"], told["seq"]) == ("w", None, 1)
        assert not {told["event_id"], told["row_key"], key} & {delivery(1)["event_id"], delivery(1)["row_key"], KEY}
        assert (told, key) == seen(agreement(2, ALL[0], GrantedField("p", Mask.PSEUDONYM)), earlier)
        assert key != seen(agreement(2, ALL[0]), earlier, seq=2)[1]
    hidden = agreement(1, ALL[0])
    told, key = seen(agreement(2, ALL[0], ALL[2]), {hidden.grant_hash: hidden})
    assert (told["op"], told["data"], key, told["row_key"]) == ("c", {"x": 7}, KEY, delivery(1)["row_key"])


def test_a_row_that_todays_filter_leaves_out_or_could_leave_out_is_withdrawn() -> None:
    assert view(agreement(2, *ALL, where=(("p", ("79",)),)))["data"] == ROW
    for where in ((("p", ("01",)),), (("hidden", ("1",)),)):
        told = view(agreement(2, *ALL, where=where))
        assert (told["op"], told["data"], told["seq"]) == ("w", None, 1)


def test_verdicts_that_are_asked_for_or_no_longer_shared_count_for_what_was_delivered_before() -> None:
    assert view(agreement(2, *ALL, verdicts=("MATCH",)))["op"] == "w"
    shared = agreement(2, *ALL, verdicts=("MATCH",), share_verdict=True)
    assert view(shared, verdict="MATCH")["verdict"] == "MATCH"
    assert view(shared, verdict="MISMATCH")["op"] == "w"
    assert view(agreement(2, *ALL), verdict="MATCH")["verdict"] is None
    assert view(agreement(2, *ALL), verdict="MATCH", op="d", data=None) == delivery(1, op="d", data=None)


def test_of_a_text_that_was_taken_back_or_a_dataset_that_is_open_no_more_nothing_goes_out() -> None:
    elsewhere = dataclasses.replace(agreement(2), grants=(Grant("civil.death", ()),))
    for told in (view(agreement(2, *ALL), ended=True), view(elsewhere)):
        assert (told["op"], told["data"], told["verdict"]) == ("w", None, None)


# -- streams


@pytest.mark.parametrize(("taken", "reason"), [(0, "slow"), (3, "slow"), (None, "ended")])
def test_a_reader_who_takes_nothing_is_cut_off_and_nothing_is_read_ahead_for_him(taken: int | None, reason: str) -> None:
    made, told = [], list[str]()

    async def chunks() -> Any:
        for number in range(10):
            made.append(number)
            yield b"x"

    async def run() -> None:
        sent = 0

        async def send(_: Any) -> None:
            nonlocal sent
            sent += 1
            if taken is not None and sent > taken:
                await asyncio.Event().wait()

        async def receive() -> Any:
            await asyncio.Event().wait()

        await streams.Stream(chunks(), lambda why, _: told.append(why), slow_seconds=0.05)({}, receive, send)

    asyncio.run(asyncio.wait_for(run(), 5))
    assert told == [reason]
    assert len(made) == (10 if taken is None else taken)


@pytest.mark.parametrize("taken", [0, 1, 3, None])
def test_an_answer_is_sent_in_pieces_and_its_place_is_given_back_when_it_is_taken_or_nobody_takes_it(taken: int | None) -> None:
    content = bytes(range(256)) * 1_000
    got: list[Any] = []
    ended: list[int] = []

    async def send(message: Any) -> None:
        if taken is not None and len(got) >= taken:
            await asyncio.Event().wait()
        assert not ended
        got.append(message)

    async def receive() -> Any:
        raise AssertionError

    asyncio.run(Pieces(content, lambda: ended.append(1), slow_seconds=0.05)({}, receive, send))
    assert ended == [1]
    body = b"".join(message.get("body", b"") for message in got)
    assert body == content if taken is None else len(got) == taken
    assert all(len(message.get("body", b"")) <= 65_536 for message in got)
    if taken is None:
        assert dict(got[0]["headers"])[b"content-length"] == str(len(content)).encode()
        assert [message["more_body"] for message in got[1:]] == [True] * (len(got) - 2) + [False]


def test_a_reader_who_leaves_ends_his_stream() -> None:
    told = list[str]()

    async def chunks() -> Any:
        await asyncio.Event().wait()
        yield b""

    async def run() -> None:
        async def send(_: Any) -> None:
            pass

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        await streams.Stream(chunks(), lambda why, _: told.append(why))({}, receive, send)

    asyncio.run(asyncio.wait_for(run(), 5))
    assert told == ["left"]


def test_a_live_place_is_none_of_a_snapshot() -> None:
    assert not Cursor({0: Place(0, 0)}).snapshot
    assert Cursor({0: Place(0, 0), 1: Place(0, 0, 5)}).snapshot
    assert LIVE < 0
