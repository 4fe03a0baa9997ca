"""The kernel's own laws. That it does what the generated Python does, every test of a plan shows (`worlds.both`)."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import sysconfig
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.agreement import Grant, GrantedField, Mask
from bus.core.identity import agreement_secret, pseudonym
from bus.core.matching import same_name
from bus.engine import native
from bus.engine.generate import Generator
from bus.engine.plan import Record, Secrets, compile_plan
from tests.engine.reference import Known
from tests.engine.test_plan_semantics import MEMBER, PEOPLE, PIN, REGISTER, ROW, agreement, dataset, handle
from tests.engine.worlds import AGREEMENT_SECRET, MAX_RECORD_BYTES, PERSON_SECRET, Stage

GRANT = Grant(MEMBER.name, (GrantedField("pin"), GrantedField("name"), GrantedField("register.ward")), share_verdict=True)
STAGE = Stage(MEMBER, REGISTER, (agreement(GRANT),), PEOPLE)
needs_kernel = pytest.mark.skipif(
    not native.available(), reason="no C compiler, or no headers of Python, when this was installed"
)


def test_the_kernel_is_there_where_it_could_be_built() -> None:
    """Else a mistake in it that does not compile would go unnoticed: an optional extension fails silently."""
    buildable = shutil.which("cc") and Path(sysconfig.get_paths()["include"], "Python.h").exists()
    assert native.available() or not buildable


@pytest.mark.parametrize("more", [{"type": "array", "items": "string"}, ["null", "string", "long"]])
def test_rows_that_the_kernel_cannot_walk_are_treated_all_the_same(more: Any) -> None:
    of = dataset("insurance.member", MEMBER.fields | {"more": more}, list(MEMBER.people))
    on = Stage(of, REGISTER, (agreement(Grant(of.name, (GrantedField("pin"), GrantedField("name")))),), PEOPLE)
    row = ROW | {"more": ["a"] if isinstance(more, dict) else None}
    (delivery,), outcomes, _ = handle(on, "c", None, row)
    assert (outcomes, delivery["data"]) == (["DELIVERED"], {"pin": ROW["pin"], "name": ROW["name"]})


@needs_kernel
@given(st.data())
def test_a_damaged_record_of_the_register_is_refused_or_read_within_its_bounds(data: st.DataObject) -> None:
    """Never beyond it: what is delivered is made of the event and of these bytes."""
    secrets = Secrets(PERSON_SECRET, AGREEMENT_SECRET)
    plan = compile_plan(MEMBER, REGISTER, STAGE.world.agreements, STAGE.catalogue, secrets, MAX_RECORD_BYTES)
    value, key = STAGE.change("c", None, ROW)
    whole = STAGE.replica[key]
    at = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(max_size=8))
    bad = data.draw(st.sampled_from([whole[:at], whole[:at] + piece + whole[at + len(piece) :], piece]))
    out: list[Record] = []
    try:
        plan.handle(value, key, {key: bad}.get, [0], [True], out)
    except ValueError:  # Malformed is one, too: another PIN than the row's
        assert out == []
    else:
        assert [r[2] for r in out] == [key, key]


MANY = 300
"""Enough for an index on each column, for several words of a set, and for a tally longer than other keys that are remembered."""
PROVINCES = [f"{n:02}" for n in range(40)]


def _many() -> Stage:
    """Agreements that ask for one province, several, a name, both, a verdict, or nothing at all."""
    made = []
    for n in range(MANY):
        where: tuple[tuple[str, tuple[str, ...]], ...] = (("province", (PROVINCES[n % 40],)),)
        if n % 7 == 0:
            where = (("province", tuple(PROVINCES[n % 40 :])),)
        elif n % 7 == 1:
            where = (("name", (f"N{n % 5}",)), ("province", tuple(PROVINCES[:20])))
        elif n % 13 == 0:
            where = ()
        fields = (GrantedField("pin", Mask.PSEUDONYM if n % 2 else Mask.PLAIN), GrantedField("salary"))
        verdicts = ("MATCH",) if n % 5 == 0 else ()
        made.append(agreement(Grant(MEMBER.name, fields, where, verdicts, n % 3 == 0), f"agency-{n}.data"))
    return Stage(MEMBER, REGISTER, tuple(made), PEOPLE)


CROWD = _many()
ROWS = st.builds(
    lambda province, name, salary: ROW | {"province": province, "name": name, "salary": salary},
    st.sampled_from([*PROVINCES, "99"]),
    st.sampled_from(["N0", "N1", "N4", ROW["name"]]),
    st.integers(0, 2),
)


@given(st.lists(st.tuples(st.sampled_from("cud"), ROWS, ROWS), min_size=1, max_size=4), st.data())
def test_an_index_of_filters_decides_as_trying_each_does(events: list[tuple[str, Any, Any]], data: st.DataObject) -> None:
    """`CROWD` compares the kernel with the Python, which tries each. Whether the same tuple says what is in force, another or a
    list, none of it is remembered wrongly."""
    late = data.draw(st.sets(st.integers(0, MANY - 1), max_size=3))
    masks: list[Any] = [(True,) * MANY, tuple(n not in late for n in range(MANY)), [n not in late for n in range(MANY)]]
    tallies: dict[bytes, int] = {}
    expected = Counter[tuple[str, str]]()
    for op, before, after in events:
        value, key = CROWD.change(op, None if op == "c" else before, None if op == "d" else after)
        force = data.draw(st.sampled_from(masks))
        tally = CROWD.plan.handle(value, key, CROWD.replica.get, CROWD.seqs, force, [])
        tallies[tally] = tallies.get(tally, 0) + 1
        expected.update(CROWD.plan.outcomes(tally))
    verdicts, outcomes = CROWD.plan.sums(tallies)
    assert outcomes == expected, "the sums are those of each event's own outcomes"
    assert verdicts.total() == len(events)


def test_an_agreement_is_tried_only_for_the_values_it_asks_for() -> None:
    """Where many filters name a column; a few are tried each time, for that is cheaper than looking the value up."""

    def subscriptions(*filters: dict[str, set[bytes]]) -> Any:
        made = [SimpleNamespace(projection=SimpleNamespace(conditions=tuple(one.items()))) for one in filters]
        return SimpleNamespace(subscriptions=made)

    many: list[dict[str, set[bytes]]] = [{"a": {b"%d" % n}, "b": {b"x", b"y"}} for n in range(native.WORTH_AN_INDEX)]
    always, found = native.indexes(subscriptions({}, *many, {"b": {b"x"}}), ["a", "b"])
    assert struct.unpack("=2i", always) == (0, len(many) + 1), "the one without a filter, and the only one on b"
    assert found == ((0, {b"%d" % n: struct.pack("=i", n + 1) for n in range(len(many))}),)


def test_the_decisions_of_hundreds_of_agreements_are_remembered() -> None:
    """Else each event would write all of them anew, a hundred times what the rest of it costs."""
    made = Generator(MEMBER, REGISTER, [], 1, 2, PERSON_SECRET, MAX_RECORD_BYTES)
    agreed: Any = SimpleNamespace(agreement=agreement(GRANT))
    memo = dataclasses.replace(made, subscriptions=[agreed] * MANY).memo()
    tallies = [bytes([1, *(int(n == which) for n in range(MANY))]) for which in range(MANY)]
    assert [memo[t] for t in tallies]
    assert len(memo) == MANY


LETTERS = st.sampled_from("aAĂằỆệđĐıIİßẞſsΣςσÅå\u212b\u0300\u1e9e\u1f80\u1f88 \u2126\U00010400\U00010428")
NAMES = st.one_of(st.text(LETTERS, max_size=6), st.text(max_size=5))
AS_WRITTEN = (str, str.upper, str.lower, str.title, str.casefold, str.swapcase)


@given(NAMES, st.sampled_from(AS_WRITTEN), st.one_of(st.none(), NAMES))
def test_names_that_differ_in_case_alone_agree_and_others_are_judged_by_the_rule(
    known: str, write: Any, other: str | None
) -> None:
    """The kernel folds what it can and asks Python for the rest; the verdict is the rule's either way."""
    people = {PIN: Known(PEOPLE[PIN].row | {"full_name": known}, 1)}
    name = write(known) if other is None else other
    on = Stage(MEMBER, REGISTER, (agreement(GRANT),), people)
    *_, verified = handle(on, "c", None, ROW | {"name": name})
    assert verified["verification"][0]["status"] == ("MATCH" if same_name(known, name) else "MISMATCH")


@given(st.one_of(st.just(""), st.text(max_size=20), st.text(min_size=100, max_size=300)))
def test_a_pseudonym_is_that_of_the_text_whatever_its_length(text: str) -> None:
    """Empty, within one block of the hash, and over several: as bus.core.identity has it, of a nullable column or not."""
    fields = (GrantedField("name", Mask.PSEUDONYM), GrantedField("note", Mask.PSEUDONYM))
    of = dataset("insurance.member", MEMBER.fields | {"note": ["null", "string"]}, list(MEMBER.people))
    for note in (text, None):
        on = Stage(of, REGISTER, (agreement(Grant(of.name, fields)),), PEOPLE)
        (delivery,), _, _ = handle(on, "c", None, ROW | {"name": text, "note": note})
        secret = agreement_secret(AGREEMENT_SECRET, "tax.people")
        made = pseudonym(secret, text.encode()).hex()
        assert delivery["data"] == {"name": made, "note": None if note is None else made}
