"""Land registry: parcels, their owners, certificates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random

from connectors.society import events, places
from connectors.society.agency import Agency
from connectors.society.desk import Desk
from connectors.society.people import AS_OF, Household, Neighbourhood, Person
from connectors.society.slips import Row

_USES = ("ODT", "ONT", "ONT", "LUC", "CLN", "HNK", "NTS", "TMD", "SKC")
_CORNERS = ((0, 0), (0.0002, 0), (0.0002, 0.0002), (0, 0.0002))
_SEEDED = datetime(AS_OF.year, AS_OF.month, AS_OF.day, tzinfo=UTC)


def _parcel_row(rng: Random, number: int, home: Person) -> Row:
    longitude, latitude = round(rng.uniform(102.2, 109.4), 6), round(rng.uniform(8.6, 23.3), 6)
    address, ward = (home.address, home.ward_code)
    if rng.random() < 0.3:
        address, ward = places.address_before_merger(rng, home.province_code)
    corners = [[round(longitude + x, 6), round(latitude + y, 6)] for x, y in _CORNERS]
    return {
        "ward_code": ward,
        "province_code": home.province_code,
        "map_sheet": number // 500 + 1,
        "parcel_number": number % 500 + 1,
        "area_m2": Decimal(rng.randrange(30_00, 5000_00)).scaleb(-2),
        "land_use": rng.choice(_USES),
        "address": address,
        "longitude": longitude,
        "latitude": latitude,
        "boundary": json.dumps(corners) if rng.random() < 0.3 else None,
        "surveyed_on": date(rng.randint(1995, 2025), rng.randint(1, 12), rng.randint(1, 28)) if rng.random() < 0.8 else None,
        "updated_at": _SEEDED,
    }


def _owner(rng: Random, person: Person) -> Row:
    """What a record says about one owner."""
    address = person.address if rng.random() < 0.6 else places.address_before_merger(rng, person.province_code)[0]
    return {
        "owner_pin": person.pin,
        "owner_name": person.full_name,
        "owner_birth_year": person.birth_year if rng.random() < 0.95 else None,
        "owner_address": address,
    }


def _ownership_row(rng: Random, parcel: Row, owner_no: int, owners: int, person: Person, acquired_by: str, on: date) -> Row:
    share = Decimal(1_000_000 // owners + (1_000_000 % owners if owner_no == owners else 0)).scaleb(-6)
    return {
        "parcel_id": parcel["parcel_id"],
        "owner_no": owner_no,
        **_owner(rng, person),
        "province_code": parcel["province_code"],
        "share": share,
        "form": ("sole", "joint", "shared")[min(owners, 3) - 1],
        "acquired_by": acquired_by,
        "acquired_on": on,
        "restricted": rng.random() < 0.03,
        "updated_at": _SEEDED,
    }


def _certificate_row(rng: Random, parcel: Row, number: int, person: Person, on: date) -> Row:
    return {
        "serial": f"{'ABCDEĐG'[number % 7]}{'ABCDEĐG'[number // 7 % 7]} {number:08}",
        "parcel_id": parcel["parcel_id"],
        "holder_pin": person.pin,
        "holder_name": person.full_name,
        "holder_birth_date": person.birth_date if rng.random() < 0.5 else person.birth_date[:4],
        "land_area_m2": parcel["area_m2"],
        "house_area_m2": float(rng.randint(80, 800)) / 2 if parcel["land_use"] in ("ODT", "ONT") else None,
        "issued_on": on,
        "issued_by": "Văn phòng đăng ký đất đai",
        "valid_until": None if parcel["land_use"] in ("ODT", "ONT") else on.replace(year=on.year + 50, day=min(on.day, 28)),
        "scan_sha256": rng.randbytes(32) if rng.random() < 0.5 else None,
        "status": "issued",
        "province_code": parcel["province_code"],
        "updated_at": _SEEDED,
    }


def _settle(neighbourhood: Neighbourhood, rng: Random) -> Iterator[tuple[str, Row]]:
    for household in neighbourhood.households:
        if rng.random() < 0.75 and (owners := _owners(rng, household)):
            number = owners[0].number
            parcel = {"parcel_id": number + 1} | _parcel_row(rng, number, owners[0])
            yield "parcel", parcel
            on = AS_OF - timedelta(days=rng.randrange(30, 9000))
            how = rng.choice(("allocation", "purchase", "inheritance", "gift"))
            for place, owner in enumerate(owners, 1):
                yield "ownership", _ownership_row(rng, parcel, place, len(owners), owner, how, on)
            yield "certificate", {"certificate_id": number + 1} | _certificate_row(rng, parcel, number, owners[0], on)


def _owners(rng: Random, household: Household) -> list[Person]:
    living = [p for p in (*household.adults(), *household.elders) if p.status == "alive"]
    return living[: rng.choice((1, 2, 2, 3))]


def _inheritance(desk: Desk, event: events.Death) -> None:
    """Shares of the dead pass to the spouse or whoever declared the death; older papers are left as they are."""
    heir = event.spouse or event.declarant
    if heir is None:
        return
    dead = event.person
    for row in desk.query("SELECT * FROM ownership WHERE owner_pin = %s AND owner_name = %s", (dead.pin, dead.full_name)):
        desk.reassign("ownership", row, "owner", heir, **_owner(desk.rng, heir), acquired_by="inheritance", acquired_on=event.on)


def _purchase(desk: Desk, event: events.Purchase) -> None:
    """All owners of a parcel make way for the buyers; the certificate is revoked and a new one issued: one transaction."""
    parcel = desk.some("parcel")
    if parcel is None:
        return
    for row in desk.query("SELECT * FROM ownership WHERE parcel_id = %s ORDER BY owner_no", (parcel["parcel_id"],)):
        desk.delete("ownership", row)
    for place, buyer in enumerate(event.buyers, 1):
        row = _ownership_row(desk.rng, parcel, place, len(event.buyers), buyer, "purchase", event.on)
        desk.insert("ownership", row | {"updated_at": desk.now}, buyer)
    for row in desk.query("SELECT * FROM certificate WHERE parcel_id = %s AND status <> 'revoked'", (parcel["parcel_id"],)):
        desk.update("certificate", row, status="revoked")
    issued = _certificate_row(desk.rng, parcel, desk.number(), event.buyers[0], event.on)
    desk.insert("certificate", issued | {"updated_at": desk.now}, event.buyers[0])


def _mortgage(desk: Desk) -> None:
    row = desk.some("certificate")
    if row and row["status"] in ("issued", "mortgaged"):
        desk.update("certificate", row, status="mortgaged" if row["status"] == "issued" else "issued")


def _survey(desk: Desk) -> None:
    if row := desk.some("parcel"):
        area = (row["area_m2"] * Decimal(desk.rng.randint(985, 1015)) / 1000).quantize(Decimal("0.01"))
        desk.update("parcel", row, area_m2=max(area, Decimal(1)), surveyed_on=desk.today)


def _restriction(desk: Desk) -> None:
    if row := desk.some("ownership"):
        desk.update("ownership", row, restricted=not row["restricted"])


def _old_certificate_removed(desk: Desk) -> None:
    row = desk.some("certificate")
    if row and row["status"] == "revoked":
        desk.delete("certificate", row)


AGENCY = Agency(
    tables=("parcel", "ownership", "certificate"),
    settle=_settle,
    reactions={events.Death: (2.5, _inheritance), events.Purchase: (0.0, _purchase)},
    routine=((4.0, _mortgage), (4.0, _survey), (3.0, _restriction), (2.0, _old_certificate_removed)),
)
