"""Writes the lines of a walk; see `bus.avro.walker`, which is what others use."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bus.avro.dataset import Schema
from bus.avro.types import Names, kind, qualified

MAX_DEPTH = 64
"""Deepest nesting of arrays, maps and recursive records."""
MAX_EMPTY_ITEMS = 65_536
"""Most array items that take no bytes, per record: they cost the sender nothing and every reader an object each."""
_INLINE_DEPTH = 20
_ONE_BYTE = 64
"""Union and enum indices below this are one byte."""


@dataclass(slots=True)
class Emitter:
    """Writes the lines. `ahead` bytes (and, in `ahead_of`, an expression) are stepped over but not yet added to `i`."""

    schema: Any
    wanted: frozenset[str]
    names: Names = field(init=False)
    lines: list[str] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)
    spans: dict[str, tuple[str, str]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    depth: int = 0
    ahead: int = 0
    ahead_of: str = ""
    here: str = ""
    """The variable that holds the present position, if the last thing emitted was one."""
    in_text: bool = False
    """A run of text began at `text` and has not been checked yet."""
    level: str = "0"
    """Expression for the nesting depth, inside functions."""
    variables: set[str] = field(default_factory=set)
    recursive: frozenset[str] = frozenset()
    of_record: dict[str, str] = field(default_factory=dict)
    """Record's full name -> the function that skips it."""
    inlined: set[str] = field(default_factory=set)
    """Records written out once already: where nothing in them is wanted, the next time is a call."""

    def __post_init__(self) -> None:
        self.names = Names(self.schema)
        self.recursive = frozenset(_recursive(self.schema, self.names))

    # -- positions

    def emit(self, line: str) -> None:
        self.lines.append(" " * self.depth + line)
        self.here = ""

    def at(self) -> str:
        """The present position as an expression; afterwards nothing but a constant is ahead."""
        if self.ahead_of:
            self.flush()
        return f"i+{self.ahead}" if self.ahead else "i"

    def flush(self) -> None:
        if step := self._step():
            self.emit(f"i+={step}")
        self.ahead, self.ahead_of = 0, ""

    def _step(self) -> str:
        return "+".join(s for s in (self.ahead_of, str(self.ahead) if self.ahead else "") if s)

    def place(self, path: str) -> str:
        """A variable with the present position."""
        if self.here and not self._step():
            return self.here
        name = self.variable("i_", path)
        step = self._step()
        self.emit(f"{name}=i=i+{step}" if step else f"{name}=i")
        self.ahead, self.ahead_of, self.here = 0, "", name
        return name

    def variable(self, prefix: str, path: str) -> str:
        """A name not in use yet: 'a.b_c' and 'a_b.c' are different paths."""
        plain = name = prefix + path.replace(".", "_")
        count = 1
        while name in self.variables:
            count += 1
            name = f"{plain}_{count}"
        self.variables.add(name)
        return name

    def refuse_if(self, condition: str) -> None:
        self.emit(f"if {condition}: raise Malformed")

    # -- text: consecutive strings are checked with one decode

    def open_text(self) -> None:
        if not self.in_text:
            self.flush()
            here = self.here
            self.emit("text=i")
            self.here, self.in_text = here, True

    def close_text(self) -> None:
        if self.in_text:
            self.flush()
            here = self.here
            self.emit("b[text:i].decode()")
            self.here, self.in_text = here, False

    # -- types

    def datum(self, avro_type: Any, namespace: str, path: str) -> None:
        definition, inside = self.names.resolve(avro_type, namespace)
        noted = path in self.wanted
        start = self.place(path) if noted else ""
        self._datum(definition, inside, path)
        if noted:
            self.spans[path] = start, self.place(path + "_end")

    def _datum(self, definition: Any, inside: str, path: str) -> None:
        what = kind(definition)
        if what not in ("string", "boolean", "enum", "null", "record", "union"):
            self.close_text()
        if what in ("record", "error"):
            self.record(definition, inside, path)
        elif what == "union":
            self.union(definition, inside, path)
        elif what in ("array", "map"):
            self.call(self.block_function(definition, inside))
        elif what == "enum":
            self.index(len(definition["symbols"]))
        elif what == "fixed":
            self.ahead += definition["size"]
        else:
            _PRIMITIVES[what](self)

    def record(self, definition: Schema, inside: str, path: str) -> None:
        name = qualified(definition["name"], inside)
        repeated = name in self.recursive or name in self.inlined or self.depth > _INLINE_DEPTH
        if repeated and not self.wants_below(path):
            self.close_text()
            self.call(self.record_function(name, definition, inside))
            return
        self.inlined.add(name)
        fields = [(each["type"], f"{path}.{each['name']}" if path else each["name"]) for each in definition["fields"]]
        while fields:
            run = list(itertools.takewhile(lambda f: self.numeric(f[0], inside), fields))
            if sum(self.numeric(t, inside) > 1 for t, _ in run) >= _RUN:
                self.numbers([(self.numeric(t, inside), at) for t, at in run])
                fields = fields[len(run) :]
            else:
                self.datum(fields[0][0], inside, fields[0][1])
                fields = fields[1:]

    def numeric(self, avro_type: Any, namespace: str) -> int:
        """Bytes of the longest value of a boolean (1), int (5) or long (10); 0 for everything else."""
        return _NUMERIC.get(kind(self.names.resolve(avro_type, namespace)[0]), 0)

    def numbers(self, run: list[tuple[int, str]]) -> None:
        """Consecutive numbers: one regular expression steps over them three times as fast as a loop over their bytes."""
        self.close_text()
        self.flush()
        noted = [path for _, path in run if path in self.wanted]
        pattern = b"".join(b"(%s)" % _NUMBER[most] if path in self.wanted else _NUMBER[most] for most, path in run)
        self.emit(f"m={self.constant('NUMBERS', re.compile(pattern).match)}(b,i)")
        self.refuse_if("m is None")
        for group, path in enumerate(noted, 1):
            self.spans[path] = self.variable("i_", path), self.variable("i_", path + "_end")
            self.emit(f"{','.join(self.spans[path])}=m.span({group})")
        self.emit("i=m.end()")

    def constant(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self.constants)}"
        self.constants[name] = value
        return name

    def wants_below(self, path: str) -> bool:
        return any(w.startswith(path + ".") for w in self.wanted) if path else bool(self.wanted)

    def union(self, branches: list[Any], inside: str, path: str) -> None:
        if len(branches) > _ONE_BYTE or self.depth > 2 * _INLINE_DEPTH:
            self.close_text()
            self.call(self.union_function(branches, inside))
            return
        textual = [kind(self.names.resolve(t, inside)[0]) for t in branches] == ["null", "string"]
        self.open_text() if textual else self.close_text()
        self.flush()
        variable = "u"
        if any(kind(self.names.resolve(t, inside)[0]) == "record" for t in branches) and self.wants_below(path):
            variable = self.branches[path] = self.variable("u_", path)
        self.emit(f"{variable}=b[i]")
        word = "if"
        for k in sorted(range(len(branches)), key=lambda k: branches[k] == "null"):
            self.emit(f"{word} {variable}=={2 * k}:")
            self.branch(branches[k], inside, path, keep_text=textual)
            word = "elif"
        self.emit("else: raise Malformed")

    def branch(self, avro_type: Any, inside: str, path: str, *, keep_text: bool) -> None:
        self.depth += 1
        self.ahead = 1
        definition, within = self.names.resolve(avro_type, inside)
        self._datum(definition, within, path)
        if not keep_text:
            self.close_text()
        self.flush()
        self.depth -= 1

    def number(self, most_bytes: int) -> None:
        """An int or long. Its first bytes are looked at one by one, as most numbers are short; a regular expression finds the
        end of longer ones."""
        place = self.at()
        single = 3 if most_bytes == _NUMERIC["int"] else 1
        name = f"NUMBER{most_bytes}"
        self.constants[name] = re.compile(_NUMBER[most_bytes]).match
        for depth in range(single):
            self.emit(" " * depth + f"if b[{place}]>127:")
            if depth + 1 < single:
                self.emit(" " * depth + " i+=1")
        begin = self.ahead + 1 - single
        at = f"i{begin:+}" if begin else "i"
        self.emit(" " * single + f"m={name}(b,{at})")
        self.emit(" " * single + "if m is None: raise Malformed")
        self.emit(" " * single + f"i=m.end()-{self.ahead + 1}")
        if single > 1:
            self.emit(f" if not b[{place}]: raise Malformed")
        self.ahead += 1

    def length(self, *, text: bool) -> None:
        """A length and that many bytes. One test finds what is negative (bit 0) and what is longer than a byte (bit 7)."""
        if text:
            self.open_text()
        else:
            self.close_text()
        here = self.at()
        back = f"; i-={self.ahead}" if self.ahead else ""
        self.emit(f"n=b[{here}]")
        self.emit("if n&129: " + (f"n,i,text=skip_text_length(b,text,{here})" if text else f"n,i=skip_length(b,{here})") + back)
        self.ahead, self.ahead_of = self.ahead + 1, "(n>>1)"

    def index(self, count: int) -> None:
        """A union's or enum's index below `count`."""
        if count > _ONE_BYTE:
            self.close_text()
            self.emit(f"u,i=read_long(b,{self.at()})")
            self.ahead = 0
            self.refuse_if(f"not 0<=u<{count}")
            return
        self.constants[f"INDEX{count}"] = bytes(range(0, 2 * count, 2))
        self.refuse_if(f"b[{self.at()}] not in INDEX{count}")
        self.ahead += 1

    def flag(self) -> None:
        self.refuse_if(f"b[{self.at()}]>1")
        self.ahead += 1

    # -- functions: what repeats or recurs

    def call(self, function: str) -> None:
        self.flush()
        self.emit(f"i={function}(b,i,{self.level},z)")

    def function(self, what: str, write: Callable[[Emitter], None]) -> str:
        """Define a function of (b, i, d, z) -> the index after; `d` is the depth, `z` the budget of items without bytes."""
        name = f"skip_{len(self.functions)}_{what}"
        self.functions[name] = ""  # taken, also by what it calls
        inner = Emitter(self.schema, frozenset())
        inner.functions, inner.constants, inner.of_record = self.functions, self.constants, self.of_record
        inner.level, inner.depth = "d+1", 1
        inner.refuse_if(f"d>{MAX_DEPTH}")
        write(inner)
        inner.close_text()
        inner.flush()
        inner.emit("return i")
        self.functions[name] = "\n".join([f"def {name}(b,i,d,z):", *inner.lines])
        return name

    def record_function(self, full_name: str, definition: Schema, inside: str) -> str:
        def write(inner: Emitter) -> None:
            self.of_record[full_name] = f"skip_{len(self.functions) - 1}_{definition['name'].replace('.', '_')}"
            for each in definition["fields"]:
                inner.datum(each["type"], inside, "")

        return self.of_record.get(full_name) or self.function(definition["name"].replace(".", "_"), write)

    def union_function(self, branches: list[Any], inside: str) -> str:
        def write(inner: Emitter) -> None:
            inner.emit("u,i=read_long(b,i)")
            word = "if"
            for k, each in enumerate(branches):
                inner.emit(f"{word} u=={k}:")
                inner.depth += 1
                inner.datum(each, inside, "")
                inner.close_text()
                inner.flush()
                inner.emit("pass")
                inner.depth -= 1
                word = "elif"
            inner.emit("else: raise Malformed")

        return self.function("union", write)

    def block_function(self, definition: Schema, inside: str) -> str:
        """Arrays and maps: blocks of items until an empty one; a negative count has the block's size in bytes after it."""
        is_map = kind(definition) == "map"
        items = definition["values" if is_map else "items"]
        empty = not is_map and self.names.takes_no_bytes(items, inside)

        def write(inner: Emitter) -> None:
            for line in _BLOCK_HEAD:
                inner.emit(line)
            inner.depth += 1
            if empty:
                inner.emit("z[0]-=c")
                inner.refuse_if("z[0]<0")
            else:
                inner.refuse_if("c>len(b)-i")
                inner.emit("while c:")
                inner.depth += 1
                inner.emit("c-=1")
                if is_map:
                    inner.length(text=True)
                inner.datum(items, inside, "")
                inner.close_text()
                inner.flush()
                inner.depth -= 1
            inner.refuse_if("e and i!=e")
            inner.depth -= 1

        return self.function(kind(definition), write)


_NUMBER = {
    1: rb"[\x00\x01]",
    5: rb"(?:[\x00-\x7f]|[\x80-\xff]{1,3}+[\x01-\x7f]|[\x80-\xff]{4}[\x01-\x0f])",
    10: rb"(?:[\x00-\x7f]|[\x80-\xff]{1,8}+[\x01-\x7f]|[\x80-\xff]{9}\x01)",
}
"""Most bytes of a number -> its canonical encodings: no longer than needed, within 32 or 64 bits."""
_NUMERIC = {"boolean": 1, "int": 5, "long": 10}
_RUN = 3
"""So many numbers in a row are stepped over at once."""

_BLOCK_HEAD = (
    "while True:",
    " c,i=read_long(b,i); e=0",
    " if c==0: break",
    " if c<0:",
    "  c=-c; s,i=read_long(b,i); e=i+s",
    "  if s<0 or e>len(b): raise Malformed",
)

_PRIMITIVES: dict[str, Callable[[Emitter], None]] = {
    "null": lambda _: None,
    "boolean": Emitter.flag,
    "int": lambda m: m.number(5),
    "long": lambda m: m.number(10),
    "float": lambda m: setattr(m, "ahead", m.ahead + 4),
    "double": lambda m: setattr(m, "ahead", m.ahead + 8),
    "bytes": lambda m: m.length(text=False),
    "string": lambda m: m.length(text=True),
}


def _recursive(schema: Any, names: Names) -> set[str]:
    """Full names of records that contain themselves."""
    found: set[str] = set()

    def visit(avro_type: Any, namespace: str, above: tuple[str, ...]) -> None:
        definition, inside = names.resolve(avro_type, namespace)
        what = kind(definition)
        if what == "union":
            for branch in definition:
                visit(branch, inside, above)
        elif what in ("array", "map"):
            visit(definition["items" if what == "array" else "values"], inside, above)
        elif what in ("record", "error"):
            name = qualified(definition["name"], inside)
            if name in above:
                found.add(name)
                return
            for each in definition["fields"]:
                visit(each["type"], inside, (*above, name))

    visit(schema, "", ())
    return found
