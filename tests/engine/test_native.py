"""The kernel's own laws. That it does what the generated Python does, every test of a plan shows (`worlds.both`)."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.agreement import Grant, GrantedField
from bus.engine import native
from bus.engine.plan import Record, Secrets, compile_plan
from tests.engine.test_plan_semantics import MEMBER, PEOPLE, REGISTER, ROW, agreement, dataset, handle
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
