"""What a plan must do, in the plainest way: decode with fastavro, decide on dicts, encode with fastavro.

Shares with the engine only the derived schemas and the comparison rules of `bus.core.matching`. Dates stay days: logical types
are taken out of the schemas, so that no library's idea of a date gets a say.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import fastavro

from bus.avro import derive
from bus.avro.dataset import Dataset
from bus.core.agreement import Agreement, Grant, Mask, MaskKind
from bus.core.matching import COMPARE

Row = dict[str, Any]
VERDICTS = ("MATCH", "NO_PIN", "NOT_FOUND", "MISMATCH")


class Refused(Exception):
    """The event is one for the dead letters."""


@dataclass(frozen=True)
class Known:
    """A person in the register: row and offset."""

    row: Row
    offset: int


@dataclass(frozen=True)
class World:
    """Everything that decides what becomes of an event."""

    dataset: Dataset
    register: Dataset
    agreements: tuple[Agreement, ...]
    ids: Mapping[str, int]
    """Subject -> schema id."""
    person_secret: bytes
    agreement_secret: bytes
    people: Mapping[str, Known]
    """By PIN."""

    def person_key(self, pin: str) -> bytes:
        return hmac.new(self.person_secret, pin.encode(), hashlib.sha256).digest()[:16]

    def key_of(self, row: Row) -> bytes:
        pin = row[self.dataset.people[0].pin] if self.dataset.people else None
        return self.person_key(pin) if pin else self.row_key(self.person_secret, row)

    def row_key(self, secret: bytes, row: Row) -> bytes:
        types = self.dataset.fields
        raw = b"".join(encode(types[c], row[c]) for c in types if c in self.dataset.primary_key)
        head = self.dataset.name.encode() + b"\0"
        return hashlib.blake2b(head + raw, key=secret, digest_size=16, person=b"bus.row").digest()


def bare(schema: Any) -> Any:
    """Without logical types."""
    if isinstance(schema, list):
        return [bare(s) for s in schema]
    if isinstance(schema, dict):
        return {k: bare(v) if k in ("type", "items", "values", "fields") else v for k, v in schema.items() if k != "logicalType"}
    return schema


def encode(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(bare(schema)), value)
    return out.getvalue()


def decode(schema: Any, raw: bytes) -> Any:
    stream = io.BytesIO(raw)
    value = fastavro.schemaless_reader(stream, fastavro.parse_schema(bare(schema)), None)
    if stream.read():
        raise Refused
    return value


def frame(schema_id: int, schema: Any, value: Any) -> bytes:
    return struct.pack(">bI", 0, schema_id) + encode(schema, value)


def _text(avro_type: Any, value: Any) -> str | None:
    """How a value reads; a date as ISO 8601."""
    inner = next(t for t in avro_type if t != "null") if isinstance(avro_type, list) else avro_type
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(inner, dict) and inner.get("logicalType") == "date":
        return (date(1970, 1, 1) + timedelta(days=value)).isoformat()
    return str(value)


def _moved(dataset: Dataset, before: Row, after: Row) -> bool:
    """Whether an update leads to another person or another row."""
    pins = [role.pin for role in dataset.people[:1]]
    return any((before[p] or "") != (after[p] or "") for p in pins) or any(before[c] != after[c] for c in dataset.primary_key)


def _is_year(avro_type: Any) -> bool:
    return "int" in (avro_type, *(avro_type if isinstance(avro_type, list) else ()))


def verify(world: World, row: Row, key: bytes) -> tuple[list[Row], Known | None]:
    """(one `Verification` for each person present, the subject's record)."""
    found: list[Row] = []
    subject: Known | None = None
    by_key = {world.person_key(pin): known for pin, known in world.people.items()}
    for place, role in enumerate(world.dataset.people):
        pin = row[role.pin]
        stated = [row[c] for c in (role.pin, *role.match.values())]
        if place and all(v is None for v in stated):
            continue
        entry: Row = {"role": role.name, "status": "NO_PIN", "mismatched": [], "register_offset": None}
        found.append(entry)
        if not pin:
            continue
        known = by_key.get(key if place == 0 else world.person_key(pin))
        if known is None:
            entry["status"] = "NOT_FOUND"
            continue
        if place == 0:
            subject = known
            if known.row[world.register.people[0].pin] != pin:
                raise Refused
        entry["register_offset"] = known.offset
        entry["mismatched"] = [f for f, c in role.match.items() if _contradict(world, row[c], c, known.row[f], f)]
        entry["status"] = "MISMATCH" if entry["mismatched"] else "MATCH"
    return found, subject


def _contradict(world: World, ours: Any, column: str, theirs: Any, field: str) -> bool:
    our_type, their_type = world.dataset.fields[column], world.register.fields[field]
    rule = next(f for f in world.register.row["fields"] if f["name"] == field).get("compare", "text")
    left, right = _text(our_type, ours), _text(their_type, theirs)
    if left is None or right is None:
        return False
    if rule == "date":
        left = left.zfill(4) if _is_year(our_type) else left
        right = right.zfill(4) if _is_year(their_type) else right
    return not COMPARE[rule](left, right)


def gravest(entries: list[Row]) -> str | None:
    return max((e["status"] for e in entries), key=VERDICTS.index) if entries else None


def mask(value: Any, avro_type: Any, how: Mask, secret: bytes) -> Any:
    if value is None or how == Mask.PLAIN:
        return value
    if how.kind is MaskKind.BAND:
        number = _whole(avro_type, value)
        return max(number - number % how.size, -(2**63))
    text = _text(avro_type, value)
    assert text is not None
    if how == Mask.YEAR:
        digits = text[:4]
        return int(digits) if len(digits) == 4 and digits.isascii() and digits.isdigit() else None
    if how.kind is MaskKind.LAST:
        return text[-how.size :] if len(text) >= how.size else ""
    return hashlib.blake2b(text.encode(), key=secret, digest_size=16, person=b"bus.pseudonym").hexdigest()


def _whole(avro_type: Any, value: Any) -> int:
    """What a number, a decimal or a date is rounded down to before it is put into a band."""
    inner = avro_type[1] if isinstance(avro_type, list) else avro_type
    if isinstance(value, bytes):
        return math.floor(Fraction(int.from_bytes(value, "big", signed=True), 10 ** inner["scale"]))
    return (date(1970, 1, 1) + timedelta(days=value)).year if isinstance(inner, dict) else int(value)


class Reference:
    """Counts on over several events, like a lane."""

    def __init__(self, world: World, schemas: Mapping[str, Any]) -> None:
        self.world, self.schemas = world, schemas
        self.seqs = [0] * len(world.agreements)
        self.change = derive.change(world.dataset)
        self.verified = derive.verified(world.dataset, world.register)

    def handle(self, value: bytes, key: bytes, force: list[bool]) -> list[tuple[str, bytes, bytes]]:
        """The records to write. Raises Refused for what is no event of this dataset."""
        event = self._decode(value)
        before, after, op = event["before"], event["after"], event["op"]
        if (before is None, after is None) != {"c": (True, False), "r": (True, False), "u": (False, False), "d": (False, True)}[
            op
        ]:
            raise Refused
        row = before if op == "d" else after
        if op == "u" and _moved(self.world.dataset, before, after):
            raise Refused
        verifies = bool(self.world.dataset.people) and not self.world.dataset.register
        entries, subject = verify(self.world, row, key) if verifies else ([], None)
        verdict = gravest(entries)
        verdict_before = gravest(verify(self.world, before, key)[0]) if verifies and op == "u" else verdict
        out, decisions = [], []
        for slot, agreement in enumerate(self.world.agreements):
            grant = next((g for g in agreement.grants if g.dataset == self.world.dataset.name), None)
            if grant is None:
                continue
            rule = _Rule(self.world, agreement, grant, subject)
            outcome, sent_op, data, shared = rule.decide(op, before, after, verdict_before, verdict, force[slot])
            decisions.append({"agreement": agreement.id, "outcome": outcome})
            if outcome == "DELIVERED":
                self.seqs[slot] += 1
                out.append(self._deliver(rule, event, row, key, self.seqs[slot], sent_op, data, shared))
        full = {**event, "verification": entries, "decisions": decisions, "person": subject.row if subject else None}
        topic = f"verified.{self.world.dataset.name}"
        out.append((topic, frame(self.world.ids[f"{topic}-value"], self.verified, full), key))
        return out

    def _decode(self, value: bytes) -> Row:
        topic = self.world.dataset.name if self.world.dataset.register else f"change.{self.world.dataset.name}"
        if value[:5] != struct.pack(">bI", 0, self.world.ids[f"{topic}-value"]):
            raise Refused
        try:
            event: Row = decode(self.change, value[5:])
        except (EOFError, ValueError, IndexError, OverflowError) as error:
            raise Refused from error
        return event

    def _deliver(
        self, rule: _Rule, event: Row, row: Row, key: bytes, seq: int, op: str, data: Row | None, shared: str | None
    ) -> tuple[str, bytes, bytes]:
        topic = f"agency.{rule.agreement.id}"
        subject, schema = next((s, x) for s, x in self.schemas.items() if s.startswith(topic + "-") and rule.fits(x))
        content = {
            "event_id": event["event_id"] if rule.clear else rule.pseudonym(event["event_id"]),
            "seq": seq,
            "agreement": rule.agreement.id,
            "grant_hash": rule.agreement.grant_hash,
            "op": op,
            "ts_ms": event["source"]["ts_ms"],
            "row_key": self.world.row_key(self.world.person_secret if rule.clear else rule.secret, row),
            "verdict": shared,
            "data": data,
        }
        return topic, frame(self.world.ids[subject], schema, content), key if rule.clear else rule.pseudonym(key)


class _Rule:
    def __init__(self, world: World, agreement: Agreement, grant: Grant, subject: Known | None) -> None:
        self.world, self.agreement, self.grant, self.subject = world, agreement, grant, subject
        master = world.agreement_secret
        self.secret = hashlib.blake2b(agreement.id.encode(), key=master, digest_size=32, person=b"bus.agreement").digest()
        pin = world.dataset.people[0].pin if world.dataset.people else None
        self.clear = any(f.name == pin and f.mask == Mask.PLAIN for f in grant.fields)

    def pseudonym(self, value: bytes) -> bytes:
        return hashlib.blake2b(value, key=self.secret, digest_size=16, person=b"bus.pseudonym").digest()

    def fits(self, schema: Any) -> bool:
        return bool(schema["namespace"].endswith(f".{self.world.dataset.domain}_{self.world.dataset.table}"))

    def project(self, row: Row) -> Row:
        made = {}
        for field in self.grant.fields:
            owner, source, column = self.world.dataset, row, field.name
            if field.name.startswith("register."):
                owner, column = self.world.register, field.name.split(".", 1)[1]
                source = self.subject.row if self.subject else {}
            made[field.name.replace(".", "_")] = mask(source.get(column), owner.fields[column], field.mask, self.secret)
        return made

    def filtered(self, row: Row | None) -> bool:
        types = self.world.dataset.fields
        return row is not None and all(_text(types[c], row[c]) in allowed for c, allowed in self.grant.where)

    def admits(self, verdict: str | None) -> bool:
        return not self.grant.verdicts or verdict in self.grant.verdicts

    def decide(
        self, op: str, before: Row | None, after: Row | None, verdict_before: str | None, verdict: str | None, force: bool
    ) -> tuple[str, str, Row | None, str | None]:
        """(outcome, op of the delivery, data, verdict shared)."""
        if not force:
            return "NOT_IN_FORCE", "", None, None
        shared = verdict if self.grant.share_verdict else None
        if op != "u":
            row = before if op == "d" else after
            assert row is not None
            if not self.filtered(row):
                return "ROW_FILTER", "", None, None
            if op == "d":
                return "DELIVERED", op, None, shared if self.admits(verdict) else None
            if not self.admits(verdict):
                return "VERDICT", "", None, None
            return "DELIVERED", op, self.project(row), shared
        assert before is not None
        assert after is not None
        passed, passes = self.filtered(before), self.filtered(after)
        was, now = passed and self.admits(verdict_before), passes and self.admits(verdict)
        if now and was:
            same = self.project(before) == self.project(after) and (not self.grant.share_verdict or verdict == verdict_before)
            return ("INVISIBLE", "", None, None) if same else ("DELIVERED", "u", self.project(after), shared)
        if now:
            return "DELIVERED", "c", self.project(after), shared
        if was:
            return "DELIVERED", "w", None, None
        return "VERDICT" if passed or passes else "ROW_FILTER", "", None, None
