"""Education: schools, enrolment, digital school records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from uuid import UUID

from connectors.society import events, places
from connectors.society.agency import Agency
from connectors.society.desk import Desk
from connectors.society.people import AS_OF, Neighbourhood, Person
from connectors.society.slips import Row

_SEX = {"M": "Nam", "F": "Nữ"}
_LEVELS = (
    ("primary", "Trường Tiểu học", 1, 5),
    ("lower_secondary", "Trường THCS", 6, 9),
    ("upper_secondary", "Trường THPT", 10, 12),
)
"""(level, title, first grade, last grade)"""
_NAMESAKES = ("Kim Đồng", "Chu Văn An", "Lê Hồng Phong", "Trần Phú", "Võ Thị Sáu", "Hòa Bình", "Lương Thế Vinh")
_SUBJECTS = ("Toán", "Ngữ văn", "Tiếng Anh", "Lịch sử và Địa lí", "Khoa học tự nhiên", "Tin học")
_CONDUCTS = ("tốt", "tốt", "tốt", "khá", "khá", "đạt", "chưa đạt")
_SEEDED = datetime(AS_OF.year, AS_OF.month, AS_OF.day, tzinfo=UTC)
_CLASS = 10
"""Records signed in one transaction."""


def _school_year(on: date) -> str:
    first = on.year if on.month >= 9 else on.year - 1
    return f"{first}-{first + 1}"


def _school_row(rng: Random, number: int, level: int, home: Person, principal: Person) -> Row:
    kind, title, _, _ = _LEVELS[level]
    return {
        "code": f"{home.province_code}{number:06}",
        "name": f"{title} {rng.choice(_NAMESAKES)}",
        "level": kind,
        "address": f"{places.street(rng)}, {home.address.split(', ', 1)[-1]}",
        "ward_code": home.ward_code,
        "province_code": home.province_code,
        "principal_pin": principal.pin,
        "principal_name": principal.full_name,
        "classes": rng.randint(10, 45),
        "is_public": rng.random() < 0.93,
        "national_standard": rng.choice((True, True, False, None)),
        "longitude": round(rng.uniform(102.2, 109.4), 3),
        "latitude": round(rng.uniform(8.6, 23.3), 3),
        "founded_on": date(rng.randint(1955, 2020), 9, 5) if rng.random() < 0.9 else None,
        "updated_at": _SEEDED.replace(tzinfo=None),
    }


def _grade(child: Person, on: date) -> int | None:
    grade = int(_school_year(on)[:4]) - child.birth_year - 5
    return grade if 1 <= grade <= 12 else None


def _level(grade: int) -> int:
    return next(i for i, (_, _, first, last) in enumerate(_LEVELS) if first <= grade <= last)


def _enrolment_row(
    rng: Random, school_id: int, province_code: str, child: Person, guardian: Person | None, grade: int, on: date
) -> Row:
    return {
        "enrolment_id": UUID(int=rng.getrandbits(128), version=4),
        "school_id": school_id,
        "pin": child.pin,
        "full_name": child.full_name,
        "birth_date": child.birth_day,
        "sex": _SEX[child.sex],
        "school_year": _school_year(on),
        "grade": grade,
        "class_name": f"{grade}A{rng.randint(1, 8)}",
        "enrolled_on": on,
        "left_on": None,
        "status": "studying",
        "guardian_pin": guardian.pin if guardian else None,
        "guardian_name": guardian.full_name if guardian else None,
        "guardian_phone": guardian.phone if guardian else None,
        "boarding": rng.random() < 0.1,
        "province_code": province_code,
        "updated_at": _SEEDED,
    }


def _marks(rng: Random) -> dict[str, float]:
    ability = rng.gauss(7.2, 1.2)
    return {s: round(min(10.0, max(0.0, rng.gauss(ability, 0.8))), 1) for s in _SUBJECTS}


def _record_row(rng: Random, school_id: int, province_code: str, pupil: Row, school_year: str, grade: int, semester: int) -> Row:
    marks = _marks(rng)
    return pupil | {
        "school_id": school_id,
        "school_year": school_year,
        "grade": grade,
        "semester": semester,
        "average": round(sum(marks.values()) / len(marks), 2),
        "conduct": rng.choice(_CONDUCTS),
        "subjects": json.dumps(marks, ensure_ascii=False),
        "absences": rng.choice((0, 0, 0, 1, 2, 5)),
        "promoted": None,
        "signed_at": None,
        "province_code": province_code,
        "updated_at": _SEEDED,
    }


def _settle(neighbourhood: Neighbourhood, rng: Random) -> Iterator[tuple[str, Row]]:
    """Three schools, one of each level; every child of school age goes to one of them."""
    everyone = [p for p in neighbourhood.people() if p.status == "alive"]
    grown = [p for p in everyone if 35 <= p.age(AS_OF) <= 60]
    first = 3 * neighbourhood.index + 1
    home = everyone[0]
    for level in range(len(_LEVELS)):
        yield "school", {"school_id": first + level} | _school_row(rng, first + level, level, home, rng.choice(grown or [home]))
    start = date(AS_OF.year - 1, 9, 5)
    for household in neighbourhood.households:
        for child in household.children:
            if (grade := _grade(child, start)) and rng.random() < 0.95:
                yield from _pupil(rng, first + _level(grade), home.province_code, child, household.wife, grade, start)


def _pupil(
    rng: Random, school_id: int, province_code: str, child: Person, guardian: Person | None, grade: int, start: date
) -> Iterator[tuple[str, Row]]:
    yield "enrolment", _enrolment_row(rng, school_id, province_code, child, guardian, grade, start)
    pupil = {"pupil_pin": child.pin, "pupil_name": child.full_name, "pupil_birth_date": child.birth_date}
    if grade > 1:
        for semester in (1, 2):
            row = _record_row(rng, school_id, province_code, pupil, f"{start.year - 1}-{start.year}", grade - 1, semester)
            day = date(start.year, 5, rng.randint(20, 31))
            signed = datetime.combine(day, time(rng.randint(7, 17), rng.randrange(60)))
            yield "school_record", {"record_id": 2 * child.number + semester} | row | {"promoted": True, "signed_at": signed}


def _school_near(desk: Desk, province_code: str, level: str) -> Row | None:
    found = desk.query("SELECT * FROM school WHERE province_code = %s AND level = %s LIMIT 20", (province_code, level))
    return desk.rng.choice(found) if found else None


def _school_start(desk: Desk, event: events.SchoolStart) -> None:
    """A pupil moves up: last year's enrolment ends, a new one begins, in one transaction; or begins school at all."""
    grade = _grade(event.child, event.on)
    if grade is None or not (school := _school_near(desk, event.child.province_code, _LEVELS[_level(grade)][0])):
        return
    for row in _studying(desk, event.child.pin):
        desk.update("enrolment", row, status="graduated", left_on=event.on)
    fresh = _enrolment_row(desk.rng, school["school_id"], school["province_code"], event.child, event.guardian, grade, event.on)
    desk.insert("enrolment", fresh | {"updated_at": desk.now}, event.child, event.guardian)


def _studying(desk: Desk, pin: str) -> list[Row]:
    return desk.query("SELECT * FROM enrolment WHERE pin = %s AND status = 'studying'", (pin,))


def _move(desk: Desk, event: events.Move) -> None:
    """A pupil who moves to another province is transferred."""
    for row in _studying(desk, event.person.pin):
        if row["province_code"] != event.to.province_code:
            desk.update("enrolment", row, status="transferred", left_on=event.on)


def _death(desk: Desk, event: events.Death) -> None:
    for row in _studying(desk, event.person.pin):
        desk.update("enrolment", row, status="left", left_on=event.on)


def _appointment(desk: Desk, event: events.Appointment) -> None:
    level = desk.rng.choice(_LEVELS)[0]
    if school := _school_near(desk, event.person.province_code, level):
        who = event.person
        stamp = desk.now.replace(tzinfo=None)
        desk.reassign("school", school, "principal", who, principal_pin=who.pin, principal_name=who.full_name, updated_at=stamp)


def _records_signed(desk: Desk) -> None:
    """A class teacher signs some records: one transaction."""
    for _ in range(_CLASS):
        if row := desk.some("school_record"):
            desk.update("school_record", row, signed_at=desk.now.replace(tzinfo=None), absences=desk.rng.choice((0, 1, 2, 3)))


def _record_opened(desk: Desk) -> None:
    """A semester's record, with the pupil's details copied from the enrolment, right or wrong."""
    enrolment = desk.some("enrolment")
    if enrolment and enrolment["status"] == "studying":
        born = enrolment["birth_date"]
        pupil = {
            "pupil_pin": enrolment["pin"],
            "pupil_name": enrolment["full_name"],
            "pupil_birth_date": born.isoformat() if born else None,
        }
        place = (enrolment["school_id"], enrolment["province_code"])
        row = _record_row(desk.rng, *place, pupil, enrolment["school_year"], enrolment["grade"], desk.rng.choice((1, 2)))
        stored = desk.insert("school_record", row | {"updated_at": desk.now})
        desk.copy_errors(("enrolment", enrolment, "pupil"), ("school_record", stored, "pupil"))


def _marks_changed(desk: Desk) -> None:
    if row := desk.some("school_record"):
        marks = _marks(desk.rng)
        average = round(sum(marks.values()) / len(marks), 2)
        desk.update("school_record", row, subjects=json.dumps(marks, ensure_ascii=False), average=average)


def _class_changed(desk: Desk) -> None:
    if row := desk.some("enrolment"):
        desk.update("enrolment", row, class_name=f"{row['grade']}A{desk.rng.randint(1, 8)}")


def _enrolment_cancelled(desk: Desk) -> None:
    row = desk.some("enrolment")
    if row and row["enrolled_on"] > desk.today - timedelta(days=30):
        desk.delete("enrolment", row)


def _classes_counted(desk: Desk) -> None:
    if row := desk.some("school"):
        desk.update("school", row, classes=desk.rng.randint(10, 45), updated_at=desk.now.replace(tzinfo=None))


AGENCY = Agency(
    tables=("school", "enrolment", "school_record"),
    settle=_settle,
    reactions={
        events.SchoolStart: (0.0, _school_start),
        events.Move: (1.5, _move),
        events.Death: (2.0, _death),
        events.Appointment: (0.0, _appointment),
    },
    routine=(
        (1.5, _records_signed),
        (5.0, _record_opened),
        (3.0, _marks_changed),
        (3.0, _class_changed),
        (3.0, _enrolment_cancelled),
        (1.0, _classes_counted),
    ),
)
