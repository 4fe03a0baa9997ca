"""Administrative units: the 34 provinces and their communes of today, and communes as they were before 2025-07-01."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random

from vietnam_provinces import Province, Ward

_FORMER = Path(__file__).with_name("former_units.tsv")
_STREETS = (
    "Lê Lợi", "Trần Hưng Đạo", "Nguyễn Huệ", "Hai Bà Trưng", "Lý Thường Kiệt", "Quang Trung", "Nguyễn Trãi", "Phan Chu Trinh",
    "Điện Biên Phủ", "Võ Thị Sáu", "Hoàng Diệu", "Nguyễn Du", "Bà Triệu", "Phan Bội Châu", "Tôn Đức Thắng", "Cách Mạng Tháng Tám",
)  # fmt: skip


_CITIES = {"79": 5, "01": 4}
"""Province -> how much likelier than its number of communes says: the two largest cities hold a quarter of all people."""


@dataclass(frozen=True, slots=True)
class Place:
    """A commune, ward or special zone; codes are text with leading zeros: province 2 digits, ward 5."""

    province_code: str
    province: str
    ward_code: str
    ward: str


@dataclass(frozen=True, slots=True)
class FormerPlace:
    """A commune before the merger, with the province it belongs to today."""

    province_code: str
    former_province_code: str
    former_province: str
    former_ward_code: str
    former_ward: str
    district: str


class _Units:
    def __init__(self) -> None:
        provinces = {int(p.code): p.name for p in Province.iter_all()}
        self.by_province: dict[str, list[Place]] = {f"{code:02}": [] for code in provinces}
        for ward in Ward.iter_all():
            code = f"{int(ward.province_code):02}"
            place = Place(code, provinces[int(ward.province_code)], f"{int(ward.code):05}", ward.name)
            self.by_province[code].append(place)
        self.provinces = list(self.by_province)
        self.steps = list(accumulate(len(self.by_province[p]) * _CITIES.get(p, 1) for p in self.provinces))
        self.former: dict[str, list[FormerPlace]] = {p: [] for p in self.provinces}
        with _FORMER.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"):
                self.former[row["province_code"]].append(FormerPlace(**row))


@cache
def _units() -> _Units:
    return _Units()


def province(rng: Random) -> str:
    """A province code, likelier the more communes the province has, and likelier still for the largest cities."""
    units = _units()
    return rng.choices(units.provinces, cum_weights=units.steps)[0]


def place(rng: Random, province_code: str | None = None) -> Place:
    """A commune of today, of the given province or of any."""
    return rng.choice(_units().by_province[province_code or province(rng)])


def former_place(rng: Random, province_code: str) -> FormerPlace:
    """A commune as it was before the merger, inside today's province."""
    return rng.choice(_units().former[province_code])


def birth_province(rng: Random, province_code: str, before_merger: bool) -> str:
    """The first three digits of a PIN: the province of birth registration, mostly the one lived in; codes of that time."""
    code = province_code if rng.random() < 0.8 else province(rng)
    return "0" + (former_place(rng, code).former_province_code if before_merger else code)


def street(rng: Random) -> str:
    """House number and street, or hamlet."""
    if rng.random() < 0.4:
        return f"Thôn {rng.randint(1, 12)}"
    number = rng.randint(1, 400)
    return f"{number}{rng.choice(('', '', 'A', f'/{number % 30 + 1}'))} {rng.choice(_STREETS)}"


def address(rng: Random, at: Place) -> str:
    return f"{street(rng)}, {at.ward}, {at.province}"


def address_before_merger(rng: Random, province_code: str) -> tuple[str, str]:
    """Address and ward code as papers from before 2025-07-01 have them: ward, district, province."""
    unit = former_place(rng, province_code)
    return f"{street(rng)}, {unit.former_ward}, {unit.district}, {unit.former_province}", unit.former_ward_code
