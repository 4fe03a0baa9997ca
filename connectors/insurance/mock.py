"""Social and health insurance: members, cards, monthly contributions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from connectors.society import events, places
from connectors.society.agency import Agency
from connectors.society.desk import Desk
from connectors.society.people import AS_OF, Neighbourhood, Person
from connectors.society.slips import Row

_SEX = {"M": "1", "F": "2"}
_EMPLOYERS = ("May Thành Công", "Thủy sản Hòa Phát", "Cơ khí Toàn Thắng", "Điện tử Thúy Nga", "Xây dựng số 5", "Vận tải Hoa Mai")
_RATE = 0.32
_EMPLOYEE_SHARE = Decimal("0.105")
_EMPLOYER_SHARE = Decimal("0.215")
_SEEDED = datetime(AS_OF.year, AS_OF.month, AS_OF.day, tzinfo=UTC)
_PAYROLL = 12
"""People in one employer's monthly declaration."""


def _member_row(rng: Random, number: int, person: Person, kind: str, joined_on: date, salary: int | None) -> Row:
    address, ward = person.address, person.ward_code
    if rng.random() < 0.15:
        address, ward = places.address_before_merger(rng, person.province_code)
    row: Row = {
        "insurance_number": f"{number:010}",
        "pin": person.pin,
        "full_name": person.full_name,
        "birth_date": person.birth_day,
        "sex": _SEX[person.sex],
        "phone": person.phone,
        "address": address,
        "ward_code": ward,
        "province_code": person.province_code,
        "participation": kind,
        "joined_on": joined_on,
        "active": person.status == "alive",
        "updated_at": _SEEDED,
    }
    return row | _employment(rng, salary)


def _employment(rng: Random, salary: int | None) -> Row:
    if salary is None:
        return {"employer_code": None, "employer_name": None, "monthly_salary": None}
    code = rng.randrange(1000)
    return {
        "employer_code": f"DN{code:04}",
        "employer_name": f"Công ty {_EMPLOYERS[code % len(_EMPLOYERS)]}",
        "monthly_salary": Decimal(salary),
    }


def _card_row(rng: Random, insurance_number: str, kind: str, person: Person, issued_on: date) -> Row:
    prefix = {"compulsory": "DN4", "pension": "HT3", "child": "TE1"}.get(kind, "GD4")
    return {
        "card_number": f"{prefix}{person.province_code}{insurance_number}",
        "insurance_number": insurance_number,
        "pin": person.pin,
        "full_name": person.full_name,
        "birth_date": person.birth_date,
        "sex": _SEX[person.sex],
        "benefit_level": int(prefix[2]),
        "hospital_code": f"{person.province_code}{rng.randrange(1000):03}",
        "province_code": person.province_code,
        "issued_on": issued_on,
        "valid_from": issued_on,
        "valid_until": issued_on + timedelta(days=365) if prefix == "GD4" else None,
        "in_use": person.status == "alive",
        "updated_at": _SEEDED,
    }


def _contribution_row(rng: Random, member: Row, pin: str, full_name: str, month: date, paid_at: datetime | None) -> Row:
    base = Decimal(member["monthly_salary"] or 4_680_000)
    extra = [{"reason": "truy thu", "amount": rng.randrange(10, 500) * 1000}]
    return {
        "insurance_number": member["insurance_number"],
        "pin": pin,
        "full_name": full_name,
        "month": month,
        "employer_code": member["employer_code"],
        "salary_base": base,
        "rate": _RATE,
        "employee_amount": (base * _EMPLOYEE_SHARE).quantize(Decimal("0.01")),
        "employer_amount": (base * _EMPLOYER_SHARE).quantize(Decimal("0.01")),
        "late": rng.random() < 0.05,
        "adjustments": json.dumps(extra, ensure_ascii=False) if rng.random() < 0.05 else None,
        "province_code": member["province_code"],
        "paid_at": paid_at,
        "updated_at": _SEEDED,
    }


def _kind(rng: Random, person: Person) -> str | None:
    """How a person of that age takes part; None: not at all."""
    age = person.age(AS_OF)
    if age < 6:
        return "child"
    if age < 18:
        return None
    if age > 60:
        return "pension" if rng.random() < 0.6 else "household"
    return rng.choice(("compulsory", "compulsory", "compulsory", "voluntary", "household", None))


def _settle(neighbourhood: Neighbourhood, rng: Random) -> Iterator[tuple[str, Row]]:
    for person in neighbourhood.people():
        kind = _kind(rng, person)
        if kind is None or (person.deceased_on and rng.random() < 0.5):
            continue
        earliest = max(person.birth_year + (0 if kind == "child" else 20), 1995)
        joined_on = date(min(earliest, AS_OF.year - 1), rng.randint(1, 12), 1)
        salary = rng.randrange(50, 400) * 100_000 if kind == "compulsory" else None
        member = _member_row(rng, person.number + 1, person, kind, joined_on, salary)
        number: str = member["insurance_number"]
        yield "member", member
        yield "card", _card_row(rng, number, kind, person, AS_OF - timedelta(days=rng.randrange(360)))
        if kind == "compulsory":
            for back in range(rng.choice((0, 1, 1, 2))):
                month, paid = date(AS_OF.year - 1, 12 - back, 1), _SEEDED - timedelta(days=30 * back + 3)
                row = _contribution_row(rng, member, person.pin, person.full_name, month, paid)
                yield "contribution", {"contribution_id": 2 * person.number + back + 1} | row


def _birth(desk: Desk, event: events.Birth) -> None:
    """A newborn is insured at once: member and card in one transaction."""
    _join(desk, event.child, "child", event.on, None)


def _join(desk: Desk, person: Person, kind: str, on: date, salary: int | None) -> None:
    row = _member_row(desk.rng, desk.number(), person, kind, on, salary) | {"updated_at": desk.now}
    member = desk.insert("member", row, person)
    desk.insert("card", _card_row(desk.rng, member["insurance_number"], kind, person, on) | {"updated_at": desk.now}, person)


def _members(desk: Desk, pin: str) -> list[Row]:
    return desk.query("SELECT * FROM member WHERE pin = %s", (pin,))


def _death(desk: Desk, event: events.Death) -> None:
    for row in _members(desk, event.person.pin):
        desk.update("member", row, active=False)
    for row in desk.query("SELECT * FROM card WHERE pin = %s", (event.person.pin,)):
        desk.update("card", row, in_use=False)


def _move(desk: Desk, event: events.Move) -> None:
    """The member file goes to the office of the new province; the card keeps its old one until it is renewed."""
    for row in _members(desk, event.person.pin):
        desk.update("member", row, address=event.address, ward_code=event.to.ward_code, province_code=event.to.province_code)


def _phone_change(desk: Desk, event: events.PhoneChange) -> None:
    for row in _members(desk, event.person.pin):
        desk.update("member", row, phone=event.phone)


def _hired(desk: Desk, event: events.Hired) -> None:
    """Another employer and salary; whoever is not insured yet becomes a member."""
    found = _members(desk, event.person.pin)
    if not found:
        _join(desk, event.person, "compulsory", event.on, event.salary)
    for row in found:
        desk.update("member", row, participation="compulsory", active=True, **_employment(desk.rng, event.salary))


def _payroll(desk: Desk) -> None:
    """One employer pays for a dozen people: a multi-row transaction. Names and PINs are copied from the members' file,
    so what is wrong there is wrong here too."""
    for _ in range(_PAYROLL):
        member = desk.some("member")
        if member and member["active"] and member["monthly_salary"]:
            row = _contribution_row(desk.rng, member, member["pin"], member["full_name"], desk.today.replace(day=1), desk.now)
            stored = desk.insert("contribution", row | {"updated_at": desk.now})
            desk.copy_errors(("member", member, "member"), ("contribution", stored, "contributor"))


def _card_renewed(desk: Desk) -> None:
    if row := desk.some("card"):
        until = row["valid_until"]
        changes: dict[str, Any] = {"valid_from": desk.today, "valid_until": desk.today + timedelta(days=365) if until else None}
        desk.update("card", row, **changes)


def _hospital_changed(desk: Desk) -> None:
    if row := desk.some("card"):
        desk.update("card", row, hospital_code=f"{row['province_code']}{desk.rng.randrange(1000):03}")


def _booked_twice(desk: Desk) -> None:
    if row := desk.some("contribution"):
        desk.delete("contribution", row)


def _marked_late(desk: Desk) -> None:
    if row := desk.some("contribution"):
        desk.update("contribution", row, late=not row["late"])


AGENCY = Agency(
    tables=("member", "card", "contribution"),
    settle=_settle,
    reactions={
        events.Birth: (2.5, _birth),
        events.Death: (2.0, _death),
        events.Move: (1.5, _move),
        events.PhoneChange: (1.0, _phone_change),
        events.Hired: (0.0, _hired),
    },
    routine=((1.5, _payroll), (5.0, _card_renewed), (3.0, _hospital_changed), (4.0, _booked_twice), (2.0, _marked_late)),
)
