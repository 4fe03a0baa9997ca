"""What comes of a request: something to write and to answer, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bus.avro.records import Record


class Refused(Exception):
    """The answer is an error: HTTP status, Confluent's code, and a message for people."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write, all or nothing, and what to answer once it is read back."""

    answer: Any
    records: tuple[Record, ...] = ()
