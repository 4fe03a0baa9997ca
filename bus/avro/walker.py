"""Walkers: generated Python that steps over one Avro datum and notes where wanted fields begin and end.

Nothing is decoded. The position only ever grows, so a walk that would leave the record ends in an IndexError or beyond the
record's end, and both are Malformed: a walker never reads what is not there. Accepted are canonical encodings only:
shortest integers, indices in range, no negative length, valid UTF-8, booleans 0 or 1, no trailing bytes.
The cost is linear in the record's length: every loop turn consumes a byte or an item of a budget, and depth is bounded.

In generated code `b` is the record, `i` the position; variables `i_<path>` are places in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bus.avro import varint
from bus.avro.dataset import SchemaError
from bus.avro.emitter import MAX_EMPTY_ITEMS, Emitter
from bus.avro.frame import Malformed

RUNTIME: dict[str, Any] = {
    "Malformed": Malformed,
    "skip_length": varint.skip_length,
    "skip_text_length": varint.skip_text_length,
    "read_long": varint.decode,
}
"""What generated code calls."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk as source, to be put into a function that has `b` and `i`; afterwards `i` must be `len(b)`.

    The lines may raise Malformed, IndexError and UnicodeDecodeError; all three mean Malformed.
    """

    lines: list[str]
    functions: list[str]
    """Module-level source that the lines call."""
    spans: dict[str, tuple[str, str]]
    """Wanted path -> variables with its start and end. They are set only where the records around it are present."""
    branches: dict[str, str]
    """Path of a nullable record with wanted fields -> variable with its branch: 2 × the index in the union."""
    constants: dict[str, Any]
    """Names the source uses, beside RUNTIME."""


def walk_source(schema: Any, wanted: Iterable[str]) -> Walk:
    """The walk of one datum, noting the dotted paths `wanted`. Raises SchemaError for a path that the schema lacks."""
    made = Emitter(schema, frozenset(wanted))
    made.datum(schema, "", "")
    made.close_text()
    made.flush()
    if missing := sorted(made.wanted - made.spans.keys()):
        raise SchemaError(f"no such field, or within an array, map or recursive type: {', '.join(missing)}")
    setup = [f"z=[{MAX_EMPTY_ITEMS}]"] if made.functions else []
    return Walk(setup + made.lines, list(made.functions.values()), made.spans, made.branches, made.constants)


def compile_end(schema: Any, start: int) -> Callable[[bytes], int]:
    """end(record) -> where the datum ends that begins at `start`; more may follow. Raises Malformed as a walker does."""
    walk = walk_source(schema, ())
    body = ["try:", *indent([f"i={start}", *walk.lines], 1), "except (IndexError, UnicodeDecodeError): raise Malformed from None"]
    body += ["if i > len(b): raise Malformed", "return i"]
    source = "\n".join([*walk.functions, "def end(b):", *indent(body, 1)])
    scope = RUNTIME | walk.constants
    exec(compile(source, "<end>", "exec"), scope)  # noqa: S102 the source is ours, made from a schema file alone
    made: Callable[[bytes], int] = scope["end"]
    return made


def compile_walker(schema: Any, wanted: Iterable[str], start: int = 0) -> Callable[[bytes], dict[str, tuple[int, int] | None]]:
    """walk(record) -> path -> (start, end), or None where a record around the field is null. The walk begins at `start`.

    Raises Malformed for bytes that are not one datum of the schema in canonical form.
    """
    walk = walk_source(schema, wanted)
    found = ", ".join(f"{path!r}: ({a}, {e}) if {a} >= 0 else None" for path, (a, e) in walk.spans.items())
    places = sorted({v for span in walk.spans.values() for v in span})
    preset = [" = ".join([*places, "-1"])] if places else []
    body = [
        "try:",
        *indent([f"i={start}", *walk.lines], 1),
        "except (IndexError, UnicodeDecodeError): raise Malformed from None",
    ]
    body += ["if i != len(b): raise Malformed", f"return {{{found}}}"]
    source = "\n".join([*walk.functions, "def walk(b):", *indent(preset + body, 1)])
    scope = RUNTIME | walk.constants
    exec(compile(source, "<walker>", "exec"), scope)  # noqa: S102 the source is ours, made from a schema file alone
    made: Callable[[bytes], dict[str, tuple[int, int] | None]] = scope["walk"]
    return made


def indent(lines: Iterable[str], depth: int) -> list[str]:
    return [" " * depth + line for line in lines]
