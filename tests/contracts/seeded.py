"""Changes of the delivered schemas' sources whose effects were worked out by hand from the agreements in deploy/agreements.

Each says what becomes of every agreement on the dataset (whoever is not named: nothing) and, at worst, of readers of change.* and
verified.*; and the fields that must be named.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.contracts.impact import Verdict

FAILS, CHANGES, LOSES, NOTHING = Verdict.FAILS, Verdict.CHANGES, Verdict.LOSES, Verdict.NOTHING
DQ, ED, HC, SI, ST, TX = (
    "data-quality.discrepancies",
    "education.pupils",
    "hcmc.shared-warehouse",
    "social-insurance.life-events",
    "statistics.indicators",
    "tax.taxpayers",
)
Row = dict[str, Any]
Edit = Callable[[Row], None]
DATE = {"type": "int", "logicalType": "date"}
MOMENT = {"type": "long", "logicalType": "timestamp-micros"}
LOCAL = {"type": "long", "logicalType": "local-timestamp-micros"}


def decimal(precision: int, scale: int) -> Row:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def find(row: Row, name: str) -> Row:
    return next(f for f in row["fields"] if f["name"] == name)


def add(name: str, avro: Any, **more: Any) -> Edit:
    return lambda row: row["fields"].append({"name": name, "type": avro, "doc": name, **more})


def drop(name: str) -> Edit:
    def edit(row: Row) -> None:
        row["fields"].remove(find(row, name))
        for person in row["people"]:
            person["match"] = {k: v for k, v in person["match"].items() if v != name}

    return edit


def retype(name: str, avro: Any) -> Edit:
    def edit(row: Row) -> None:
        one = find(row, name)
        one.pop("default", None)
        one |= {"type": avro} | ({"default": None} if isinstance(avro, list) else {})

    return edit


def rename(name: str, new: str) -> Edit:
    def edit(row: Row) -> None:
        find(row, name).update(name=new, aliases=[name])
        for person in row["people"]:
            person["match"] = {k: new if v == name else v for k, v in person["match"].items()}

    return edit


def annotate(name: str, **more: Any) -> Edit:
    return lambda row: find(row, name).update(more)


def of_row(**more: Any) -> Edit:
    return lambda row: row.update(copy.deepcopy(more))


def without_role(name: str) -> Edit:
    return lambda row: row.update(people=[p for p in row["people"] if p["role"] != name])


def without_match(role: str, theirs: str) -> Edit:
    def edit(row: Row) -> None:
        next(p for p in row["people"] if p["role"] == role)["match"].pop(theirs)

    return edit


def subject_last(row: Row) -> None:
    row["people"].append(row["people"].pop(0))


def backwards(row: Row) -> None:
    row["fields"].reverse()


@dataclass(frozen=True)
class Seed:
    what: str
    dataset: str
    edit: Edit
    agreements: Mapping[str, Verdict] = field(default_factory=dict)
    readers: Verdict = NOTHING
    named: tuple[str, ...] = ()


def all_of(verdict: Verdict, *agreements: str) -> dict[str, Verdict]:
    return dict.fromkeys(agreements, verdict)


B, D, M, P, L = "civil.birth", "civil.death", "civil.marriage", "population.person", "land.parcel"
GONE = all_of(FAILS, DQ, ED, HC, SI, ST, TX)
SEEDS = [
    Seed("a new column that may be null", B, add("note", ["null", "string"], default=None)),
    Seed("a new column that is always there", B, add("note", "string")),
    Seed("a new column with a default", B, add("copies", "int", default=1)),
    Seed(
        "a column nobody is granted goes, and could be null",
        B,
        drop("child_weight_grams"),
        readers=LOSES,
        named=("child_weight_grams",),
    ),
    Seed("a column nobody is granted goes, and was always there", B, drop("birth_place"), readers=FAILS, named=("birth_place",)),
    Seed(
        "a granted and checked column goes",
        B,
        drop("child_name"),
        all_of(FAILS, ED, HC, SI) | {DQ: CHANGES},
        FAILS,
        ("child_name",),
    ),
    Seed("a wider number that nobody is granted", B, retype("child_weight_grams", ["null", "long"]), readers=FAILS),
    Seed(
        "a wider number that somebody is granted",
        B,
        retype("mother_birth_year", ["null", "long"]),
        {ST: FAILS},
        FAILS,
        ("mother_birth_year",),
    ),
    Seed("a date becomes text", B, retype("registered_on", "string"), {HC: FAILS}, FAILS, ("registered_on",)),
    Seed(
        "yes or no becomes a number", B, retype("late_registration", "int"), all_of(FAILS, HC, ST), FAILS, ("late_registration",)
    ),
    Seed(
        "a filtered column becomes a number; the filter still says the same",
        B,
        retype("province_code", "int"),
        all_of(FAILS, DQ, ED, SI, ST),
        FAILS,
        ("province_code",),
    ),
    Seed(
        "a column may be missing from now on",
        B,
        retype("province_code", ["null", "string"]),
        all_of(FAILS, DQ, ED, SI, ST),
        FAILS,
    ),
    Seed("a column is always there from now on", B, retype("mother_name", "string"), {SI: FAILS}, NOTHING, ("mother_name",)),
    Seed("a date becomes its number of days", B, retype("registered_on", "int"), {HC: CHANGES}, CHANGES, ("registered_on",)),
    Seed("a moment loses its time zone", B, retype("updated_at", LOCAL), {}, CHANGES, ("updated_at",)),
    Seed(
        "a checked date becomes a number: its year cannot be told, and it is compared as a year",
        B,
        retype("child_birth_date", "int"),
        {ST: FAILS} | all_of(CHANGES, DQ, ED, HC, SI),
        CHANGES,
        ("child_birth_date",),
    ),
    Seed(
        "text becomes bytes, which readers take for text",
        B,
        retype("register_number", "bytes"),
        all_of(CHANGES, DQ, HC, SI),
        CHANGES,
    ),
    Seed("a new name for a column nobody is granted", B, rename("birth_place", "place_of_birth"), {}, FAILS, ("birth_place",)),
    Seed(
        "a new name for a column that could be null",
        B,
        rename("child_weight_grams", "weight"),
        {},
        LOSES,
        ("child_weight_grams",),
    ),
    Seed(
        "a new name for a granted column; what is checked stays the same",
        B,
        rename("child_name", "name_of_child"),
        all_of(FAILS, ED, HC, SI),
        FAILS,
        ("child_name",),
    ),
    Seed("other words", B, annotate("child_name", doc="Other words")),
    Seed("a tag for personal data, where each agreement has a legal basis", B, annotate("province_code", pii="basic")),
    Seed(
        "a granted column becomes sensitive",
        B,
        annotate("child_name", pii="sensitive"),
        all_of(FAILS, ED, HC, SI),
        NOTHING,
        ("child_name",),
    ),
    Seed(
        "a sensitive column is no longer so",
        "education.school_record",
        annotate("average", pii="basic"),
        {ST: FAILS},
        NOTHING,
        ("average",),
    ),
    Seed("another primary key", B, of_row(primary_key=["register_number"]), all_of(CHANGES, DQ, ED, HC, SI, ST)),
    Seed("another subject", B, subject_last, all_of(CHANGES, DQ, ED, HC, SI, ST), NOTHING, ("mother_pin",)),
    Seed("one person less is checked", B, without_role("father"), all_of(CHANGES, DQ, ED, SI), NOTHING, ("father_pin",)),
    Seed("one detail less is checked", B, without_match("child", "sex"), all_of(CHANGES, DQ, ED, SI), NOTHING, ("child_pin",)),
    Seed("nobody is in the row any more", B, of_row(people=[]), all_of(FAILS, DQ, ED, SI) | all_of(CHANGES, HC, ST)),
    Seed("another order", B, backwards),
    Seed("a local time becomes a moment", D, retype("died_at", MOMENT), {SI: CHANGES}, CHANGES, ("died_at",)),
    Seed(
        "a text date becomes a date: its year is delivered as before",
        D,
        retype("birth_date", ["null", DATE]),
        {SI: FAILS, DQ: CHANGES},
        FAILS,
        ("birth_date",),
    ),
    Seed("a sensitive column goes", D, drop("cause"), {}, LOSES, ("cause",)),
    Seed(
        "a number becomes text, of which the last four are granted",
        M,
        retype("certificate_number", "bytes"),
        {SI: FAILS} | all_of(CHANGES, DQ, HC),
        CHANGES,
        ("certificate_number",),
    ),
    Seed("the register's telephone number is always there", P, retype("phone", "string"), {HC: FAILS}, NOTHING, ("phone",)),
    Seed("a column of the register that nobody is granted goes", P, drop("old_id_number"), {}, LOSES, ("old_id_number",)),
    Seed("the register's status becomes a number", P, retype("status", "int"), all_of(FAILS, ED, HC, TX), FAILS, ("status",)),
    Seed(
        "the register's sex is compared letter by letter",
        P,
        annotate("sex", compare="text"),
        all_of(CHANGES, DQ, ED, HC, SI, TX),
        NOTHING,
        ("register.sex",),
    ),
    Seed(
        "a column of the register may be missing, which one from the register could always",
        P,
        retype("ethnicity", ["null", "string"]),
        {ED: FAILS},
        FAILS,
        ("ethnicity",),
    ),
    Seed("a column of the register that rows are checked against goes", P, drop("sex"), GONE, FAILS, ("sex", "register.sex")),
    Seed(
        "a new name for a column of the register that rows are checked against",
        P,
        rename("sex", "gender"),
        GONE,
        FAILS,
        ("register.sex",),
    ),
    Seed("a new column of the register", P, add("note", ["null", "string"], default=None)),
    Seed(
        "a looked-up column of the register becomes a number",
        P,
        retype("marital_status", "int"),
        {SI: FAILS},
        FAILS,
        ("register.marital_status",),
    ),
    Seed("a decimal of another scale", L, retype("area_m2", decimal(12, 3)), all_of(CHANGES, HC, TX), CHANGES, ("area_m2",)),
    Seed("a granted column of parcels goes", L, drop("ward_code"), all_of(FAILS, HC, TX), FAILS, ("ward_code",)),
    Seed(
        "a filtered and granted column becomes yes or no",
        "land.certificate",
        retype("status", "boolean"),
        all_of(FAILS, HC, TX),
        FAILS,
        ("status",),
    ),
    Seed(
        "a filter that still holds on a column that becomes text",
        "insurance.card",
        retype("in_use", "string"),
        {ED: FAILS},
        FAILS,
    ),
    Seed(
        "a date becomes a moment, whose year cannot be told",
        "land.ownership",
        retype("acquired_on", MOMENT),
        all_of(FAILS, ST, TX),
        FAILS,
        ("acquired_on",),
    ),
]
