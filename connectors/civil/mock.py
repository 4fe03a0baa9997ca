"""Civil status registry: births, deaths, marriages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from uuid import UUID

from connectors.society import events
from connectors.society.agency import Agency
from connectors.society.desk import Desk
from connectors.society.people import AS_OF, Neighbourhood, Person
from connectors.society.slips import Row

_SEX = {"M": "Nam", "F": "Nữ"}
_CAUSES = ("Tuổi già", "Nhồi máu cơ tim", "Tai biến mạch máu não", "Ung thư phổi", "Tai nạn giao thông", "Viêm phổi", None)
_DECLARED_FROM = 2000
"""Births before this year stand in paper registers."""


def _noon(day: date) -> datetime:
    return datetime.combine(day, time(5), tzinfo=UTC)


def _birth_row(rng: Random, child: Person, mother: Person, father: Person | None, registered_on: date) -> Row:
    born = date.fromisoformat(child.birth_date)
    return {
        "birth_id": UUID(int=rng.getrandbits(128), version=4),
        "register_number": f"KS{registered_on.year}/{child.number:07}",
        "registered_on": registered_on,
        "child_pin": child.pin,
        "child_name": child.full_name,
        "child_sex": _SEX[child.sex],
        "child_birth_date": born,
        "child_weight_grams": int(rng.gauss(3150, 400)) if rng.random() < 0.8 else None,
        "birth_place": rng.choice(("Bệnh viện đa khoa tỉnh", "Bệnh viện Phụ sản", "Trạm y tế xã", "Tại nhà")),
        "mother_pin": mother.pin,
        "mother_name": mother.full_name,
        "mother_birth_year": mother.birth_year,
        "father_pin": father.pin if father else None,
        "father_name": father.full_name if father else None,
        "father_birth_year": father.birth_year if father else None,
        "province_code": mother.province_code,
        "late_registration": (registered_on - born).days > 60,
        "updated_at": _noon(registered_on),
    }


def _death_row(rng: Random, number: int, person: Person, died_on: date, declarant: Person | None) -> Row:
    registered_on = died_on + timedelta(days=rng.randrange(10))
    return {
        "register_number": f"KT{registered_on.year}/{number:07}",
        "registered_on": registered_on,
        "pin": person.pin,
        "full_name": person.full_name,
        "sex": _SEX[person.sex],
        "birth_date": person.birth_date,
        "died_at": datetime.combine(died_on, time(rng.randrange(24), rng.randrange(60))),
        "cause": rng.choice(_CAUSES),
        "place": rng.choice(("Tại nhà", "Bệnh viện đa khoa tỉnh", "Bệnh viện trung ương")),
        "declarant_pin": declarant.pin if declarant else None,
        "declarant_name": declarant.full_name if declarant else None,
        "province_code": person.province_code,
        "updated_at": _noon(registered_on),
    }


def _marriage_row(rng: Random, number: int, husband: Person, wife: Person, married_on: date) -> Row:
    return {
        "certificate_number": f"KH{married_on.year}/{number:07}",
        "married_on": married_on,
        "husband_pin": husband.pin,
        "husband_name": husband.full_name,
        "husband_birth_date": husband.birth_day,
        "wife_pin": wife.pin,
        "wife_name": wife.full_name,
        "wife_birth_date": wife.birth_day,
        "province_code": husband.province_code,
        "status": "in_force",
        "ended_on": None,
        "foreign_element": rng.random() < 0.02,
        "updated_at": _noon(married_on),
    }


def _settle(neighbourhood: Neighbourhood, rng: Random) -> Iterator[tuple[str, Row]]:
    for household in neighbourhood.households:
        husband, wife = household.husband, household.wife
        if husband and wife and household.married_on and rng.random() < 0.9:
            row = _marriage_row(rng, husband.number, husband, wife, household.married_on)
            yield "marriage", {"marriage_id": husband.number + 1} | row
        for child in household.children:
            if wife and child.birth_year >= _DECLARED_FROM:
                born = date.fromisoformat(child.birth_date)
                delay = rng.randint(1, 45) if rng.random() < 0.95 else rng.randint(61, 400)
                yield "birth", _birth_row(rng, child, wife, husband, min(born + timedelta(days=delay), AS_OF))
        for elder in household.elders:
            if elder.deceased_on:
                row = _death_row(rng, elder.number, elder, elder.deceased_on, husband or wife)
                yield "death", {"death_id": elder.number + 1} | row


def _birth(desk: Desk, event: events.Birth) -> None:
    row = _birth_row(desk.rng, event.child, event.mother, event.father, event.on) | {"updated_at": desk.now}
    desk.insert("birth", row, event.child, event.mother, event.father)


def _death(desk: Desk, event: events.Death) -> None:
    """The death, and the end of the marriage, in one transaction."""
    row = _death_row(desk.rng, desk.number(), event.person, event.on, event.declarant) | {"updated_at": desk.now}
    desk.insert("death", row, event.person, event.declarant)
    _end_marriage(desk, event.person.pin, "ended_by_death", event.on)


def _marriage(desk: Desk, event: events.Marriage) -> None:
    row = _marriage_row(desk.rng, desk.number(), event.husband, event.wife, event.on) | {"updated_at": desk.now}
    desk.insert("marriage", row, event.husband, event.wife)


def _divorce(desk: Desk, event: events.Divorce) -> None:
    _end_marriage(desk, event.husband.pin, "divorced", event.on)


def _end_marriage(desk: Desk, pin: str, status: str, on: date) -> None:
    found = desk.query(
        "SELECT * FROM marriage WHERE husband_pin = %s AND status = 'in_force'"
        " UNION ALL SELECT * FROM marriage WHERE wife_pin = %s AND status = 'in_force'",
        (pin, pin),
    )
    for row in found:
        desk.update("marriage", row, status=status, ended_on=on)


def _registration_cancelled(desk: Desk) -> None:
    """A birth entered in the wrong register is struck out."""
    if row := desk.some("birth"):
        desk.delete("birth", row)


def _weight_entered(desk: Desk) -> None:
    if row := desk.some("birth"):
        desk.update("birth", row, child_weight_grams=int(desk.rng.gauss(3150, 400)))


def _cause_entered(desk: Desk) -> None:
    if row := desk.some("death"):
        desk.update("death", row, cause=desk.rng.choice(_CAUSES))


AGENCY = Agency(
    tables=("birth", "death", "marriage"),
    settle=_settle,
    reactions={
        events.Birth: (0.0, _birth),
        events.Death: (0.0, _death),
        events.Marriage: (0.0, _marriage),
        events.Divorce: (0.0, _divorce),
    },
    routine=((1.0, _registration_cancelled), (2.0, _weight_entered), (1.0, _cause_entered)),
)
