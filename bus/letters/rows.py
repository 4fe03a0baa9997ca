"""Which row and person an event is about, and where it stands in its database: so it is told what is newer than a letter."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bus.avro import varint
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.avro.dataset import Dataset, SchemaError
from bus.avro.frame import HEADER_BYTES, Malformed, schema_id
from bus.avro.walker import compile_walker
from bus.core.topics import REDRIVEN_HEADER
from bus.letters.letter import Letter

_POSITION = ("source.system_id", "source.lsn", "source.ordinal")


class Stand(NamedTuple):
    """`position`: (system id, commit LSN, ordinal); `row`: the primary key's Avro bytes."""

    position: tuple[int, int, int]
    row: bytes


class Rows:
    """Of one dataset, by the schema that each event was written with."""

    def __init__(self, dataset: Dataset, found: Catalogue) -> None:
        self._dataset, self._found = dataset, found
        self._keys = [c for c in dataset.fields if c in dataset.primary_key]
        self._walks: dict[int, Callable[[bytes], dict[str, tuple[int, int] | None]] | None] = {}

    def stand(self, value: bytes | None) -> Stand | None:
        """None where the event cannot be read by a schema that is registered."""
        if value is None:
            return None
        try:
            number = schema_id(value)
            if number not in self._walks:
                self._walks[number] = self._walk(number)
            walk = self._walks[number]
            return None if walk is None else self._stand(value, walk(value))
        except (Malformed, IndexError):
            return None

    def _walk(self, number: int) -> Callable[[bytes], dict[str, tuple[int, int] | None]] | None:
        wanted = [f"{side}.{c}" for side in ("before", "after") for c in self._keys]
        try:
            return compile_walker(json.loads(self._found.schema(number)), [*_POSITION, *wanted], start=HEADER_BYTES)
        except (CatalogueError, SchemaError, ValueError):
            return None

    def _stand(self, value: bytes, found: Mapping[str, tuple[int, int] | None]) -> Stand:
        system, lsn, ordinal = (varint.decode(value, (found[name] or (0, 0))[0])[0] for name in _POSITION)
        side = "after" if found[f"after.{self._keys[0]}"] else "before"
        spans = [found[f"{side}.{c}"] or (0, 0) for c in self._keys]
        return Stand((system, lsn, ordinal), b"".join(value[a:z] for a, z in spans))


@dataclass(slots=True)
class Candidate:
    """A letter that today's engine would take. `newer` is filled by `Newer.look`: why it may not be put through, or ''."""

    letter: Letter
    stand: Stand | None
    newer: str = ""


@dataclass(slots=True)
class Newer:
    """Looks at the records of an input topic for what would make a candidate too late.

    An event of the same key (person or row) in its lane, or of the same row in any lane, that was committed after it and was
    processed: redelivering an old state over a newer one would break the order that agencies rely on.
    """

    rows: Rows
    dead: set[tuple[int, int]]
    """(lane, offset) of originals that are dead letters: they were not processed."""
    _by_key: dict[tuple[int, bytes], list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    _by_row: dict[bytes, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    _by_id: dict[bytes, list[Candidate]] = field(default_factory=lambda: defaultdict(list))

    def add(self, candidates: Iterable[Candidate]) -> None:
        for one in candidates:
            assert one.letter.origin is not None
            self._by_key[one.letter.origin[0], one.letter.key or b""].append(one)
            if one.stand is not None:
                self._by_row[one.stand.row].append(one)
            if one.letter.event_id:
                self._by_id[one.letter.event_id].append(one)

    def look(self, message: Any) -> None:
        lane, offset, value = message.partition(), message.offset(), message.value()
        copy_of = dict(message.headers() or ()).get(REDRIVEN_HEADER)
        same_key = self._by_key.get((lane, message.key() or b""), ())
        stand = self.rows.stand(value) if same_key or self._by_row else None
        same_row = self._by_row.get(stand.row, ()) if stand is not None else ()
        for one in {id(c): c for c in (*same_key, *same_row)}.values():
            self._judge(one, lane, offset, stand)
        for one in self._by_id.get(bytes(value[5:21]) if value else b"", ()):
            if (lane, offset) != one.letter.origin and (lane, offset) not in self.dead:
                one.newer = f"the same event stands again at lane {lane} offset {offset}: it was put through already"
        if copy_of is not None:
            self._copied(copy_of, lane, offset)

    def _judge(self, one: Candidate, lane: int, offset: int, stand: Stand | None) -> None:
        origin = one.letter.origin
        if one.newer or origin == (lane, offset) or (lane, offset) in self.dead:
            return
        same = stand is not None and one.stand is not None and stand.position[0] == one.stand.position[0]
        if same and stand is not None and one.stand is not None:
            later = stand.position > one.stand.position
        else:
            later = origin is not None and lane == origin[0] and offset > origin[1]
        if later:
            what = "row" if stand is not None and one.stand is not None and stand.row == one.stand.row else "person"
            one.newer = f"superseded: the {what} has a later event, at lane {lane} offset {offset}"

    def _copied(self, copy_of: bytes | str | None, lane: int, offset: int) -> None:
        text = copy_of.decode("ascii", "replace") if isinstance(copy_of, bytes) else str(copy_of)
        for listed in self._by_key.values():
            for one in listed:
                if str(one.letter.place) == text:
                    one.newer = f"redriven before: its copy stands at lane {lane} offset {offset}"
