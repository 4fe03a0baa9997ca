"""What the Apache `avro` package says of a reader and a writer, place by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avro import compatibility as apache
from avro.name import Names
from avro.schema import make_avsc_object

from bus.contracts.parsing import shown

Schema = Any
"""One of the package's schema objects; its own types do not say what each has."""
AMBIGUOUS_ALIAS = "AMBIGUOUS_ALIAS"
MAX_REASONS = 100


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a reader cannot read a writer. `location`: JSON pointer into the reader."""

    type: str
    message: str
    location: str


def reasons(reader: Any, writer: Any) -> tuple[Reason, ...]:
    """Schemas in plain form. Empty when the package's checker finds nothing; at most MAX_REASONS, each once."""
    reads, writes = make_avsc_object(reader, Names()), make_avsc_object(writer, Names())
    found = _Explaining()
    found.explain(reads, writes, "")
    if not found.reasons and not _can(reads, writes):
        said = _verdict(reads, writes)
        words = shown("; ".join(sorted(said.messages)))
        found.reasons += [Reason(kind.value.upper(), words, "/") for kind in said.incompatibilities]
    return tuple(dict.fromkeys(found.reasons))[:MAX_REASONS]


def _verdict(reader: Schema, writer: Schema) -> apache.SchemaCompatibilityResult:
    """With a checker of its own: one that is used again remembers what it assumed while it was inside a recursive type."""
    return apache.ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)  # type: ignore[no-untyped-call]  # the package's


def _can(reader: Schema, writer: Schema) -> bool:
    return _verdict(reader, writer).compatibility is not apache.SchemaCompatibilityType.incompatible


class _Explaining:
    """Goes down both schemas together, wherever the checker says that something is wrong below."""

    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self._seen: set[tuple[int, int]] = set()

    def explain(self, reader: Schema, writer: Schema, place: str) -> None:
        if (id(reader), id(writer)) in self._seen or len(self.reasons) >= MAX_REASONS:
            return
        self._seen.add((id(reader), id(writer)))
        if writer.type == "union":
            for branch in writer.schemas:
                self.explain(reader, branch, place)
        elif reader.type == "union":
            self._branches(reader, writer, place)
        elif reader.type != writer.type:
            self._promote(reader, writer, place)
        elif reader.type == "record":
            self._record(reader, writer, place)
        elif reader.type in ("array", "map"):
            inner = "items" if reader.type == "array" else "values"
            self.explain(reader.get_prop(inner), writer.get_prop(inner), f"{place}/{inner}")
        elif reader.type == "enum":
            self._take(apache.check_schema_names(reader, writer, []), place, "name", _names(reader, writer))
            self._symbols(reader, writer, place)
        elif reader.type == "fixed":
            self._take(apache.check_schema_names(reader, writer, []), place, "name", _names(reader, writer))
            sizes = f"the reader wants {reader.size} bytes, the writer has {writer.size}"
            self._take(apache.check_fixed_size(reader, writer, []), place, "size", sizes)

    def _promote(self, reader: Schema, writer: Schema, place: str) -> None:
        if not _can(reader, writer):
            words = f"the reader wants {_what(reader)}, the writer has {_what(writer)}"
            self._take(apache.type_mismatch(reader, writer, []), place, "", words)

    def _branches(self, reader: Schema, writer: Schema, place: str) -> None:
        branches = reader.schemas
        if (taken := next((i for i, branch in enumerate(branches) if _can(branch, writer)), None)) is not None:
            self.explain(branches[taken], writer, f"{place}/{taken}")  # for what the checker does not look at
            return
        same = [b for b in branches if b.type == writer.type and getattr(b, "name", "") == getattr(writer, "name", "")]
        for branch in same[:1]:
            self.explain(branch, writer, f"{place}/{branches.index(branch)}")
        if not same:
            offered = ", ".join(map(_what, branches))
            words = f"the reader's union ({offered}) has no type that reads the writer's {_what(writer)}"
            self.reasons.append(Reason("MISSING_UNION_BRANCH", words, place or "/"))

    def _record(self, reader: Any, writer: Any, place: str) -> None:
        self._take(apache.check_schema_names(reader, writer, []), place, "name", _names(reader, writer))
        for index, field in enumerate(reader.fields):
            here = f"{place}/fields/{index}"
            aliases = field.props.get("aliases") or ()
            sources = [name for name in dict.fromkeys((field.name, *aliases)) if name in writer.fields_dict]
            if len(sources) > 1:
                words = f"the field {field.name!r} could be read from each of {', '.join(sources)}"
                self.reasons.append(Reason(AMBIGUOUS_ALIAS, words, here))
                continue
            written = apache.lookup_writer_field(writer, field)
            if written is not None:
                self.explain(field.type, written.type, f"{here}/type")
            elif not field.has_default:
                words = f"the writer has no field {field.name!r}, and the reader has no default for it"
                self.reasons.append(Reason("READER_FIELD_MISSING_DEFAULT_VALUE", words, here))

    def _symbols(self, reader: Any, writer: Any, place: str) -> None:
        known = set(reader.symbols)
        more = ", ".join(s for s in writer.symbols if s not in known)
        words = f"the writer's symbols {more} are unknown to the reader, which has no default symbol"
        self._take(apache.check_reader_enum_contains_writer_enum(reader, writer, []), place, "symbols", words)

    def _take(self, result: apache.SchemaCompatibilityResult, place: str, end: str, words: str) -> None:
        for kind in result.incompatibilities:
            self.reasons.append(Reason(kind.value.upper(), words, f"{place}/{end}" if end else place or "/"))


def _names(reader: Any, writer: Any) -> str:
    return f"the reader's name is {shown(reader.fullname)!r}, without an alias for the writer's {shown(writer.fullname)!r}"


def _what(schema: Any) -> str:
    name = getattr(schema, "fullname", schema.type)
    return str(schema.type) if name == schema.type else f"{schema.type} {shown(name)}"
