"""The agreements' topic without a broker: a set is what its index says, or it is nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.avro import dataset
from bus.config import Settings
from bus.core.agreement import Agreement
from bus.engine import agreement_log, agreements
from bus.engine.agreement_log import INDEX, Malformed, Reading
from bus.engine.lanes import Lane, LaneState, Past
from bus.engine.policy import Policy

FOUND = agreements.load(Settings(), dataset.load(Settings().schemas))
NAMES = sorted(FOUND)
Set = frozenset[str]


def with_past(one: Agreement, past: bool) -> Agreement:
    made = replace(one, past=past)
    return replace(made, grant_hash=agreements.grant_hash(made))


@given(st.sampled_from(NAMES), st.booleans(), st.one_of(st.none(), st.integers(0, 2**53)))
def test_the_canonical_form_reads_back_as_the_agreement(name: str, past: bool, until: int | None) -> None:
    one = with_past(replace(FOUND[name], valid_until_ms=until), past)
    assert agreements.parse(agreements.canonical(one)) == one


def test_an_agreement_without_a_past_keeps_the_hash_it_had_before_there_were_pasts() -> None:
    assert all(b'"past"' not in agreements.canonical(one) for one in FOUND.values())
    one = FOUND[NAMES[0]]
    assert with_past(one, True).grant_hash != with_past(one, False).grant_hash == one.grant_hash


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)


@given(st.data(), st.sampled_from(NAMES), JSON)
def test_anything_else_is_no_agreement(data: st.DataObject, name: str, other: Any) -> None:
    """One place of a canonical form holds something else: it is refused, or the result has exactly this canonical form."""
    content = json.loads(agreements.canonical(FOUND[name]))
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = other
    value = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "replace")
    try:
        made = agreements.parse(value)
    except ValueError:
        return
    assert agreements.canonical(made) == value


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b"\xff", b'{"id": "a.b"}', b"[" * 100_000])
def test_bytes_that_are_no_agreement_at_all(value: bytes) -> None:
    with pytest.raises(ValueError, match="not an agreement"):
        agreements.parse(value)


def publication(before: Set, after: Set) -> list[tuple[bytes, bytes | None]]:
    """As `publish` writes it."""
    gone: list[tuple[bytes, bytes | None]] = [(name.encode(), None) for name in sorted(before - after)]
    come = [(name.encode(), agreements.canonical(FOUND[name])) for name in sorted(after - before)]
    return [*gone, *come, (INDEX, agreement_log._index({name: FOUND[name] for name in after}))]


SETS = st.lists(st.frozensets(st.sampled_from(NAMES)), min_size=1, max_size=5)


@given(SETS, st.integers(0, 3))
def test_at_the_end_of_each_publication_the_topic_says_its_set_and_older_ones_can_be_looked_at(
    sets: list[Set], skipped: int
) -> None:
    reading, offset, ends = Reading(), 0, []
    for before, after in zip([frozenset[str](), *sets], sets, strict=False):
        ends.append(offset)
        for key, value in publication(before, after):
            reading.take(offset, key, value)
            offset += 1
        offset += 1 + skipped  # a commit marker, and what was aborted
        assert reading.newest(offset).agreements().keys() == after
    assert reading.newest(offset).version == offset
    older = list(reading.older())
    assert [said.agreements().keys() for said in older] == list(reversed(sets[:-1]))
    assert [said.version for said in older] == list(reversed(ends[1:]))
    reading.settle()
    assert reading.newest(offset).agreements().keys() == sets[-1]
    assert list(reading.older()) == []


@given(st.data(), st.frozensets(st.sampled_from(NAMES), min_size=1))
def test_a_set_that_lacks_a_record_or_has_one_too_many_is_malformed(data: st.DataObject, wanted: Set) -> None:
    records = publication(frozenset(), wanted)
    reading = Reading()
    for offset, (key, value) in enumerate(records):
        if key != records[data.draw(st.integers(0, len(records) - 1))][0] or data.draw(st.booleans()):
            reading.take(offset, key, value)
    said = reading.newest(99)
    if len(said.values) == len(wanted) and said.index is not None:
        assert said.agreements().keys() == wanted
        strange = data.draw(st.sampled_from([b"x", b"a.b", NAMES[0].encode()]))
        reading.take(50, strange, b"{}")
        said = reading.newest(99)
    with pytest.raises(Malformed):
        said.agreements()


def policy(asked: list[str], others: list[str]) -> Policy:
    listed = [Agreement(n, "a", "", "", (), 0, None, n.encode(), past=n in asked) for n in sorted({*asked, *others})]
    return Policy(tuple(listed), {}, 1, "r", 1, "d")


IDS = st.lists(st.sampled_from("abcd"), unique=True)
PASTS = st.dictionaries(st.sampled_from("abcd"), st.builds(Past, st.just({"t": 3}), st.booleans()))


@given(IDS, IDS, PASTS, st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)))
def test_a_past_goes_on_where_it_stopped_and_is_begun_by_nobody_who_has_delivered_already(
    asked: list[str], others: list[str], pasts: dict[str, Past], seqs: dict[str, int]
) -> None:
    made = policy(asked, others)
    lane = Lane.of(LaneState(seqs, {}, 0, "", pasts), tuple(a.id for a in made.agreements))
    carried = made.carry(lane)
    for name in "abcd":
        if name in pasts:
            assert carried[name] == (pasts[name] if name in asked else Past(pasts[name].next))
        elif name in asked and name in seqs:
            assert carried[name] == Past({}, live=True)
        else:
            assert name not in carried
    force = made.force_in(carried, made.force(5))
    held_back = {a.id for a, yes in zip(made.agreements, force, strict=True) if not yes}
    assert held_back == {name for name in asked if not carried.get(name, Past()).live}
