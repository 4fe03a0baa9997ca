"""A dead letter as it lies in `dead.<dataset>`, and what can be done about its code."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from bus.avro import frame
from bus.core import topics
from bus.core.outcome import DeadCode
from bus.engine import deadletter
from bus.ledger.entries import event_id

_PLACE = re.compile(r"(dead\.[A-Za-z0-9._-]+)/([0-9]{1,6})/([0-9]{1,18})")
_HEADER = re.compile(r"x-[a-z-]+|kafka_dlt-original-(topic|partition|offset|timestamp)")


class LetterError(ValueError):
    """A dead letter or a plan cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a letter lies. As text: 'dead.civil.birth/2/17'."""

    topic: str
    lane: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises LetterError."""
        found = _PLACE.fullmatch(text)
        if not found:
            raise LetterError(f"{text!r} is no dead letter's place: give TOPIC/LANE/OFFSET, as dead.civil.birth/2/17")
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.topic}/{self.lane}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """`origin` is None for what capture could not make an event of; `position` then says where it was committed."""

    place: Place
    dataset: str
    code: str
    source: str
    """The input topic."""
    origin: tuple[int, int] | None
    """(lane, offset) there."""
    position: str
    at_ms: int
    """When it became a dead letter."""
    origin_ms: int
    """When the original was written; 0: not known."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, message: Any) -> Letter:
        """Of a record of a dead topic, whoever wrote it."""
        raw = tuple((name, value if isinstance(value, bytes) else b"") for name, value in message.headers() or ())
        headers = dict(raw)
        topic = message.topic()
        lane, offset = _text(headers, deadletter.PARTITION_HEADER), _text(headers, deadletter.OFFSET_HEADER)
        known = lane.isdigit() and offset.isdigit()
        origin_ms = int.from_bytes(headers.get(f"{deadletter.SPRING_PREFIX}timestamp", b"")[:8], "big")
        return cls(
            Place(topic, message.partition(), message.offset()),
            topic.removeprefix(topics.dead("")),
            _text(headers, deadletter.CODE_HEADER) or "?",
            _text(headers, deadletter.TOPIC_HEADER),
            (int(lane), int(offset)) if known else None,
            "" if known else offset,
            message.timestamp()[1],
            origin_ms,
            message.key(),
            message.value(),
            raw,
        )

    @property
    def event_id(self) -> bytes:
        """b'' where the bytes have none."""
        return event_id(self.value) if self.origin else b""

    @property
    def digest(self) -> str:
        """SHA-256 over key and value, in hexadecimal: what a plan is bound to."""
        found = hashlib.sha256()
        for part in (self.key, self.value):
            found.update(b"\0" if part is None else b"\1" + len(part).to_bytes(8, "big") + part)
        return found.hexdigest()

    def told(self) -> dict[str, Any]:
        """Without a byte of what the record holds."""
        return {
            "letter": str(self.place),
            "dataset": self.dataset,
            "code": self.code,
            "at_ms": self.at_ms,
            "source": {"topic": self.source, "lane": self.origin[0], "offset": self.origin[1]}
            if self.origin
            else {"topic": self.source, "position": self.position},
            "event_id": self.event_id.hex() or None,
            "bytes": None if self.value is None else len(self.value),
        }

    def frame_told(self) -> dict[str, Any]:
        """Of the value the frame alone: five bytes, which hold no data."""
        value = self.value or b""
        try:
            schema_id: int | None = frame.schema_id(value) if self.origin else None
        except frame.Malformed:
            schema_id = None
        framed = schema_id is not None
        return {"frame": value[: frame.HEADER_BYTES].hex() if framed else None, "schema_id": schema_id}

    def shown_headers(self) -> dict[str, str]:
        """The bus's own and Spring's; of others the name alone."""
        return {name: _shown(name, value) if _HEADER.fullmatch(name) else "***" for name, value in self.headers}


def _shown(name: str, value: bytes) -> str:
    if name.startswith(deadletter.SPRING_PREFIX) and not name.endswith("topic"):
        return str(int.from_bytes(value[:8], "big", signed=True))
    return value.decode("utf-8", "replace")[:200]


def _text(headers: dict[str, bytes], name: str) -> str:
    return headers.get(name, b"").decode("utf-8", "replace")[:200]


REMEDIES: dict[str, str] = {
    DeadCode.UNKNOWN_SCHEMA.value: "register the schema under the topic's subject (`bus schema check`, `bus up`), then redrive",
    DeadCode.TOO_LARGE.value: "raise engine.max_record_bytes if such rows are right (`bus down`, `bus up`), then redrive; "
    "otherwise the agency shortens the row, whose next change passes",
    DeadCode.BAD_FRAME.value: "not written by capture: find out who may write to the topic (`bus doctor`); nothing to redrive",
    DeadCode.MALFORMED.value: "the bytes do not fit their schema and never will: find out who wrote them; if it was the bus, "
    "keep the letter and report it. Redriving helps only after the engine itself was mended",
    DeadCode.OLD_SCHEMA.value: "written under an earlier schema that today's cannot read (`bus schema diff` says why): "
    "release a schema that can, such as one that gives a new field a default, then redrive",
    DeadCode.TRUNCATE.value: "cannot be redriven: the rows are gone and no event says which. Ask the agency: it tells the "
    "subscribers, or capture of the database begins anew (`python -m connectors.capture.forget`)",
    DeadCode.UNCONVERTIBLE.value: "cannot be redriven: there is no event. The agency corrects the value (an infinity, a number "
    "out of range), and that change passes",
}
"""By code, what to do."""


def remedy(letter: Letter) -> str:
    """For this letter: capture's too-large events never were on a topic."""
    if letter.code == DeadCode.TOO_LARGE.value and letter.origin is None:
        return "cannot be redriven: the event never was on a topic. The agency shortens the row, and that change passes"
    if letter.code == DeadCode.TOO_LARGE.value and letter.value is None:
        return (
            "cannot be redriven: longer than a dead letter carries (8,000,000 bytes); the original stands where the headers say"
        )
    return REMEDIES.get(letter.code, "a code that this version does not know: upgrade, or find out who wrote the letter")
