"""Canary people: every personal value unmistakable, so that it can be searched for everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from psycopg import sql

from tests.oracle.leaks import Canary
from tests.pipeline.bus import Bus

_SYLLABLES = ("Chim", "Hoàng", "Yến", "Sơn", "Ca", "Đỗ", "Quyên", "Vàng", "Anh", "Hót")


@dataclass(slots=True)
class Aviary:
    """All canaries there are: text -> the fields ('<dataset>.<column>') in which it was put. `rows` are (dataset, key)."""

    fields: dict[str, set[str]] = field(default_factory=dict)
    rows: set[tuple[str, str]] = field(default_factory=set)
    _count: count[int] = field(default_factory=lambda: count(1))

    def pin(self) -> str:
        return f"0777{next(self._count):04d}9317"

    def name(self) -> str:
        n = next(self._count)
        return f"{_SYLLABLES[n % 10]} {_SYLLABLES[n // 10 % 10]} Kỳ{n:03d} Lân"

    def words(self) -> str:
        return f"Ngõ Canary {next(self._count):04d} phố Hàng Chim"

    def phone(self) -> str:
        return f"0999{next(self._count):04d}713"

    def put(self, bus: Bus, dataset: str, key: str, row: Mapping[str, object], personal: set[str]) -> None:
        """Insert a row; the columns in `personal` hold canaries."""
        domain, table = dataset.split(".")
        self.watch(dataset, row, personal)
        self.rows.add((dataset, key))
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(sql.Placeholder() * len(row))
        )
        with bus.owner(domain) as connection:
            connection.execute(statement, list(row.values()))

    def watch(self, dataset: str, row: Mapping[str, object], personal: set[str]) -> None:
        for column in personal:
            self.fields.setdefault(str(row[column]), set()).add(f"{dataset}.{column}")

    def canaries(self) -> list[Canary]:
        return [Canary(text, frozenset(fields)) for text, fields in self.fields.items()]


AVIARY = Aviary()


def plant_before(bus: Bus) -> None:
    """Canaries that the snapshot reads."""
    plant(bus)
    plant(bus)


def plant(bus: Bus) -> None:
    """One canary person who agrees everywhere with the register, and records about him in which nothing agrees."""
    pin, name, phone, address = AVIARY.pin(), AVIARY.name(), AVIARY.phone(), AVIARY.words()
    register = {"pin": pin, "full_name": name, "birth_date": "1977-07-07", "sex": "F", "birth_province_code": "079"}
    register |= {"address": address, "ward_code": "27001", "province_code": "79", "phone": phone}
    AVIARY.put(bus, "population.person", pin, register, {"pin", "full_name", "address", "phone"})
    records(bus, pin, name)
    records(bus, pin, None)


def records(bus: Bus, pin: str, name: str | None) -> None:
    """Records about the person; without `name` each has another, of its own."""
    n = next(AVIARY._count)
    identity = f"00000000-0000-4000-8000-{n:012d}"
    birth: dict[str, object] = {
        "birth_id": identity,
        "register_number": f"can-{n}",
        "registered_on": "2024-01-01",
        "child_pin": pin,
    }
    birth |= {
        "child_name": name or AVIARY.name(),
        "child_sex": "Nữ",
        "child_birth_date": "1977-07-07",
        "birth_place": AVIARY.words(),
    }
    birth |= {"mother_pin": AVIARY.pin(), "mother_name": AVIARY.name(), "mother_birth_year": 1950, "province_code": "79"}
    AVIARY.put(bus, "civil.birth", identity, birth, {"child_pin", "child_name", "birth_place", "mother_pin", "mother_name"})
    number = f"99{n:08d}"
    member = {"insurance_number": number, "pin": pin, "full_name": name or AVIARY.name(), "birth_date": "1977-07-07", "sex": "2"}
    member |= {"phone": AVIARY.phone(), "address": AVIARY.words(), "ward_code": "27001", "province_code": "79"}
    member |= {"participation": "household", "joined_on": "2020-01-01"}
    AVIARY.put(bus, "insurance.member", number, member, {"insurance_number", "pin", "full_name", "phone", "address"})
    with bus.owner("land") as connection:
        found = connection.execute("SELECT max(parcel_id) FROM parcel").fetchone()
    assert found is not None
    owner = {
        "parcel_id": found[0],
        "owner_no": 1000 + n,
        "owner_pin": pin,
        "owner_name": name or AVIARY.name(),
        "owner_birth_year": 1977,
    }
    owner |= {"owner_address": AVIARY.words(), "province_code": "79", "share": 1, "form": "shared", "acquired_by": "gift"}
    owner |= {"acquired_on": "2020-01-01"}
    AVIARY.put(bus, "land.ownership", f"{found[0]}/{1000 + n}", owner, {"owner_pin", "owner_name", "owner_address"})
    with bus.owner("education") as connection:
        found = connection.execute("SELECT max(school_id) FROM school").fetchone()
    assert found is not None
    pupil = {
        "enrolment_id": identity,
        "school_id": found[0],
        "pin": pin,
        "full_name": name or AVIARY.name(),
        "birth_date": "1977-07-07",
    }
    pupil |= {"sex": "Nữ", "school_year": "2024-2025", "grade": 1, "class_name": "1A", "enrolled_on": "2024-09-01"}
    pupil |= {
        "guardian_pin": AVIARY.pin(),
        "guardian_name": AVIARY.name(),
        "guardian_phone": AVIARY.phone(),
        "province_code": "79",
    }
    personal = {"pin", "full_name", "guardian_pin", "guardian_name", "guardian_phone"}
    AVIARY.put(bus, "education.enrolment", identity, pupil, personal)
