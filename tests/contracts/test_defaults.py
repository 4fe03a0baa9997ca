"""Defaults are judged in work that grows with what the schema says, and as the words of the specification judge them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contracts import bounded
from bus.contracts.defaults import Defaults, Owner
from bus.contracts.parsing import InvalidSchema, parse

Row = dict[str, Any]


def record(name: str, *fields: Row) -> Row:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name: str, avro: Any, *default: Any) -> Row:
    return {"name": name, "type": avro, **({"default": default[0]} if default else {})}


def branching(depth: int) -> Row:
    """Two records, each of which may hold either, and a default whose innermost value fits neither."""
    value: Any = 1
    for _ in range(depth):
        value = {"x": value}
    return record("A", field("x", ["A", record("B", field("x", ["A", "B"]))], value))


def wide(count: int) -> Row:
    """Three records of many fields each, with the default {}: each leaves out all fields of the next one."""

    def layer(name: str, inner: Any) -> Row:
        first, *others = [field(f"f{n}", inner if n == 0 else inner["name"], {}) for n in range(count)]
        return record(name, first, *others)

    return layer("A", layer("B", layer("C", record("D"))))


@pytest.mark.parametrize("depth", [2, 40, 55])
def test_a_value_is_held_against_each_branch_once_however_deep(depth: int) -> None:
    with bounded.calls(20_000), pytest.raises(InvalidSchema, match="is not an object"):
        parse(branching(depth))


def test_what_defaults_leave_out_is_followed_once_for_all_of_them() -> None:
    """Ten times the fields, ten times the work."""
    for count in (160, 1_600):
        with bounded.calls(1_000 * count):
            parse(wide(count))


def test_a_circle_is_found_by_one_that_stands_in_it() -> None:
    """The field that is named is in the circle, not one that only leads to it."""
    circle = record("B", field("c", record("C", field("b", "B", {})), {}))
    with pytest.raises(InvalidSchema, match=r"'(b|c)' contains itself"):
        parse(record("A", field("first", circle), field("a", "B", {})))


def test_values_inside_values_end_somewhere() -> None:
    value: Any = {}
    for _ in range(400):
        value = {"next": value}
    schema = record("A", field("next", {"type": "map", "values": "A"}), field("x", "A", value))
    with pytest.raises(InvalidSchema, match="values inside values"):
        parse(schema)


@pytest.mark.parametrize(("avro", "number"), [("double", 10**400), ("double", -(10**400)), ("float", 1e300), ("float", 2**200)])
def test_a_number_that_its_type_does_not_hold_is_no_default(avro: str, number: float) -> None:
    with pytest.raises(InvalidSchema, match="precision"):
        parse(record("A", field("x", avro, number)))


def fits(value: Any, avro: Any, named: Row) -> bool:
    """Literally: a union's default is of its first type; a record's says each field that has no default of its own."""
    if isinstance(avro, list):
        return fits(value, avro[0], named)
    if avro in ("int", "null"):
        return value is None if avro == "null" else isinstance(value, int)
    definition = named[avro] if isinstance(avro, str) else avro
    if definition["type"] == "array":
        return isinstance(value, list) and all(fits(one, definition["items"], named) for one in value)
    return isinstance(value, dict) and all(
        fits(value[f["name"]], f["type"], named) if f["name"] in value else "default" in f for f in definition["fields"]
    )


def ends(value: Any, avro: Any, named: Row, start: Owner, seen: frozenset[Owner]) -> bool:
    """Whether writing a default out, with defaults inside defaults, never comes to `start` again."""
    if isinstance(avro, list):
        return ends(value, avro[0], named, start, seen)
    definition = named.get(avro, {}) if isinstance(avro, str) else avro
    if definition.get("type") == "array":
        return all(ends(one, definition["items"], named, start, seen) for one in value)
    for f in definition.get("fields", ()):
        owner = definition["name"], f["name"]
        if f["name"] in value:
            if not ends(value[f["name"]], f["type"], named, start, seen):
                return False
        elif owner == start or (owner not in seen and not ends(f["default"], f["type"], named, start, seen | {owner})):
            return False
    return True


NAMES = ["A", "B", "C"]
PLAIN = st.sampled_from(["int", *NAMES, *NAMES])
LISTS = PLAIN | PLAIN.map(lambda t: {"type": "array", "items": t})
TYPES: Any = LISTS | LISTS.map(lambda t: ["null", t]) | LISTS.map(lambda t: [t, "null"])
VALUES = st.recursive(
    st.none() | st.integers(0, 1),
    lambda of: st.lists(of, max_size=2) | st.dictionaries(st.sampled_from(["x", "y"]), of, max_size=2),
    max_leaves=4,
)
FIELDS = st.lists(st.tuples(TYPES, st.booleans(), VALUES), min_size=2, max_size=2)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(FIELDS, min_size=3, max_size=3))
def test_defaults_are_judged_as_the_words_of_the_specification_judge_them(columns: list[list[tuple[Any, bool, Any]]]) -> None:
    """Three records that refer to each other in any way: the quick answer is that of writing everything out."""
    made = {
        name: record(name, *(field(f, t, *([v] if has else [])) for f, (t, has, v) in zip("xy", listed, strict=True)))
        for name, listed in zip(NAMES, columns, strict=True)
    }
    looking = Defaults(made)
    owned = {(name, f["name"]): f for name, definition in made.items() for f in definition["fields"] if "default" in f}
    unfit = {owner for owner, f in owned.items() if not fits(f["default"], f["type"], made)}
    assert {owner for owner, f in owned.items() if looking.misfit(f["default"], f["type"])} == unfit
    if not unfit:
        endless = {o for o, f in owned.items() if not ends(f["default"], f["type"], made, o, frozenset())}
        found = looking.endless(owned)
        assert found in endless if found else not endless
