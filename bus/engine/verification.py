"""Code that compares the people of a row with the register.

For each role: equality of slices first; only where the bytes differ are the two values read and compared as `bus.core.matching`
says. In generated code `p` is the subject's packed record or None, `g<k>` the verdict of role k as its index in VERDICTS (-1:
nobody there), `w<k>` the role's encoded `Verification`, `c` their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bus.avro import varint
from bus.avro.dataset import Dataset, Role
from bus.avro.memo import Memo
from bus.avro.projection import Spans
from bus.avro.scalar import DATE, content, reader, scalar
from bus.avro.types import split_null
from bus.core import identity
from bus.core.matching import COMPARE
from bus.core.outcome import VERDICTS, Verdict
from bus.engine.person import Reading

MATCH, NO_PIN, NOT_FOUND, MISMATCH = (
    VERDICTS.index(v.value) for v in (Verdict.MATCH, Verdict.NO_PIN, Verdict.NOT_FOUND, Verdict.MISMATCH)
)
assert MATCH < NO_PIN < NOT_FOUND < MISMATCH  # the gravest is the greatest
_YEAR_CHARS, _LAST_YEAR = 4, 9999
_FEW = 1_024
"""Entries of a memory for values of which there are few."""
Differs = Callable[[bytes, bytes], bool]


class MatchError(ValueError):
    """A checked column cannot be compared with the register's; the message names both."""


class How(Enum):
    """The look that finds most values to agree, before the exact comparison is called."""

    BYTES = 0
    """Both have one encoding."""
    ISO_DATE = 1
    """A day against a text."""
    YEAR = 2
    """A year against the beginning of a text."""
    CALL = 3
    """None."""
    FOLDED = 4
    """As BYTES; the kernel also looks whether two names differ in case alone."""


@dataclass(frozen=True, slots=True)
class Check:
    """How one column of the row is compared with one field of the register. `lead`: bytes before a value that is there."""

    lead: int
    lead_theirs: int
    how: How
    differs: Any
    """differs(ours, theirs), or differs[ours, theirs] if `paired`."""
    paired: bool
    form: Memo[bytes, bytes] | None
    """ISO_DATE, YEAR: our value -> the register's text."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Writes the comparison of a dataset's roles into the plan's function."""

    dataset: Dataset
    register: Dataset
    subject: Reading
    other: Reading
    """Of the other roles' records, in `o`."""
    secret: bytes
    constants: dict[str, Any]

    def columns(self) -> list[str]:
        """Columns of the row that decide the verdict."""
        return sorted({c for r in self.dataset.people for c in (r.pin, *r.match.values())})

    def lines(self, row: Spans, *, with_bytes: bool) -> list[str]:
        """Sets p, g0…, and with `with_bytes` w0… and c, their number; afterwards the verdict is the greatest g."""
        made: list[str] = []
        for k, role in enumerate(self.dataset.people):
            made += self._role(k, role, row, with_bytes=with_bytes)
        if with_bytes and (others := len(self.dataset.people) - 1):
            self.constants["COUNT"] = [varint.encode(n) for n in range(others + 2)]
            made.append(f"c=COUNT[{'+'.join(['1', *(f'(g{k}>=0)' for k in range(1, others + 1))])}]")
        return made

    def verdict(self) -> str:
        """Expression of the event's verdict: the gravest."""
        names = [f"g{k}" for k in range(len(self.dataset.people))]
        return names[0] if len(names) == 1 else f"max({','.join(names)})"

    def encoded(self) -> list[str]:
        """Expressions of the array `verification`, after `lines` with bytes."""
        count = len(self.dataset.people)
        return ["c" if count > 1 else repr(varint.encode(1)), *(f"w{k}" for k in range(count)), r'b"\0"']

    def _role(self, k: int, role: Role, row: Spans, *, with_bytes: bool) -> list[str]:
        start, end = row[role.pin]
        lead = int(self._nullable(role.pin))
        made = [f"# {role.name}"]
        if k == 0:
            made.append("p=None")
        made.append(f"if {end}-{start}<{2 + lead}:")
        made += [" " + line for line in self._without_pin(k, role, row, with_bytes=with_bytes)]
        made.append("else:")
        if k == 0:
            made.append(" p=person_of(key)")
        else:
            self.constants.setdefault("KEY_OF", self.key_of())
            made.append(f" o=person_of(KEY_OF[b[{start}+{lead}:{end}]])")
        reading = self.other if k else self.subject
        made.append(f" if {reading.record} is None: " + self._result(k, role, NOT_FOUND, with_bytes=with_bytes))
        made.append(" else:")
        made += ["  " + line for line in self._compare(k, role, row, reading, with_bytes=with_bytes)]
        return made

    def _without_pin(self, k: int, role: Role, row: Spans, *, with_bytes: bool) -> list[str]:
        """The subject always is there; another person is absent when neither PIN nor any checked field is."""
        stated = self._result(k, role, NO_PIN, with_bytes=with_bytes)
        checked = [role.pin, *role.match.values()]
        if not self.may_be_absent(k):
            return [stated]
        absent = f"g{k}=-1" + (f"; w{k}=b''" if with_bytes else "")
        some = " or ".join(f"b[{row[c][0]}]" for c in checked)
        return [f"if {some}: {stated}", f"else: {absent}"]

    def _result(self, k: int, role: Role, verdict: int, *, with_bytes: bool) -> str:
        made = f"g{k}={verdict}"
        if with_bytes:
            made += f"; w{k}={head_of(role, verdict, ()) + NO_OFFSET!r}"
        return made

    def _compare(self, k: int, role: Role, row: Spans, reading: Reading, *, with_bytes: bool) -> list[str]:
        unpack = "UNPACK_OTHER" if k else "UNPACK"
        self.constants[unpack] = reading.unpack
        pin = self.register.people[0].pin
        start, end = row[role.pin]
        lead = int(self._nullable(role.pin))
        made = [f"{','.join(reading.variables)},={unpack}({reading.record})"]
        if k == 0:  # the key is the producer's word; the PIN is the row's
            q, q_end = reading.spans[pin]
            made.append(f"if b[{start}+{lead}:{end}]!=p[{q}:{q_end}]: raise Malformed")
        made.append("m=0")
        for bit, (field, column) in enumerate(role.match.items()):
            made.append(f"if {self._differs(row[column], column, field, reading)}: m|={1 << bit}")
        made.append("if m: " + f"g{k}={MISMATCH}" + (f"; w{k}=HEADS{k}[m]+{reading.offset}" if with_bytes else ""))
        made.append("else: " + f"g{k}={MATCH}" + (f"; w{k}={head_of(role, MATCH, ())!r}+{reading.offset}" if with_bytes else ""))
        self.constants[f"HEADS{k}"] = self.heads(role)
        return made

    def _differs(self, span: tuple[str, str], column: str, field: str, reading: Reading) -> str:
        """An expression that is true when row and register contradict each other: first a look that finds most to agree."""
        check = self.check(column, field)
        (q, q_end), record, theirs = reading.spans[field], reading.record, check.lead_theirs
        value, known = f"b[{span[0]}:{span[1]}]", f"{record}[{q}:{q_end}]"
        name = f"DIFFERS_{column}_{field}"
        self.constants[name] = check.differs
        call = f"{name}[{value},{known}]" if check.paired else f"{name}({value},{known})"
        content = f"{record}[{_after(q, theirs)}:{q_end}]"
        if check.how in (How.BYTES, How.FOLDED):
            ours_at = f"b[{_after(span[0], check.lead)}:{span[1]}]"
            return f"{value}!={known} and {call}" if check.lead == theirs else f"{ours_at}!={content} and {call}"
        if check.how is How.ISO_DATE:
            self.constants[f"ISO{check.lead}"] = check.form
            return f"ISO{check.lead}[{value}]!={content} and {call}"
        if check.how is How.YEAR:
            self.constants[f"YEAR{check.lead}"] = check.form
            return f"YEAR{check.lead}[{value}]!={record}[{_after(q, theirs + 1)}:{_after(q, theirs + 6)}] and {call}"
        return call

    def check(self, column: str, field: str) -> Check:
        """How a column is compared with a register field. Raises MatchError."""
        ours, theirs, rule = self.dataset.fields[column], self.register.fields[field], self._rule(field)
        exact = differs(ours, theirs, rule, f"{self.dataset.name}.{column}", f"{self.register.name}.{field}")
        paired = rule == "sex"
        lead, lead_theirs = int(self._nullable(column)), int(split_null(theirs)[1])
        how, form = How.CALL, None
        if scalar(ours) == scalar(theirs):
            how = How.FOLDED if rule == "name" and scalar(ours) == "string" else How.BYTES
        elif rule == "date" and scalar(theirs) == "string" and scalar(ours) == DATE:
            how, form = How.ISO_DATE, _ISO[lead]
        elif rule == "date" and scalar(theirs) == "string" and scalar(ours) == "int":
            how, form = How.YEAR, _YEAR[lead]
        known: Any = Memo(lambda pair: exact(*pair), _FEW) if paired else exact
        return Check(lead, lead_theirs, how, known, paired, form)

    def heads(self, role: Role) -> Memo[int, bytes]:
        """Fields that differ, a bit each -> a `Verification` up to its register_offset."""
        return Memo(lambda m: head_of(role, MISMATCH, [f for b, f in enumerate(role.match) if m >> b & 1]))

    def key_of(self) -> Memo[bytes, bytes]:
        """An encoded PIN -> its person key."""
        return Memo(lambda pin: identity.person_key(self.secret, content(pin)))

    def may_be_absent(self, k: int) -> bool:
        """Whether role k is nobody where neither PIN nor any checked field is; the subject always is there."""
        role = self.dataset.people[k]
        return k > 0 and all(self._nullable(c) for c in (role.pin, *role.match.values()))

    def _rule(self, field: str) -> str:
        about = next(f for f in self.register.row["fields"] if f["name"] == field)
        return str(about.get("compare", "text"))

    def _nullable(self, column: str) -> bool:
        return split_null(self.dataset.fields[column])[1]


NO_OFFSET = b"\0"


def _after(place: str, count: int) -> str:
    return f"{place}+{count}" if count else place


def head_of(role: Role, verdict: int, mismatched: Any) -> bytes:
    """A `Verification` up to its register_offset."""
    listed = varint.encode(len(mismatched)) + b"".join(map(varint.encode_text, mismatched)) if mismatched else b""
    return varint.encode_text(role.name) + varint.encode(verdict) + listed + b"\0"


def differs(ours: Any, theirs: Any, rule: str, our_name: str, their_name: str) -> Differs:
    """differs(encoded value of the row, of the register) -> whether they contradict each other. A null contradicts nothing.

    `rule` is a key of COMPARE. Raises MatchError for types without a text form.
    """
    left, right, same = reader(ours), reader(theirs), COMPARE.get(rule)
    if left is None or right is None:
        raise MatchError(f"{our_name} cannot be compared with {their_name}: only text, whole numbers, booleans and dates can")
    if same is None:
        raise MatchError(f"{their_name}: compare {rule!r} is unknown; known are {', '.join(COMPARE)}")
    if rule == "date" and scalar(ours) == "int":
        left = _year(left)
    if rule == "date" and scalar(theirs) == "int":
        right = _year(right)
    if rule == "name":
        same = _same_name

    def differ(ours: bytes, theirs: bytes) -> bool:
        one, other = left(ours), right(theirs)
        return not (one is None or other is None or one == other or same(one, other))

    return differ


def _same_name(left: str, right: str) -> bool:
    """The rule's answer; a difference in case alone, as whole agencies have it, is found without normal forms."""
    return left.casefold() == right.casefold() or COMPARE["name"](left, right)


def _year(read: Callable[[bytes], str | None]) -> Callable[[bytes], str | None]:
    """A whole number as a date is a year."""

    def year(value: bytes) -> str | None:
        text = read(value)
        return None if text is None else text.zfill(_YEAR_CHARS)

    return year


def _iso(value: bytes) -> bytes:
    """A date as the Avro string a register of texts has for it."""
    text = reader({"type": "int", "logicalType": DATE})
    assert text
    return varint.encode_text(text(value) or "")


def _year_begins(value: bytes) -> bytes:
    """A year as the first five bytes of any ISO date in it; of what is no year of four digits, bytes that begin no text."""
    year = varint.decode(value)[0]
    return b"%04d-" % year if 0 <= year <= _LAST_YEAR else b"\0"


def _nothing_for_null(make: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda value: make(value[1:]) if value[0] else b""


# By whether the column is nullable; shared by all plans of a process, since days and years are the same everywhere.
_ISO: tuple[Memo[bytes, bytes], ...] = (Memo(_iso), Memo(_nothing_for_null(_iso)))
_YEAR: tuple[Memo[bytes, bytes], ...] = (Memo(_year_begins, _FEW), Memo(_nothing_for_null(_year_begins), _FEW))
