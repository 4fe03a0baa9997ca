"""The made-up world of synthetic histories: two datasets and three agreements."""

from __future__ import annotations

from typing import Any

from bus.avro.dataset import Dataset, Role
from tests.oracle.history import Agreement, Grant

LANES = 4
NOW = 1_800_000_000_000
PERSON_SECRET, AGREEMENT_SECRET = b"p" * 32, b"a" * 32
_NULLABLE = ["null", "string"]
SYSTEM = 7_000_000_000_000_000_001


def _dataset(
    name: str, fields: dict[str, Any], key: tuple[str, ...], people: tuple[Role, ...], compare: dict[str, str]
) -> Dataset:
    domain, table = name.split(".")
    listed = [{"name": n, "type": t} | ({"compare": compare[n]} if n in compare else {}) for n, t in fields.items()]
    row = {"type": "record", "name": table, "fields": listed}
    return Dataset(name, domain, table, row, key, people, name == "population.person")


PERSON = _dataset(
    "population.person",
    {"pin": "string", "full_name": "string", "birth_date": "string", "sex": "string", "address": _NULLABLE},
    ("pin",),
    (Role("person", "pin", {}),),
    {"full_name": "name", "birth_date": "date", "sex": "sex"},
)
BIRTH = _dataset(
    "civil.birth",
    {
        "id": "long",
        "child_pin": _NULLABLE,
        "child_name": "string",
        "child_date": {"type": "int", "logicalType": "date"},
        "mother_pin": _NULLABLE,
        "mother_year": ["null", "int"],
        "province": "string",
        "fee": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}],
    },
    ("id",),
    (
        Role("child", "child_pin", {"full_name": "child_name", "birth_date": "child_date"}),
        Role("mother", "mother_pin", {"birth_date": "mother_year"}),
    ),
    {},
)
TAX = Agreement(
    "tax.births",
    "tax",
    (
        Grant(
            "civil.birth",
            (("child_pin", "plain"), ("child_name", "plain"), ("fee", "plain")),
            (("province", ("01", "79")),),
            (),
            True,
        ),
    ),
)
STATISTICS = Agreement(
    "statistics.births",
    "statistics",
    (
        Grant(
            "civil.birth",
            (("child_pin", "pseudonym"), ("child_name", "last4"), ("child_date", "year"), ("register.sex", "plain")),
        ),
    ),
)
QUALITY = Agreement("quality.wrong", "quality", (Grant("civil.birth", (("child_name", "plain"),), (), ("MISMATCH",), False),))
