"""Made-up people and change events for measurements and tests: any dataset's schema, about what sectors' records are like.

Rows agree with the register except for about one in twenty, some PINs are unknown and some missing. Seeded: the same
arguments give the same events.
"""

from __future__ import annotations

import datetime
import io
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import fastavro

from bus.avro import derive, frame
from bus.avro.dataset import Dataset, Role
from bus.core import identity

FAMILIES = ["Nguyễn", "Trần", "Lê", "Phạm", "Hoàng", "Huỳnh", "Phan", "Vũ", "Võ", "Đặng", "Bùi", "Đỗ", "Hồ", "Ngô", "Dương", "Lý"]
MIDDLES = {
    "M": ["Văn", "Hữu", "Đức", "Minh", "Quang", "Công", "Thành", "Xuân"],
    "F": ["Thị", "Ngọc", "Thu", "Thanh", "Kim", "Mỹ", "Hồng", "Bích"],
}
GIVEN = {
    "M": ["An", "Bình", "Cường", "Dũng", "Đạt", "Giang", "Hải", "Hùng", "Khánh", "Long"],
    "F": ["Anh", "Chi", "Diệp", "Dung", "Hà", "Hạnh", "Hoa", "Hương", "Lan", "Linh"],
}
PROVINCES = ["79"] * 4 + ["01"] * 4 + ["48", "31", "92", "46", "56", "75", "80", "37"]
WORDS = [
    "Phường Bến Nghé",
    "Xã Tân Phú",
    "12 đường Lê Lợi",
    "tổ dân phố 5",
    "quá hạn",
    "A1-2031",
    "đã đối chiếu",
    "Trường Tiểu học Kim Đồng",
]
STATES = {
    "status": ["alive", "issued", "studying", "in_force"],
    "participation": ["compulsory", "household", "voluntary", "child"],
    "sex": ["Nam", "Nữ"],
}
"""Columns whose values decide about row filters; anything else is free text."""
BASE_MS = 1_780_000_000_000
_WRONG, _UNKNOWN, _MISSING = 0.05, 0.02, 0.02
_EPOCH = datetime.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Person:
    pin: str
    full_name: str
    birth_date: datetime.date
    sex: str


def person(number: int, seed: int = 0) -> Person:
    """The `number`th of this seed's people."""
    rng = random.Random(seed << 32 | number)
    sex = rng.choice("MF")
    name = f"{rng.choice(FAMILIES)} {rng.choice(MIDDLES[sex])} {rng.choice(GIVEN[sex])}"
    pin = f"0{rng.choice(PROVINCES)}{rng.randrange(4)}{rng.randrange(100):02d}{number % 1_000_000:06d}"
    return Person(pin, name, _EPOCH + datetime.timedelta(days=rng.randrange(-10_000, 20_000)), sex)


class Encoder:
    """Frames rows of one dataset as change events."""

    def __init__(self, dataset: Dataset, schema_id: int) -> None:
        self._dataset, self._header = dataset, frame.header(schema_id)
        self._schema = fastavro.parse_schema(derive.change(dataset))

    def encode(
        self, number: int, op: str, before: dict[str, Any] | None, after: dict[str, Any] | None, at_ms: int = BASE_MS
    ) -> bytes:
        """The framed change event; `number` makes its event id and position."""
        source = {
            "db": self._dataset.domain, "schema": "public", "table": self._dataset.table, "system_id": 7_000_000_000_000_000_001,
            "lsn": 1_000_000 + number * 57, "xid": 700 + number, "ordinal": 0, "ts_ms": at_ms, "snapshot": op == "r",
        }  # fmt: skip
        event = {
            "event_id": number.to_bytes(16, "big"),
            "op": op,
            "ts_ms": at_ms,
            "source": source,
            "before": before,
            "after": after,
        }
        out = io.BytesIO()
        out.write(self._header)
        fastavro.schemaless_writer(out, self._schema, event)
        return out.getvalue()


class Events:
    """Change events of one dataset about `people` people of `seed`."""

    def __init__(self, dataset: Dataset, schema_id: int, people: int, secret: bytes, seed: int = 0) -> None:
        self._dataset, self._people, self._secret, self._seed = dataset, people, secret, seed
        self.encoder = Encoder(dataset, schema_id)
        self._columns = {name: _branch(kind) for name, kind in dataset.fields.items()}
        self._nullable = {name for name, kind in dataset.fields.items() if isinstance(kind, list)}

    def register(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of a snapshot row for every person; only for the register's dataset."""
        rng = random.Random(self._seed)
        for number in range(self._people):
            yield self.snapshot_row(number, self.person_row(number, rng))

    def person_row(self, number: int, rng: random.Random) -> dict[str, Any]:
        someone = person(number, self._seed)
        known = {
            "pin": someone.pin,
            "full_name": someone.full_name,
            "birth_date": someone.birth_date.isoformat(),
            "sex": someone.sex,
        }
        return self._row(rng) | known

    def snapshot_row(self, number: int, row: dict[str, Any]) -> tuple[bytes, bytes]:
        return identity.person_key(self._secret, row["pin"].encode()), self.encoder.encode(number, "r", None, row)

    def changes(self, count: int, at_ms: int = BASE_MS) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of `count` creates, updates and deletes."""
        rng = random.Random(f"{self._seed}/{self._dataset.name}")
        for number in range(count):
            row = self._row(rng)
            for role in self._dataset.people:
                self._fill(row, role, rng)
            op = rng.choices("cud", (6, 3, 1))[0]
            changed = row | {c: v for c, v in self._row(rng).items() if c in ("updated_at", "status", "address")}
            before, after = (None if op == "c" else row), (None if op == "d" else changed if op == "u" else row)
            yield self._key(row), self.encoder.encode(number, op, before, after, at_ms)

    def _key(self, row: dict[str, Any]) -> bytes:
        subject = self._dataset.people[0].pin if self._dataset.people else ""
        if pin := row.get(subject):
            return identity.person_key(self._secret, pin.encode())
        return identity.row_key(self._secret, self._dataset.name, repr([row[c] for c in self._dataset.primary_key]).encode())

    def _fill(self, row: dict[str, Any], role: Role, rng: random.Random) -> None:
        """Someone of the register into one role, now and then with a mistake."""
        someone = person(rng.randrange(self._people), self._seed)
        luck = rng.random()
        row[role.pin] = someone.pin if luck > _UNKNOWN else f"099{rng.randrange(10**9):09d}"
        if role.pin in self._nullable and luck > 1 - _MISSING:
            row[role.pin] = None
        values: dict[str, Any] = {
            "full_name": someone.full_name,
            "birth_date": someone.birth_date,
            "sex": "Nam" if someone.sex == "M" else "Nữ",
        }
        if rng.random() < _WRONG:
            values["full_name"] += " Em"
        for field, column in role.match.items():
            row[column] = _as(values[field], self._columns[column])

    def _row(self, rng: random.Random) -> dict[str, Any]:
        return {
            name: None if name in self._nullable and rng.random() < 0.1 else _value(name, kind, rng)
            for name, kind in self._columns.items()
        }


def _branch(kind: Any) -> str:
    """The type of a column when it is not null, logical types by their name; decimals with their scale."""
    if isinstance(kind, list):
        kind = next(k for k in kind if k != "null")
    if isinstance(kind, dict):
        return f"decimal{kind['scale']}" if kind.get("logicalType") == "decimal" else str(kind.get("logicalType", kind["type"]))
    return str(kind)


def _as(value: Any, kind: str) -> Any:
    """A birth date as the column has it: a date, a year, or text."""
    if not isinstance(value, datetime.date):
        return value
    return value if kind == "date" else value.year if kind == "int" else value.isoformat()


def _value(name: str, kind: str, rng: random.Random) -> Any:
    if kind == "string":
        return rng.choice(PROVINCES if name.endswith("province_code") else STATES.get(name, WORDS))
    if kind.startswith("decimal"):
        return Decimal(rng.randrange(1, 10_000)).scaleb(-int(kind[7:]))
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=rng.randrange(20_000_000))
    made: dict[str, Any] = {
        "int": rng.randrange(1, 12),
        "long": rng.randrange(1, 10**9),
        "boolean": rng.random() < 0.5,
        "float": 0.5,
        "double": rng.random() * 100,
        "bytes": b"\x07" * 32,
        "uuid": uuid.UUID(int=rng.getrandbits(128)),
        "date": _EPOCH + datetime.timedelta(days=rng.randrange(15_000, 20_000)),
        "timestamp-micros": moment,
        "local-timestamp-micros": moment.replace(tzinfo=None),
    }
    return made[kind]
