"""Verdicts: the cases that other checkers have got wrong, each by its name, and what every verdict says besides yes or no."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus.avro.dataset import SchemaError
from bus.contracts.compatibility import Direction, Level, Problem, check, parse, reads


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    listed = [f if isinstance(f, dict) else {"name": f[0], "type": f[1], **(f[2] if len(f) > 2 else {})} for f in fields]
    return {"type": "record", "name": name, "namespace": "t", "fields": listed, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def found(level: Level, new: Any, *earlier: Any) -> list[tuple[str, str, int, Direction]]:
    problems = check(level, parse(new), {n: parse(e) for n, e in enumerate(earlier, start=1)})
    return [(p.type, p.location, p.version, p.direction) for p in problems]


F1, F2 = ("f1", "string"), ("f2", "string")
UNION_1 = [record(F1)]
UNION_2 = [record(F1, ("f2", "string", {"default": ""}))]
UNION_3 = [record(F1, F2)]


class TestKnownWrongVerdicts:
    def test_records_in_unions_are_looked_into(self) -> None:
        """confluentinc/schema-registry#253: a field without default, added to a record inside a union, passed."""
        assert found(Level.BACKWARD, UNION_2, UNION_1) == []
        missing = ("READER_FIELD_MISSING_DEFAULT_VALUE", "/0/fields/1", 1, Direction.BACKWARD)
        assert found(Level.BACKWARD, UNION_3, UNION_1) == [missing]
        assert found(Level.BACKWARD, UNION_3, UNION_2) == []
        assert found(Level.BACKWARD_TRANSITIVE, UNION_3, UNION_1, UNION_2) == [missing]

    def test_a_new_enum_symbol_is_not_forward_compatible(self) -> None:
        """confluentinc/schema-registry#601: an earlier reader meets a symbol that it does not know."""
        old, new = record(("e", enum("A", "B"))), record(("e", enum("A", "B", "C")))
        assert found(Level.FORWARD, new, old) == [("MISSING_ENUM_SYMBOLS", "/fields/0/type/symbols", 1, Direction.FORWARD)]
        assert found(Level.BACKWARD, new, old) == []
        assert found(Level.BACKWARD, old, new) == [("MISSING_ENUM_SYMBOLS", "/fields/0/type/symbols", 1, Direction.BACKWARD)]

    def test_a_default_symbol_stands_for_unknown_ones_and_a_fields_default_does_not(self) -> None:
        """The enum's own default, not the field's, is what a reader takes for a symbol that it does not know."""
        with_default = record(("e", enum("A", "B", default="A")))
        assert found(Level.FULL, record(("e", enum("A", "B", "C", default="A"))), with_default) == []
        fields_default = record(("e", enum("A", "B"), {"default": "A"}))
        assert found(Level.FORWARD, record(("e", enum("A", "B", "C"), {"default": "A"})), fields_default)

    def test_fields_added_to_and_taken_from_a_unions_record(self) -> None:
        """confluentinc/schema-registry#1142: three versions of a record in a union of one, all accepted."""

        def message(*names: str) -> Any:
            return record(("Message", [record(*((n, "string") for n in names), name="case1")]), name="aschema")

        one, three = message("field1"), message("field1", "field2", "field3")
        missing = "READER_FIELD_MISSING_DEFAULT_VALUE"
        assert found(Level.BACKWARD, three, one) == [
            (missing, "/fields/0/type/0/fields/1", 1, Direction.BACKWARD),
            (missing, "/fields/0/type/0/fields/2", 1, Direction.BACKWARD),
        ]
        assert found(Level.BACKWARD, one, three) == []
        assert {d for *_, d in found(Level.FULL, one, three)} == {Direction.FORWARD}

    @pytest.mark.parametrize("default", ["a", "null", {"string": "a"}])
    def test_a_unions_default_is_of_its_first_type(self, default: Any) -> None:
        """confluentinc/schema-registry#4112: accepted by the registry, refused or misread by readers."""
        with pytest.raises(SchemaError, match=r"/fields/0/default.*is not null"):
            parse(record(("u", ["null", "string"], {"default": default})))
        with pytest.raises(SchemaError, match="is not a text"):
            parse(record(("u", ["string", "null"], {"default": None})))
        parse(record(("u", ["string", "null"], {"default": "a"})))

    def test_a_null_default_of_an_optional_field_is_a_default(self) -> None:
        assert found(Level.FULL_TRANSITIVE, record(F1, ("n", ["null", "string"], {"default": None})), record(F1)) == []


def test_each_level_looks_at_its_versions_in_its_directions() -> None:
    nothing, gone, wide = record(), record(F1), record(F1, F2)
    seen = {level: {(v, d.value) for *_, v, d in found(level, wide, nothing, gone)} for level in Level}
    assert seen == {
        Level.NONE: set(),
        Level.BACKWARD: {(2, "BACKWARD")},
        Level.BACKWARD_TRANSITIVE: {(2, "BACKWARD"), (1, "BACKWARD")},
        Level.FORWARD: set(),
        Level.FORWARD_TRANSITIVE: set(),
        Level.FULL: {(2, "BACKWARD")},
        Level.FULL_TRANSITIVE: {(2, "BACKWARD"), (1, "BACKWARD")},
    }
    turned = {level: {(v, d.value) for *_, v, d in found(level, nothing, wide, gone)} for level in Level}
    assert turned[Level.FORWARD] == {(2, "FORWARD")}
    assert turned[Level.FORWARD_TRANSITIVE] == {(2, "FORWARD"), (1, "FORWARD")}


def test_a_problem_says_who_cannot_read_what_and_where() -> None:
    (problem,) = check(Level.BACKWARD, parse(record(("n", "int"))), {7: parse(record(("n", "string")))})
    assert problem == Problem(
        "TYPE_MISMATCH", "the reader wants int, the writer has string", "/fields/0/type", 7, Direction.BACKWARD
    )
    assert str(problem).endswith("(the new schema cannot read version 7)")


def test_a_referenced_schema_counts_as_part_of_the_schema() -> None:
    """Only the reference changes: the verdict sees it, and a type used twice is defined once."""
    user = record(("a", "t.Address"), ("b", ["null", "Address"]))
    old = parse(user, [record(("city", "string"), name="Address")])
    new = parse(user, [record(("city", "int"), name="Address")])
    assert [r.location for r in reads(new, old)] == ["/fields/0/type/fields/0/type"]
    assert reads(old, old) == ()
    with pytest.raises(SchemaError, match="unknown type"):
        parse(user)


def test_a_type_without_namespace_stays_apart_from_its_namesake() -> None:
    """A type of the null namespace inside a record of another is not a type of that namespace."""
    bare = {"type": "fixed", "name": "X", "namespace": "", "size": 2}
    spaced = {"type": "fixed", "name": "X", "size": 3}
    schema = record(("a", bare), ("b", spaced), ("c", "t.X"))
    assert reads(parse(schema), parse(schema)) == ()


def test_recursive_types_are_read_and_compared() -> None:
    node: Any = record(("next", ["null", "t.R"]), ("v", "int"))
    longer: Any = record(("next", ["null", "t.R"]), ("v", "string"))
    assert reads(parse(node), parse(node)) == ()
    assert [r.type for r in reads(parse(longer), parse(node))] == ["TYPE_MISMATCH"]


def test_an_alias_reads_a_field_by_its_old_name_and_two_sources_are_refused() -> None:
    old, new = record(("a", "int"), ("b", "int")), record(("c", "int", {"aliases": ["a"]}))
    assert reads(parse(new), parse(old)) == ()
    both = record(("c", "int", {"aliases": ["a", "b"]}))
    assert [r.type for r in reads(parse(both), parse(old))] == ["AMBIGUOUS_ALIAS"]


DEEP = "/fields/0/type/fields/0/default"


@pytest.mark.parametrize(
    ("schema", "place", "reason"),
    [
        ("{", "/", "not JSON"),
        ('{"type": "int", "x": NaN}', "/", "NaN"),
        (["unheard"], "/0", "unknown type"),
        (3, "/", "a type is"),
        ({}, "/", "'type' is missing"),
        ([], "/", "a union of nothing"),
        (["int", ["null"]], "/1", "directly inside a union"),
        (["int", {"type": "int"}], "/1", "twice"),
        ([enum("A"), "E"], "/1", "twice"),
        ({"type": "array"}, "/", "'items'"),
        ({"type": "map", "values": "?"}, "/values", "unknown type"),
        (record(("1a", "int")), "/fields/0/name", "no Avro name"),
        (record(("số", "int")), "/fields/0/name", "no Avro name"),
        (record(F1, F1), "/fields/1", "'f1' already"),
        (record(("a", record(name="R"))), "/fields/0/type/name", "defined twice"),
        (record(("a", "int", {"default": "1"})), "/fields/0/default", "whole number"),
        (record(("a", "int", {"default": True})), "/fields/0/default", "whole number"),
        (record(("a", "int", {"default": 2**31})), "/fields/0/default", "32 bits"),
        (record(("a", record(("b", "int"), name="S"), {"default": {}})), "/fields/0/default", "lacks the field 'b'"),
        (record(("a", ["null", "int"], {"default": 1})), "/fields/0/default", "put that type first"),
        (record(("a", "t.R", {"default": {}})), "/fields/0/default", "without end"),
        (record(("a", record(("b", "t.R", {"default": {}}), name="S"), {"default": {}})), DEEP, "without end"),
        (record(("a", "t.R", {"default": {}}), ("b", "int")), "/fields/0/default", "lacks the field 'b'"),
        (record(("a", "t.S"), ("b", record(name="S"))), "/fields/0/type", "unknown type"),
        (record(("a", "bytes", {"default": "ữ"})), "/fields/0/default", "U\\+00FF"),
        (record(("a", "int", {"order": "up"})), "/fields/0/order", "ascending"),
        (record(("a", {"type": "fixed", "name": "F", "size": "2"})), "/fields/0/type", "'size'"),
        (enum("A", "A"), "/symbols", "twice"),
        (enum("A", default="B"), "/default", "not one of its symbols"),
        (enum(), "/", "at least one"),
        ({"type": "record", "name": "int", "fields": []}, "/name", "primitive"),
        ({"type": "record", "name": "a..b", "fields": []}, "/name", "no Avro name"),
        ({"type": "record", "name": "R"}, "/", "'fields'"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(schema: Any, place: str, reason: str) -> None:
    from bus.contracts.parsing import InvalidSchema

    with pytest.raises(InvalidSchema, match=reason) as refusal:
        parse(schema)
    assert refusal.value.place == place


def test_a_schema_of_hostile_depth_is_refused_and_nothing_overflows() -> None:
    deep: Any = "int"
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(SchemaError, match="types inside types"):
        parse(deep)
    with pytest.raises(SchemaError):
        parse('{"type":"array","items":' * 100_000)


def test_a_schema_that_stands_for_too_many_values_is_judged_in_no_time() -> None:
    """Each record holds the next one twice: two to the power of fifty values in a text of three kilobytes."""
    inner: Any = record(("v", "int"), name="L50")
    for level in reversed(range(50)):
        inner = record(("a", inner), ("b", f"t.L{level + 1}"), name=f"L{level}")
    other = parse(json.loads(json.dumps(inner).replace('"int"', '"string"')))
    assert reads(parse(inner), parse(inner)) == ()
    assert [r.type for r in reads(other, parse(inner))] == ["TYPE_MISMATCH"]


def test_many_symbols_in_lists_in_records_are_judged_in_no_time() -> None:
    """Values made of values: their number must not multiply with each level."""
    inner: Any = record(("e", enum(*(f"S{n}" for n in range(300)))), ("l", {"type": "array", "items": "t.E"}), name="M")
    for level in range(10):
        inner = record(("l", {"type": "array", "items": inner}), ("e", "t.E"), name=f"M{level}")
    assert reads(parse(inner), parse(inner)) == ()
