"""A plan for the kernel: the same work as the Python of `bus.engine.generate`, in C and in one pass (bus/engine/kernel).

The kernel is built with the package where there is a C compiler; where there is none, and for rows that it cannot walk
(nested, arrays, maps, other unions than of null and one type), the generated Python does the work. Tests hold both to the
same reference.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterable
from typing import Any

from bus.avro import derive, frame, varint
from bus.avro.dataset import Role
from bus.avro.types import Names, kind, split_null
from bus.core import identity, topics
from bus.core.outcome import VERDICTS, DeadCode
from bus.engine.generate import Generator, Subscription
from bus.engine.verification import MATCH, NO_OFFSET, NO_PIN, NOT_FOUND, Check, Verification, head_of


def _built() -> Any:
    """The extension module, or None: no compiler when the package was installed."""
    try:
        return importlib.import_module("bus.engine._kernel")
    except ImportError:
        return None


_kernel = _built()
_KINDS = ("null", "boolean", "int", "long", "fixed", "bytes", "string", "enum", "record")
"""Place in the list = enum Kind in walk.h."""
_SIZES = {"float": 4, "double": 8}
_MOST_SYMBOLS = 64
_MOST_ROLES, _MOST_CHECKS = 16, 31
WORTH_AN_INDEX = 8
"""Fewer filters than this on one column are tried one by one: that costs less than looking the value up."""
_OF_ROW, _MASKED, _OF_REGISTER, _PSEUDONYM = range(4)
_FOLDS, _NO_FOLD = 0x2000, 0xFFFF


def _folded(number: int) -> int:
    """The one character that a character is case-folded to, if the table has it."""
    made = chr(number).casefold()
    return ord(made) if len(made) == 1 and ord(made) < _FOLDS else _NO_FOLD


_FOLDED = struct.pack(f"={_FOLDS}H", *map(_folded, range(_FOLDS)))


class _TooComplex(Exception):
    """A schema that the kernel cannot walk."""


def available() -> bool:
    """Whether the kernel was built."""
    return _kernel is not None


def compile_native(made: Generator) -> Callable[..., Any] | None:
    """`handle` in C; None where the kernel cannot do this dataset or was not built. Call after `made.source()`, which checks."""
    if _kernel is None:
        return None
    verification = made.verification() if made.verifies else None
    columns = made.columns(verification)
    try:
        steps = _Steps(derive.change(made.dataset), columns).encoded()
    except _TooComplex:
        return None
    roles = _roles(verification, columns) if verification else ()
    if len(roles) > _MOST_ROLES or any(len(r.match) > _MOST_CHECKS for r in made.dataset.people):
        return None
    at = columns.index
    people = made.dataset.people
    decided = verification.columns() if verification and made.minds_verdicts else ()
    handle: Callable[..., Any] = _kernel.Plan(
        (
            steps,
            len(columns),
            made.max_record_bytes,
            frame.header(made.change_id),
            frame.header(made.verified_id),
            topics.verified(made.dataset.name),
            frame.Malformed,
            DeadCode.BAD_FRAME,
            DeadCode.TOO_LARGE,
            DeadCode.UNKNOWN_SCHEMA,
            at(people[0].pin) if people else -1,
            made.shortest_pin() if people else 0,
            _numbers(at(c) for c in made.dataset.fields if c in made.dataset.primary_key),
            len(made.register.fields),
            list(made.register.fields).index(made.register.people[0].pin),
            verification.key_of() if verification else None,
            _numbers(at(c) for c in decided),
            int(made.minds_verdicts),
            made.memo(),
            _row_key(made.secret, made.dataset.name),
            roles,
            tuple(_subscription(made, s, columns) for s in made.subscriptions),
            *indexes(made, columns),
            _FOLDED,
        )
    ).handle
    return handle


def _numbers(found: Iterable[int]) -> bytes:
    listed = list(found)
    return struct.pack(f"={len(listed)}i", *listed)


def _row_key(secret: bytes, dataset: str) -> tuple[bytes, bytes, bytes]:
    return secret, _person(identity.ROW_KEY), dataset.encode() + b"\0"


def _person(name: bytes) -> bytes:
    return name.ljust(16, b"\0")


class _Steps:
    """A change event's schema as steps of the walk. Raises _TooComplex."""

    def __init__(self, schema: Any, columns: list[str]) -> None:
        self._names = Names(schema)
        self._steps: list[tuple[int, int, int, int]] = []
        count = len(columns)
        self._slots = {"source.ts_ms": 0} | {f"before.{c}": 1 + k for k, c in enumerate(columns)}
        self._slots |= {f"after.{c}": 1 + count + k for k, c in enumerate(columns)}
        self._fields(schema, "", "")
        if self._slots:
            raise _TooComplex

    def encoded(self) -> bytes:
        return _numbers(n for step in self._steps for n in step)

    def _fields(self, record: Any, inside: str, path: str) -> None:
        definition, within = self._names.resolve(record, inside)
        for each in definition["fields"]:
            self._value(each["type"], within, f"{path}{each['name']}")

    def _value(self, avro_type: Any, inside: str, path: str) -> None:
        null = 0
        if isinstance(avro_type, list):
            if len(avro_type) != 2 or "null" not in avro_type:
                raise _TooComplex
            null = 1 + avro_type.index("null")
            avro_type = avro_type[2 - null]
        definition, within = self._names.resolve(avro_type, inside)
        what = kind(definition)
        if what == "record":
            self._record(definition, within, path, null)
            return
        argument = _SIZES.get(what, 0)
        if argument:
            what = "fixed"
        elif what == "fixed":
            argument = definition["size"]
        elif what == "enum":
            argument = len(definition["symbols"])
        if what not in _KINDS or (what == "enum" and argument > _MOST_SYMBOLS):
            raise _TooComplex
        self._steps.append((_KINDS.index(what), argument, self._slots.pop(path, -1), null))

    def _record(self, definition: Any, inside: str, path: str, null: int) -> None:
        """Records stand where the bus's own envelope has them, not within rows."""
        if path.count("."):
            raise _TooComplex
        if not null:
            self._fields(definition, inside, f"{path}.")
            return
        place = len(self._steps)
        self._fields(definition, inside, f"{path}.")
        branch = ("before", "after").index(path)
        self._steps.insert(place, (_KINDS.index("record"), len(self._steps) - place, branch, null))


def _roles(verification: Verification, columns: list[str]) -> tuple[Any, ...]:
    return tuple(_role(verification, k, r, columns) for k, r in enumerate(verification.dataset.people))


def _role(verification: Verification, k: int, role: Role, columns: list[str]) -> tuple[Any, ...]:
    fields, theirs = verification.dataset.fields, list(verification.register.fields)
    checks = [(column, field, verification.check(column, field)) for field, column in role.match.items()]
    return (
        columns.index(role.pin),
        int(isinstance(fields[role.pin], list)),
        int(verification.may_be_absent(k)),
        _numbers(columns.index(c) for c in (role.pin, *role.match.values())),
        head_of(role, NO_PIN, ()) + NO_OFFSET,
        head_of(role, NOT_FOUND, ()) + NO_OFFSET,
        head_of(role, MATCH, ()),
        verification.heads(role),
        tuple(_check(columns.index(column), theirs.index(field), check) for column, field, check in checks),
    )


def _check(column: int, theirs: int, check: Check) -> tuple[Any, ...]:
    how, paired = check.how.value, int(check.paired)
    return (column, check.lead, theirs, check.lead_theirs, how, paired, check.differs, check.form)


def indexes(made: Generator, columns: list[str]) -> tuple[bytes, tuple[tuple[int, dict[bytes, bytes]], ...]]:
    """Numbers of the subscriptions to try for every event; and for each column that enough filters name: value -> numbers.

    A subscription is filed under the condition with the fewest values: unless one of them is there, its filter cannot hold.
    """
    always: list[int] = []
    filed: dict[str, dict[int, tuple[bytes, ...]]] = {}
    for j, s in enumerate(made.subscriptions):
        if s.projection.conditions:
            column, allowed = min(s.projection.conditions, key=lambda condition: len(condition[1]))
            filed.setdefault(column, {})[j] = tuple(allowed)
        else:
            always.append(j)
    always += [j for listed in filed.values() if len(listed) < WORTH_AN_INDEX for j in listed]
    found = []
    for column, listed in filed.items():
        if len(listed) < WORTH_AN_INDEX:
            continue
        of_value: dict[bytes, list[int]] = {}
        for j, values in listed.items():
            for value in values:
                of_value.setdefault(value, []).append(j)
        found.append((columns.index(column), {value: _numbers(numbers) for value, numbers in of_value.items()}))
    return _numbers(sorted(always)), tuple(found)


def _subscription(made: Generator, s: Subscription, columns: list[str]) -> tuple[Any, ...]:
    return (
        s.slot,
        topics.agency(s.agreement.id),
        frame.header(s.schema_id),
        varint.encode_text(s.agreement.id) + s.agreement.grant_hash,
        int(s.grant.share_verdict and made.verifies),
        sum(1 << VERDICTS.index(v) for v in s.grant.verdicts),
        int(s.clear),
        (s.secret, _person(identity.PSEUDONYM), b""),
        _row_key(s.secret, made.dataset.name),
        tuple((columns.index(column), tuple(sorted(allowed))) for column, allowed in s.projection.conditions),
        tuple(_parts(made, s, columns)),
    )


def _parts(made: Generator, s: Subscription, columns: list[str]) -> Iterable[tuple[Any, ...]]:
    theirs = list(made.register.fields)
    for part, last in s.projection.runs():
        memo = part.masked.memo
        apply = None if memo else part.masked.apply
        if part.of_register:
            yield _OF_REGISTER, theirs.index(part.column), 0, int(part.nullable), memo, apply
        elif part.masked.apply is None:
            yield _OF_ROW, columns.index(part.column), columns.index(last.column), 0, None, None
        elif part.masked.keyed:
            yield _PSEUDONYM, columns.index(part.column), 0, int(split_null(made.dataset.fields[part.column])[1]), None, apply
        else:
            yield _MASKED, columns.index(part.column), 0, 0, memo, apply
