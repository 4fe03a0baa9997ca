"""What the register replica stores under a person key, and how it is made from the register's change events.

Layout of a stored value, positions counted from its first byte:
    (columns + 1) × uint32 little-endian   where each column of the row begins, and where the last one ends
    02, zigzag varint                      the record's offset in its lane, as the union branch `register_offset` wants it
    02, row                                the register's row in Avro, as the union branch `person` wants it
So a comparison is an equality of two slices, and a verified event takes both unions over as they lie.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass

from bus.avro import derive, varint
from bus.avro.dataset import Dataset
from bus.avro.frame import HEADER_BYTES, Malformed, schema_id
from bus.avro.older import Resolve
from bus.avro.scalar import content
from bus.avro.walker import compile_walker
from bus.core import identity
from bus.core.outcome import CHANGE_OPS, DeadCode
from bus.core.position import EVENT_ID_BYTES

Pack = Callable[..., bytes | None]
"""pack(value, offset, key)."""
MAX_RECORD_BYTES = 1_048_576
Span = tuple[int, int] | None
_PRESENT = b"\2"
_OP_AT = HEADER_BYTES + EVENT_ID_BYTES
_UPDATE, _DELETE = (2 * CHANGE_OPS.index(op) for op in "ud")


def compile_packer(
    register: Dataset,
    accepted_id: int | None = None,
    max_record_bytes: int = MAX_RECORD_BYTES,
    secret: bytes | None = None,
    older: Resolve | None = None,
) -> Pack:
    """pack(value of a register change event, its offset, its key) -> the replica's value; None: the person is to be removed.

    `accepted_id`: the only id accepted (None: any). `secret`: the bus's, by which the key must be the PIN's (None: any key).
    `older` makes of an event under another id one that is accepted.
    `pack` raises Malformed for bytes that are not such an event, for a key that is another person's, and for an event that a
    plan refuses, too, because its images are not those of its op or are of two rows.
    """
    pin = register.people[0].pin
    pin_before, pin_after = f"before.{pin}", f"after.{pin}"
    columns = list(register.fields)
    after = [f"after.{c}" for c in columns]
    fixed = [(f"before.{c}", f"after.{c}") for c in columns if c == pin or c in register.primary_key]
    walk = compile_walker(derive.change(register), [*(was for was, _ in fixed), *after], start=HEADER_BYTES)
    ends = struct.Struct(f"<{len(columns) + 1}I")

    def pack(change: bytes, offset: int, key: bytes | None = None) -> bytes | None:
        if len(change) > max_record_bytes:
            raise Malformed(DeadCode.TOO_LARGE)
        written_by = schema_id(change)
        if accepted_id is not None and written_by != accepted_id:
            if older is None:
                raise Malformed(DeadCode.UNKNOWN_SCHEMA)
            change = older(change)
        found = walk(change)
        for was, now in fixed:
            if not _is_whole(change, found[was], found[now]):
                raise Malformed
        if secret is not None:
            start, end = found[pin_after] or found[pin_before] or (0, 0)
            if key != identity.person_key(secret, content(change[start:end])):
                raise Malformed  # else one person would be verified against another's record
        spans = [span for span in map(found.__getitem__, after) if span]
        if not spans:
            return None
        lane_offset = _PRESENT + varint.encode(offset)
        begin, end = spans[0][0], spans[-1][1]
        shift = ends.size + len(lane_offset) + len(_PRESENT) - begin
        places = ends.pack(*(start + shift for start, _ in spans), end + shift)
        return b"".join((places, lane_offset, _PRESENT, change[begin:end]))

    return pack


def _is_whole(change: bytes, was: Span, now: Span) -> bool:
    """Whether the op has its images, and those of an update are of one row. `was`, `now`: a key column before and after."""
    op = change[_OP_AT]
    if op == _UPDATE:
        return was is not None and now is not None and change[was[0] : was[1]] == change[now[0] : now[1]]
    return (now is None and was is not None) if op == _DELETE else (was is None and now is not None)


@dataclass(frozen=True, slots=True)
class Reading:
    """How generated code reads the columns it needs of a packed value, held in the variable `record`."""

    record: str

    unpack: Callable[[bytes], tuple[int, ...]]
    """The value -> the places named by `variables`, in order."""
    variables: tuple[str, ...]
    spans: dict[str, tuple[str, str]]
    """Column -> variables with its start and end."""
    offset: str
    """Expression of the union `register_offset`."""
    person: str
    """Expression of the union `person`."""


def reading(register: Dataset, columns: Collection[str], record: str, prefix: str) -> Reading:
    """The reading of these columns of the register; `prefix` begins the names of its variables."""
    names = list(register.fields)
    places = {0} | {names.index(c) + d for c in columns for d in (0, 1)}
    layout = "".join("I" if k in places else "4x" for k in range(len(names) + 1))
    spans = {c: (f"{prefix}{names.index(c)}", f"{prefix}{names.index(c) + 1}") for c in columns}
    head = 4 * (len(names) + 1)
    unpack = struct.Struct(f"<{layout}").unpack_from
    variables = tuple(f"{prefix}{k}" for k in sorted(places))
    return Reading(record, unpack, variables, spans, f"{record}[{head}:{prefix}0-1]", f"{record}[{prefix}0-1:]")
