"""Verified events, read again: what an agreement that was not there then makes of them, by what was found out then.

A verified event holds the change event, the verdict on each person of the row, and the register's record of the subject. So
the plan that treats change events can treat it (`Grounds.recorded`), with the register as the event has it. Only the verdict of
the row before an update that changed what is checked needs more than was recorded of other people than the subject: for these
the register as it is now is asked.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fastavro

from bus.avro import catalogue, derive, frame
from bus.avro.catalogue import Catalogue
from bus.avro.dataset import Dataset
from bus.avro.frame import HEADER_BYTES
from bus.avro.older import compile_older
from bus.avro.walker import compile_end
from bus.core import topics
from bus.core.outcome import OUTCOMES, VERDICTS, Outcome
from bus.engine.person import compile_packer
from bus.engine.plan import Plan, Record

PersonOf = Callable[[bytes], bytes | None]
_NOT_IN_FORCE = Outcome.NOT_IN_FORCE.value
_NOBODY = b"\0"
_ANY_ID = 1
"""Of the schema in an event that never leaves this module."""


class Register:
    """Answers for the register as one verified event has it: the subject by the record in it, others as they are now."""

    __slots__ = ("key", "now", "subject", "verdict")

    def __init__(self, key: bytes, subject: bytes | None, verdict: int, now: PersonOf) -> None:
        self.key, self.subject, self.verdict, self.now = key, subject, verdict, now

    def __call__(self, key: bytes) -> bytes | None:
        return self.subject if key == self.key else self.now(key)


@dataclass(frozen=True, slots=True)
class Read:
    """One verified event, taken apart."""

    change: bytes
    """The change event, without a frame."""
    verification: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    person: bytes
    """The subject's record, as the union that it is."""


class Recorded:
    """Verified events of one dataset for one agreement. `plan`: of that agreement alone, made by `Grounds.recorded`."""

    def __init__(self, dataset: Dataset, register: Dataset, agreement: str, plan: Plan, found: Catalogue) -> None:
        self.dataset, self.topic = dataset.name, topics.verified(dataset.name)
        self._agreement, self._plan = agreement, plan
        subject, verified = catalogue.value_subject(self.topic), derive.verified(dataset, register)
        self._id = found.id_for(subject, verified)
        self._older = compile_older(subject, verified, self._id, found)
        self._change = frame.header(found.id_for(catalogue.value_subject(dataset.topic), derive.change(dataset)))
        self._end = compile_end(derive.change(dataset), HEADER_BYTES)
        self._found = fastavro.parse_schema(_found(dataset, register))
        self._pack = compile_packer(register)
        self._before_person = _before_person(register)

    def treat(self, value: bytes, key: bytes, now: PersonOf, seqs: list[int], place: int) -> tuple[str, Record | None]:
        """(outcome, the delivery if there is one); outcome '' where the agreement decided on the event when it came.

        Counts on at `seqs[place]`. Raises Malformed for what is no verified event of the schema in use.
        """
        read = self.read(value)
        if any(d["agreement"] == self._agreement and d["outcome"] != _NOT_IN_FORCE for d in read.decisions):
            return "", None
        return self.decide(read, key, now, seqs, place)

    def read(self, value: bytes) -> Read:
        """Raises Malformed for what is no verified event of the schema in use or of one before it."""
        if frame.schema_id(value) != self._id:
            value = self._older(value)
        end = self._end(value)
        rest = io.BytesIO(value[end:])
        found: Any = fastavro.schemaless_reader(rest, self._found, None)
        return Read(value[HEADER_BYTES:end], found["verification"], found["decisions"], value[end + rest.tell() :])

    def decide(self, read: Read, key: bytes, now: PersonOf, seqs: list[int], place: int) -> tuple[str, Record | None]:
        """As `treat`, whatever was decided when the event came."""
        verdict = max((VERDICTS.index(v["status"]) for v in read.verification), default=-1)
        count, out = [seqs[place]], list[Record]()
        about = Register(key, self._person(read.person), verdict, now)
        tally = self._plan.handle(self._change + read.change, key, about, count, (True,), out)
        seqs[place] = count[0]
        outcome = OUTCOMES[tally[1]]
        return outcome, out[0] if outcome == Outcome.DELIVERED.value else None

    def _person(self, union: bytes) -> bytes | None:
        """As the replica has it; nobody asks for the version."""
        return None if union == _NOBODY else self._pack(self._before_person + union, 0)


def _found(dataset: Dataset, register: Dataset) -> dict[str, Any]:
    """The schema of what stands between the change event and the subject's record."""
    fields = derive.verified(dataset, register)["fields"]
    return {"type": "record", "name": "Found", "fields": [f for f in fields if f["name"] in ("verification", "decisions")]}


def _before_person(register: Dataset) -> bytes:
    """A change event of the register as far as its row, which a union of a person continues."""
    source = {
        "db": "",
        "schema": "",
        "table": "",
        "system_id": 0,
        "lsn": 0,
        "xid": 0,
        "ordinal": 0,
        "ts_ms": 0,
        "snapshot": False,
    }
    event = {"event_id": bytes(16), "op": "c", "ts_ms": 0, "source": source, "before": None, "after": None}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(derive.change(register)), event)
    return frame.header(_ANY_ID) + out.getvalue()[:-1]
