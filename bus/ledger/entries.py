"""What the conservation ledger keeps of a record: where it stands, what it stands for, and nothing of what is in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bus.avro import varint
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.avro.frame import HEADER_BYTES, Malformed, schema_id
from bus.avro.walker import compile_walker
from bus.core import topics
from bus.core.outcome import OUTCOMES
from bus.core.position import EVENT_ID_BYTES
from bus.core.topics import REDRIVEN_HEADER
from bus.engine import deadletter, lanes
from bus.ledger.decoding import Decoder

Message = Any
"""A confluent_kafka Message, or anything with its methods value, offset, headers and timestamp."""
Entry = Any
"""One of the tuples below."""
Distil = Callable[[Message], Entry]
Decisions = tuple[tuple[str, str], ...]
"""(agreement, outcome), in the order of the record."""
_ID_END = HEADER_BYTES + EVENT_ID_BYTES
_KEPT_DECISIONS = 4_096


class Captured(NamedTuple):
    """A record of an input. `event_id` is b'' where none can be read; `redriven`: it is the copy of a dead letter."""

    offset: int
    event_id: bytes
    redriven: bool


class Verified(NamedTuple):
    offset: int
    event_id: bytes
    decisions: Decisions


class Letter(NamedTuple):
    """A dead letter. `origin`: the input's offset, -1 for what capture could not make an event of."""

    offset: int
    origin: int
    code: str


class Delivered(NamedTuple):
    """A record of an agency's topic. `seq` is 0 for one that is no delivery under the topic's agreement."""

    offset: int
    event_id: bytes
    seq: int
    grant_hash: bytes
    dataset: str


class Line(NamedTuple):
    """An audit line, as its schema has it."""

    offset: int
    content: dict[str, Any]


class LaneRecord(NamedTuple):
    offset: int
    state: lanes.LaneState


def event_id(value: bytes | None) -> bytes:
    """Of a change event, a verified event or a delivery: they all begin with it. b'' where the bytes have no room for one."""
    return value[HEADER_BYTES:_ID_END] if value is not None and len(value) >= _ID_END and not value[0] else b""


class Distillery:
    """How each kind of topic is read. `found`: the catalogue by which its records were written."""

    def __init__(self, found: Catalogue, datasets: Mapping[str, str]) -> None:
        """`datasets`: how a delivery's schema names a dataset ('civil_birth') -> its name."""
        self._found, self._datasets, self._decoder = found, datasets, Decoder(found)
        self._walks: dict[int, Callable[[bytes], dict[str, tuple[int, int] | None]]] = {}
        self._decisions: dict[bytes, Decisions] = {}
        self._of_schema: dict[int, str] = {}

    def captured(self, message: Message) -> Captured:
        headers = message.headers()
        redriven = bool(headers) and any(name == REDRIVEN_HEADER for name, _ in headers)
        return Captured(message.offset(), event_id(message.value()), redriven)

    def verified(self, message: Message) -> Verified:
        value = message.value()
        return Verified(message.offset(), event_id(value), self._decided(value))

    def _decided(self, value: bytes | None) -> Decisions:
        """None of a record that is no verified event."""
        try:
            number = schema_id(value or b"")
            walk = self._walks.get(number)
            if walk is None:
                walk = self._walks[number] = compile_walker(
                    json.loads(self._found.schema(number)), ["decisions"], start=HEADER_BYTES
                )
            span = walk(value or b"")["decisions"]
        except (Malformed, CatalogueError, ValueError):
            return ()
        start, end = span or (0, 0)
        raw = (value or b"")[start:end]
        known = self._decisions.get(raw)
        if known is None:
            if len(self._decisions) >= _KEPT_DECISIONS:
                self._decisions.clear()
            known = self._decisions[raw] = _decisions(raw)
        return known

    @staticmethod
    def letter(message: Message) -> Letter:
        headers = dict(message.headers() or ())
        code = bytes(headers.get(deadletter.CODE_HEADER) or b"?").decode("ascii", "replace")
        try:
            captured = int(headers[deadletter.PARTITION_HEADER]) < 0
            origin = -1 if captured else int(headers[deadletter.OFFSET_HEADER])
        except (KeyError, TypeError, ValueError):
            origin = -1
        return Letter(message.offset(), origin, code)

    def delivered(self, agreement: str) -> Callable[[Message], Delivered]:
        """For the topic of one agreement."""
        name = varint.encode_text(agreement)

        def distil(message: Message) -> Delivered:
            value, offset = message.value(), message.offset()
            try:
                number = schema_id(value or b"")
                seq, end = varint.decode(value, _ID_END)
                stop = end + len(name)
                if seq < 1 or value[end:stop] != name:
                    return Delivered(offset, event_id(value), 0, b"", "")
                return Delivered(offset, value[HEADER_BYTES:_ID_END], seq, value[stop : stop + 32], self._dataset(number))
            except (IndexError, Malformed, TypeError):
                return Delivered(offset, b"", 0, b"", "")

        return distil

    def _dataset(self, number: int) -> str:
        found = self._of_schema.get(number)
        if found is None:
            try:
                namespace = str(json.loads(self._found.schema(number)).get("namespace", ""))
            except (CatalogueError, ValueError, AttributeError):
                namespace = ""
            found = self._of_schema[number] = self._datasets.get(namespace.rpartition(".")[2], "")
        return found

    def line(self, message: Message) -> Line:
        """Raises Malformed, CatalogueError for what is no audit line."""
        return Line(message.offset(), self._decoder.decode(message.value()))

    @staticmethod
    def lane(message: Message) -> LaneRecord:
        """Raises ValueError for what is no lane record."""
        return LaneRecord(message.offset(), lanes.decode(message.value()))

    def of(self, topic: str, inputs: Mapping[str, str]) -> Distil:
        """`inputs`: input topic -> dataset."""
        if topic in inputs:
            return self.captured
        if topic == topics.AUDIT:
            return self.line
        if topic == topics.LANES:
            return self.lane
        if topic.startswith(topics.agency("")):
            return self.delivered(topic.removeprefix(topics.agency("")))
        return self.letter if topic.startswith(topics.dead("")) else self.verified


def _decisions(raw: bytes) -> Decisions:
    """An Avro array of (agreement, outcome) that a walk has been over."""
    found: list[tuple[str, str]] = []
    at = 0
    while True:
        count, at = varint.decode(raw, at)
        if count == 0:
            return tuple(found)
        for _ in range(count):
            length, at = varint.decode(raw, at)
            name, at = raw[at : at + length].decode(), at + length
            outcome, at = varint.decode(raw, at)
            found.append((name, OUTCOMES[outcome]))
