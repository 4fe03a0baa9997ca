"""Row converters as generated Python: one straight run over the columns of one table, without a loop or a dispatch.

Generated source names columns by their place only, so nothing a database or schema file says becomes code.
A converter returns (row, where the tuple ends, PIN, row key): `row` is the Avro record, `PIN` the subject's raw bytes
(empty where there is none), `row key` the Avro encodings of the primary key's columns, concatenated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from connectors.capture import encode
from connectors.capture.columns import Binding
from connectors.capture.errors import ProtocolError, Unconvertible

FromTuple = Callable[[bytes, int], tuple[bytes, int, bytes, bytes]]
FromPair = Callable[[bytes, int], tuple[tuple[bytes, bytes, bytes], tuple[bytes, bytes, bytes], int]]
"""((row, PIN, row key) before, the same after, where the tuples end)"""
FromLine = Callable[[bytes], tuple[bytes, bytes, bytes]]
"""As FromTuple, but of a line of COPY ... TO STDOUT; without the end."""

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_COPY_NULL = rb"\N"


class UnchangedValue(Exception):
    """A tuple leaves out a TOAST value that did not change: the caller fills it in from the old image."""


def _odd_kind(kind: int) -> Exception:
    return UnchangedValue() if kind == ord("u") else ProtocolError("unknown kind of column in a row message")


def unescape(value: bytes) -> bytes:
    """A COPY text value as it was before COPY escaped it."""
    return _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]), value)


_NAMES: dict[str, Any] = {
    "odd_kind": _odd_kind,
    "unescape": unescape,
    "Unconvertible": Unconvertible,
    "ProtocolError": ProtocolError,
    "LENGTH": encode.LENGTH,
    "PRESENT_LENGTH": encode.PRESENT_LENGTH,
    "NULL": encode.NULL,
    "PRESENT": encode.PRESENT,
    "COPY_NULL": _COPY_NULL,
    "NOTHING": b"",
    "long": encode.long,
    **encode.CONVERT,
    "BOOLEAN": encode.BOOLEAN,
    "DATES": encode.DATES,
}
_INLINE = {"integer": "long(int(v))", "boolean": "BOOLEAN[v]", "date": "DATES[v]"}
"""What saves a call; every other kind is a call of its converter."""


class Headers(dict[bytes, tuple[int, bytes]]):
    """The five bytes before a column's text, b't' and its length, -> (that plus five, what stands before it in Avro).

    One lookup instead of unpacking the length and encoding it again; lengths that are not looked up are worked out.
    """

    def __init__(self, before: bytes) -> None:
        super().__init__()
        self._before = before
        for n in range(_LOOKED_UP):
            self[b"t" + n.to_bytes(4, "big")] = (n + 5, before + encode.length(n))

    def __missing__(self, header: bytes) -> tuple[int, bytes]:
        if len(header) < 5:
            raise ProtocolError("a row ends within a column")
        n = int.from_bytes(header[1:], "big")
        return n + 5, self._before + encode.length(n)


_LOOKED_UP = 1024
_NAMES |= {"TEXT": Headers(b""), "PRESENT_TEXT": Headers(encode.PRESENT)}


def _converted(binding: Binding, place: int) -> list[str]:
    """Statements that turn the raw bytes `v` of a field that is not text into the pieces p<place>, c<place>."""
    kind, nullable = binding.kinds[place], binding.fields[place].nullable
    made = f"c{place} = " + _INLINE.get(kind, f"{kind}(v)")
    return [f"p{place} = PRESENT", made] if nullable else [made]


def _null(binding: Binding, place: int) -> str:
    if not binding.fields[place].nullable:
        return "raise Unconvertible"
    return f"p{place} = NULL; c{place} = NOTHING"


def _pieces(binding: Binding, place: int) -> list[str]:
    prefixed = binding.kinds[place] == "text" or binding.fields[place].nullable
    return [f"p{place}", f"c{place}"] if prefixed else [f"c{place}"]


def _result(binding: Binding) -> tuple[str, str, str]:
    row = ", ".join(piece for place in range(len(binding.fields)) for piece in _pieces(binding, place))
    key = " + ".join(piece for place in binding.key for piece in _pieces(binding, place))
    pin = "NOTHING" if binding.pin is None else f"c{binding.pin}"
    return f"NOTHING.join(({row},))", pin, key


def _indent(lines: Sequence[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def _function(name: str, arguments: str, body: list[str]) -> Callable[..., Any]:
    source = "\n".join([f"def {name}({arguments}):", *_indent(body, 1)])
    space = dict(_NAMES)
    exec(compile(source, f"<{name}>", "exec"), space)  # noqa: S102  our own text: places and kinds, no outside names
    made: Callable[..., Any] = space[name]
    return made


def from_tuple(binding: Binding, relation: Sequence[str]) -> FromTuple:
    """A converter for pgoutput tuples whose columns are named and ordered as in `relation`.

    Columns without a field are stepped over; a nullable field without a column is null. Raises ValueError (of which
    Unconvertible) for a value without an Avro form, UnchangedValue, and ProtocolError for bytes that are no such tuple.
    """
    columns = _places(binding, relation)
    body = [*_count(relation)]
    for place in columns:
        body += _column(binding, place)
    body += _missing(binding, relation)
    row, pin, key = _result(binding)
    body.append(f"return {row}, i, {pin}, {key}")
    return _function("convert_tuple", "b, i", body)


def from_pair(binding: Binding, relation: Sequence[str]) -> FromPair:
    """As `from_tuple`, but of an update: the old tuple, the letter N, the new tuple.

    Few columns differ, so the new tuple is compared with the old one, a run of columns at a time. Where the bytes are the
    same so are the columns, because a column says its own length; what was made of them for the old row is used again.
    """
    columns = _places(binding, relation)
    runs = [columns[start : start + _RUN] for start in range(0, len(columns), _RUN)]
    old, new = (
        [*_count(relation)],
        ["if b[i] != 78: raise ProtocolError('an update has no new row')", "i += 1", *_count(relation)],
    )
    for number, run in enumerate(runs):
        reading = [line for place in run for line in _column(binding, place)]
        old += [f"s{number} = i", *reading]
        new += [f"j = i + s{number + 1} - s{number}"]
        new += [f"if b[i:j] == b[s{number}:s{number + 1}]: i = j", "else:", *_indent(reading, 1)]
    row, pin, key = _result(binding)
    result = f"({row}, {pin}, {key})"
    body = [*old, *_missing(binding, relation), f"s{len(runs)} = i", f"before = {result}", *new, f"return before, {result}, i"]
    return _function("convert_pair", "b, i", body)


_RUN = 4


def _places(binding: Binding, relation: Sequence[str]) -> list[int | None]:
    """For each column of the relation the place of its field, or None."""
    places = {f.name: i for i, f in enumerate(binding.fields)}
    return [places.get(name) for name in relation]


def _count(relation: Sequence[str]) -> list[str]:
    return [f"if b[i] << 8 | b[i + 1] != {len(relation)}: raise ProtocolError('a row has another number of columns')", "i += 2"]


def _missing(binding: Binding, relation: Sequence[str]) -> list[str]:
    """Statements for the fields that the relation has no column for."""
    return [_null(binding, place) for place, field in enumerate(binding.fields) if field.name not in relation]


def _column(binding: Binding, place: int | None) -> list[str]:
    """Statements that read the column at i and step over it."""
    if place is None:
        return [
            "k = b[i]",
            "if k == 116: i += TEXT[b[i:i + 5]][0]",
            "elif k == 110 or k == 117: i += 1",
            "else: raise odd_kind(k)",
        ]
    if binding.kinds[place] == "text":
        table = "PRESENT_TEXT" if binding.fields[place].nullable else "TEXT"
        taken = [f"n, p{place} = {table}[b[i:i + 5]]", "j = i + n", f"c{place} = b[i + 5:j]"]
    else:
        taken = ["j = i + TEXT[b[i:i + 5]][0]", "v = b[i + 5:j]", *_converted(binding, place)]
    return [
        "if b[i] == 116:",
        *_indent([*taken, "i = j"], 1),
        f"elif b[i] == 110: i += 1; {_null(binding, place)}",
        "else: raise odd_kind(b[i])",
    ]


def from_line(binding: Binding) -> FromLine:
    """A converter for COPY lines (text format) of exactly the fields, in schema order. Raises as `from_tuple`."""
    count = len(binding.fields)
    raw = ", ".join(f"r{i}" for i in range(count))
    body = ["escaped = b'\\\\' in line", "f = line[:-1].split(b'\\t')"]
    body += [f"if len(f) != {count}: raise ProtocolError('a COPY line has another number of columns')", f"{raw}, = f"]
    for place in range(count):
        taken = [f"v = r{place}"]
        if binding.kinds[place] == "text":
            taken += ["if escaped and b'\\\\' in v: v = unescape(v)", *_spliced(binding, place)]
        elif binding.kinds[place] == "bytea":
            taken += ["v = v[1:]", *_converted(binding, place)]  # the backslash of '\\x' is doubled
        else:
            taken += _converted(binding, place)
        body += [f"if escaped and r{place} == COPY_NULL: {_null(binding, place)}", "else:", *_indent(taken, 1)]
    row, pin, key = _result(binding)
    body.append(f"return {row}, {pin}, {key}")
    return _function("convert_line", "line", body)


def _spliced(binding: Binding, place: int) -> list[str]:
    """Statements that turn the text `v` of a field into the pieces p<place>, c<place>."""
    nullable = binding.fields[place].nullable
    table, longer = ("PRESENT_LENGTH", "PRESENT + long(n)") if nullable else ("LENGTH", "long(n)")
    return ["n = len(v)", f"p{place} = {table}[n] if n < {encode.SHORT_TEXT} else {longer}", f"c{place} = v"]


def key_values(binding: Binding, line: bytes) -> tuple[str, ...]:
    """The primary key's columns of a COPY line, as text: where a snapshot has come to."""
    fields = line[:-1].split(b"\t")
    return tuple(unescape(fields[place]).decode() for place in binding.key)
