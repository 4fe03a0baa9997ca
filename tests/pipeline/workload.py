"""A seeded workload of everything that is awkward to capture, in the agencies' own databases."""

from __future__ import annotations

import random
import unicodedata
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.pipeline.bus import Bus

TEXTS = (
    "Nguyễn Thị Hoà",
    unicodedata.normalize("NFD", "Trần Thuỳ Đặng Quỳnh Như"),
    "NGUYỄN THỊ  HOÀ",
    "𠀋𡈽 chữ Nôm 𧿨 😀",
    "tab\tnewline\nquote'\"\\ {null} \\N",
    "\u200bẩn\u202e",
    "e\u0301\u0323 xếp dấu",
)
PROVINCES = ("01", "79", "48", "46", "31", "92")
ROLLBACK_SHARE, SAVEPOINT_SHARE = 0.15, 0.25


class Workload:
    """Transactions of up to eight awkward changes in one database each. `done` counts committed transactions."""

    def __init__(self, bus: Bus, seed: int) -> None:
        self.bus, self.random = bus, random.Random(seed)
        self.done = 0
        self.connections: dict[str, psycopg.Connection] = {}
        with bus.owner("population") as population:
            self.pins: list[str] = [pin for (pin,) in population.execute("SELECT pin FROM person ORDER BY pin LIMIT 2000")]
        self.acts: dict[str, list[Callable[[psycopg.Connection], Any]]] = {
            "civil": [
                *(self.birth, self.birth, self.rewrite_birth, self.rewrite_birth, self.move_birth, self.drop_birth),
                *(self.renumber_birth, self.death, self.toast, self.many_births, self.marriage),
            ],
            "land": [self.parcel, self.ownership, self.certificate, self.endless, self.renumber_owner, self.drop_owner],
            "population": [self.person, self.person, self.correct, self.renumber_person, self.drop_person],
            "insurance": [self.member, self.contribution],
            "education": [self.school_record, self.enrolment],
        }

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()

    def run(self, transactions: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Commits (or rolls back) that many. A lost connection is opened anew: the journal knows what was committed."""
        weights = {"civil": 6, "land": 3, "population": 3, "insurance": 2, "education": 2}
        for _ in range(transactions):
            if stop():
                return
            domain = self.random.choices(list(weights), list(weights.values()))[0]
            try:
                self.transaction(self._connection(domain), domain)
            except psycopg.OperationalError:
                if (lost := self.connections.pop(domain, None)) is not None:
                    lost.close()

    def _connection(self, domain: str) -> psycopg.Connection:
        if domain not in self.connections:
            made = self.bus.owner(domain)
            made.autocommit = False
            self.connections[domain] = made
        return self.connections[domain]

    def transaction(self, connection: psycopg.Connection, domain: str) -> None:
        for _ in range(self.random.choice((1, 1, 2, 4, 8))):
            savepoint = self.random.random() < SAVEPOINT_SHARE
            if savepoint:
                connection.execute("SAVEPOINT a")
            self._act(connection, domain)
            if savepoint and self.random.random() < 0.5:
                connection.execute("ROLLBACK TO SAVEPOINT a")
        if self.random.random() < ROLLBACK_SHARE:
            connection.rollback()
        else:
            connection.commit()
            self.done += 1

    def _act(self, connection: psycopg.Connection, domain: str) -> None:
        """One act; what a constraint refuses is undone alone, as an application would."""
        connection.execute("SAVEPOINT act")
        try:
            self.random.choice(self.acts[domain])(connection)
        except (psycopg.IntegrityError, psycopg.DataError):
            connection.execute("ROLLBACK TO SAVEPOINT act")

    def pick(self, connection: psycopg.Connection, table: str, column: str) -> Any:
        """The key of some row."""
        query = f"SELECT {column} FROM {table} OFFSET floor(%s * (SELECT count(*) FROM {table})) LIMIT 1"
        row = connection.execute(query, (self.random.random() * 0.999,)).fetchone()
        return row and row[0]

    def pin(self) -> str | None:
        return self.random.choices(
            [self.random.choice(self.pins), None, "", f"{self.random.randrange(10**9):09d}"], [85, 5, 2, 8]
        )[0]

    def text(self) -> str:
        return self.random.choice(TEXTS) + str(self.random.randrange(100))

    def uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128))

    # civil registry

    def birth(self, c: psycopg.Connection) -> None:
        identity = self.uuid()
        mother = self.random.random() < 0.7
        c.execute(
            "INSERT INTO birth (birth_id, register_number, registered_on, child_pin, child_name, child_sex, child_birth_date,"
            " birth_place, mother_pin, mother_name, mother_birth_year, province_code) VALUES"
            " (%s, %s, now(), %s, %s, 'Nữ', '1999-02-28', %s, %s, %s, %s, %s)",
            (identity, str(identity)[:24], self.pin(), self.text(), self.text(), self.pin() if mother else None,
             self.text() if mother else None, 1970 if mother else None, self.random.choice(PROVINCES)),
        )  # fmt: skip

    def rewrite_birth(self, c: psycopg.Connection) -> None:
        """Visible to some agreements and not to others; sometimes nothing changes at all."""
        sets = self.random.choice(
            (
                ("child_name = %s", self.text()),
                ("mother_name = %s", None),
                ("child_weight_grams = %s", self.random.choice((None, 3100))),
                ("late_registration = %s", self.random.random() < 0.5),
                ("province_code = %s", self.random.choice(PROVINCES)),
                ("father_birth_year = %s", 1965),
                ("child_birth_date = %s", "2001-12-31"),
                ("birth_place = birth_place || %s", ""),
            )
        )
        key = self.pick(c, "birth", "birth_id")
        c.execute(f"UPDATE birth SET {sets[0]} WHERE birth_id = %s", (sets[1], key))

    def move_birth(self, c: psycopg.Connection) -> None:
        """Another subject: the event's key changes."""
        c.execute("UPDATE birth SET child_pin = %s WHERE birth_id = %s", (self.pin(), self.pick(c, "birth", "birth_id")))

    def renumber_birth(self, c: psycopg.Connection) -> None:
        """Another primary key."""
        c.execute("UPDATE birth SET birth_id = %s WHERE birth_id = %s", (self.uuid(), self.pick(c, "birth", "birth_id")))

    def drop_birth(self, c: psycopg.Connection) -> None:
        c.execute("DELETE FROM birth WHERE birth_id = %s", (self.pick(c, "birth", "birth_id"),))

    def many_births(self, c: psycopg.Connection) -> None:
        c.execute("UPDATE birth SET updated_at = now() WHERE ctid IN (SELECT ctid FROM birth LIMIT 40)")

    def death(self, c: psycopg.Connection) -> None:
        c.execute(
            "INSERT INTO death (register_number, registered_on, pin, full_name, sex, birth_date, died_at, cause, place,"
            " province_code) VALUES (%s, '2024-02-29', %s, %s, 'Nam', %s, '2024-02-29 23:59:59.999999', %s, %s, %s)",
            (str(self.uuid())[:24], self.pin(), self.text(), self.random.choice((None, "1950", "1950-01-01")),
             self.random.choice((None, "", "x" * 9_000)), self.text(), self.random.choice(PROVINCES)),
        )  # fmt: skip

    def toast(self, c: psycopg.Connection) -> None:
        """A value stored out of line, then a change beside it: the stream does not repeat what did not change."""
        key = self.pick(c, "death", "death_id")
        long = "".join(self.random.choices("0123456789abcdefghijklmnopqrstuvwxyzắẵ", k=9_000))
        c.execute("UPDATE death SET cause = %s WHERE death_id = %s", (long, key))
        c.execute("UPDATE death SET place = %s WHERE death_id = %s", (self.text(), key))

    def marriage(self, c: psycopg.Connection) -> None:
        key = self.pick(c, "marriage", "marriage_id")
        what = self.random.choice(
            ("husband_pin = NULL", "wife_pin = NULL", "husband_birth_date = NULL", "marriage_id = marriage_id + 1000000")
        )
        c.execute(f"UPDATE marriage SET {what} WHERE marriage_id = %s", (key,))

    # land

    def parcel(self, c: psycopg.Connection) -> None:
        key = self.pick(c, "parcel", "parcel_id")
        boundary = Jsonb({"điểm": [[105.1, 21.0], [105.10, 1e-7]], "b": None, "a": self.text()})
        area = self.random.choice(("0.01", "999999.99", "120.5"))
        c.execute("UPDATE parcel SET boundary = %s, area_m2 = %s, longitude = 1e-300 WHERE parcel_id = %s", (boundary, area, key))

    def ownership(self, c: psycopg.Connection) -> None:
        c.execute(
            "INSERT INTO ownership (parcel_id, owner_no, owner_pin, owner_name, owner_birth_year, province_code, share, form,"
            " acquired_by, acquired_on) VALUES (%s, %s, %s, %s, 1960, %s, 0.333333, 'shared', 'gift', '0001-01-01')",
            (
                self.pick(c, "parcel", "parcel_id"),
                self.random.randrange(2, 50),
                self.pin(),
                self.text(),
                self.random.choice(PROVINCES),
            ),
        )

    def renumber_owner(self, c: psycopg.Connection) -> None:
        """Part of a composite key."""
        c.execute(
            "UPDATE ownership SET owner_no = owner_no + 100 WHERE parcel_id = %s", (self.pick(c, "ownership", "parcel_id"),)
        )

    def drop_owner(self, c: psycopg.Connection) -> None:
        c.execute("DELETE FROM ownership WHERE owner_no > 1 AND parcel_id = %s", (self.pick(c, "ownership", "parcel_id"),))

    def certificate(self, c: psycopg.Connection) -> None:
        key = self.pick(c, "certificate", "certificate_id")
        scan, house = self.random.choice((b"", bytes(range(256)), None)), self.random.choice((None, 0.1, 3.4e38, -0.0))
        c.execute("UPDATE certificate SET scan_sha256 = %s, house_area_m2 = %s WHERE certificate_id = %s", (scan, house, key))

    def endless(self, c: psycopg.Connection) -> None:
        """A date that Avro has no form for, and its repair: two dead letters. Nobody else sees it in between."""
        key = self.pick(c, "certificate", "certificate_id")
        c.execute("UPDATE certificate SET valid_until = 'infinity' WHERE certificate_id = %s", (key,))
        c.execute("UPDATE certificate SET valid_until = NULL WHERE certificate_id = %s", (key,))

    # population register

    def person(self, c: psycopg.Connection) -> None:
        pin = f"0{self.random.randrange(10**11):011d}"
        c.execute(
            "INSERT INTO person (pin, full_name, birth_date, sex, birth_province_code, address, ward_code, province_code)"
            " VALUES (%s, %s, '1999-02-28', 'F', '001', %s, '00001', %s)",
            (pin, self.text(), self.text(), self.random.choice(PROVINCES)),
        )
        self.pins.append(pin)

    def correct(self, c: psycopg.Connection) -> None:
        """A correction of the register, seen by the verdicts after it."""
        what, value = self.random.choice(
            (
                ("full_name", self.text()),
                ("address", self.text()),
                ("birth_date", "1984"),
                ("phone", None),
                ("religion", "Phật giáo"),
            )
        )
        c.execute(f"UPDATE person SET {what} = %s WHERE pin = %s", (value, self.random.choice(self.pins)))

    def renumber_person(self, c: psycopg.Connection) -> None:
        """A person gets another PIN: primary key and message key change."""
        place, new = self.random.randrange(len(self.pins)), f"0{self.random.randrange(10**11):011d}"
        c.execute("UPDATE person SET pin = %s WHERE pin = %s", (new, self.pins[place]))
        self.pins[place] = new

    def drop_person(self, c: psycopg.Connection) -> None:
        c.execute("DELETE FROM person WHERE pin = %s", (self.random.choice(self.pins),))

    # social insurance and education

    def member(self, c: psycopg.Connection) -> None:
        key = self.pick(c, "member", "insurance_number")
        salary = self.random.choice((None, 0, 99_999_999_999))
        c.execute("UPDATE member SET monthly_salary = %s, full_name = %s WHERE insurance_number = %s", (salary, self.text(), key))

    def contribution(self, c: psycopg.Connection) -> None:
        key = self.pick(c, "contribution", "contribution_id")
        sets = self.random.choice(
            ("adjustments = '[1.10, \"a\", {}]'", "paid_at = NULL", "paid_at = '1999-12-31 23:59:60+07'", "pin = NULL")
        )
        c.execute(f"UPDATE contribution SET {sets} WHERE contribution_id = %s", (key,))

    def school_record(self, c: psycopg.Connection) -> None:
        key = self.pick(c, "school_record", "record_id")
        sets = self.random.choice(
            ("average = 9.999999999999998", "promoted = NULL", "signed_at = '1900-01-01'", "subjects = subjects")
        )
        c.execute(f"UPDATE school_record SET {sets} WHERE record_id = %s", (key,))

    def enrolment(self, c: psycopg.Connection) -> None:
        c.execute(
            "UPDATE enrolment SET pin = %s WHERE enrolment_id = %s", (self.pin(), self.pick(c, "enrolment", "enrolment_id"))
        )

    def big_transaction(self, rows: int) -> None:
        """One transaction larger than any batch."""
        with self.bus.owner("civil") as connection:
            connection.execute(
                "INSERT INTO birth (birth_id, register_number, registered_on, child_pin, child_name, child_sex,"
                " child_birth_date, birth_place, province_code)"
                " SELECT gen_random_uuid(), 'big-' || left(gen_random_uuid()::text, 8) || n, now(),"
                " (%s::text[])[1 + n %% %s], 'Lê ' || n, 'Nam', '2020-02-29', 'x', (%s::text[])[1 + n %% %s]"
                " FROM generate_series(1, %s) n",
                (self.pins, len(self.pins), list(PROVINCES), len(PROVINCES), rows),
            )
