"""What an agency sees of a row's life: the rules that are easy to get wrong, each by name, on one small world."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest

from bus.avro.catalogue import Catalogue, CatalogueError
from bus.avro.dataset import Dataset, Role
from bus.avro.frame import Malformed
from bus.core.agreement import Agreement, Grant, GrantedField, Mask
from bus.engine.plan import PlanError, Record, Secrets, compile_plan, delivery_schemas
from tests.engine.reference import Known, Row, bare
from tests.engine.worlds import AGREEMENT_SECRET, MAX_RECORD_BYTES, PERSON_SECRET, Stage

PIN, OTHER = "001124000123", "079188000045"


def dataset(
    name: str, fields: dict[str, Any], people: list[Role], register: bool = False, compare: dict[str, str] | None = None
) -> Dataset:
    domain, table = name.split(".")
    listed = [{"name": n, "type": t} | ({"compare": compare[n]} if compare and n in compare else {}) for n, t in fields.items()]
    row = {"type": "record", "name": table, "namespace": f"vn.lienthong.{domain}", "fields": listed}
    return Dataset(name, domain, table, row, (next(iter(fields)),), tuple(people), register)


REGISTER = dataset(
    "population.person",
    {"pin": "string", "full_name": "string", "birth_date": "string", "ward": "string"},
    [Role("person", "pin", {})],
    register=True,
    compare={"full_name": "name", "birth_date": "date"},
)
MEMBER = dataset(
    "insurance.member",
    {"number": "string", "pin": ["null", "string"], "name": "string", "province": "string", "salary": "long"},
    [Role("member", "pin", {"full_name": "name"})],
)
BIRTH = dataset(
    "civil.birth",
    {
        "id": "long",
        "pin": ["null", "string"],
        "name": "string",
        "mother_pin": ["null", "string"],
        "mother_name": ["null", "string"],
    },
    [Role("child", "pin", {"full_name": "name"}), Role("mother", "mother_pin", {"full_name": "mother_name"})],
)
SCHOOL = dataset("education.school", {"code": "string", "name": "string"}, [])
ROW: Row = {"number": "BH1", "pin": PIN, "name": "Nguyễn Thị Hòa", "province": "79", "salary": 5}
PEOPLE = {PIN: Known({"pin": PIN, "full_name": "NGUYỄN THỊ HOÀ", "birth_date": "1985", "ward": "W1"}, 41)}


def agreement(grant: Grant, name: str = "tax.people") -> Agreement:
    return Agreement(name, name.split(".", maxsplit=1)[0], "p", "l", (grant,), 0, None, b"h" * 32)


def grant(*fields: str, of: Dataset = MEMBER, masks: dict[str, Mask] | None = None, **rest: Any) -> Grant:
    return Grant(of.name, tuple(GrantedField(f, (masks or {}).get(f, Mask.PLAIN)) for f in fields), **rest)


def stage(*grants: Grant, of: Dataset = MEMBER, people: dict[str, Known] | None = None) -> Stage:
    agreed = tuple(agreement(g, f"agency-{k}.data") for k, g in enumerate(grants))
    return Stage(of, REGISTER, agreed, PEOPLE if people is None else people)


def handle(on: Stage, op: str, before: Row | None, after: Row | None, force: bool = True) -> tuple[list[Row], list[str], Row]:
    """(deliveries, outcomes, verified event), decoded."""
    value, key = on.change(op, before, after)
    out: list[Record] = []
    tally = on.plan.handle(value, key, on.replica.get, on.seqs, [force] * len(on.seqs), out)
    decoded = [read(on, v) for _, v, _ in out]
    return decoded[:-1], [o for _, o in on.plan.outcomes(tally)], decoded[-1]


def read(on: Stage, value: bytes) -> Row:
    schema = json.loads(on.catalogue.schema(int.from_bytes(value[1:5], "big")))
    found: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), fastavro.parse_schema(bare(schema)), None)
    return dict(found)


def test_an_update_that_changes_nothing_the_agreement_sees_is_not_delivered() -> None:
    on = stage(grant("pin", "province"), grant("salary"))
    deliveries, outcomes, _ = handle(on, "u", ROW, ROW | {"salary": 6})
    assert outcomes == ["INVISIBLE", "DELIVERED"]
    assert [d["data"] for d in deliveries] == [{"salary": 6}]


@pytest.mark.parametrize(("before", "after", "same"), [(PIN, PIN, True), ("x1234", "y1234", True), ("x1234", "x1235", False)])
def test_what_a_mask_hides_is_invisible(before: str, after: str, same: bool) -> None:
    on = stage(grant("name", masks={"name": Mask.LAST4}))
    _, outcomes, _ = handle(on, "u", ROW | {"name": before}, ROW | {"name": after})
    assert outcomes == ["INVISIBLE" if same else "DELIVERED"]


def test_a_row_that_stops_matching_is_withdrawn_without_values() -> None:
    on = stage(grant("pin", "name", where=(("province", ("79",)),), share_verdict=True))
    (delivery,), outcomes, _ = handle(on, "u", ROW, ROW | {"province": "01", "name": "X"})
    assert outcomes == ["DELIVERED"]
    assert (delivery["op"], delivery["data"], delivery["verdict"]) == ("w", None, None)
    (created,), _, _ = handle(on, "c", None, ROW)
    assert created["row_key"] == delivery["row_key"], "the agency must know which row to drop"


def test_a_row_that_starts_matching_arrives_as_a_create() -> None:
    on = stage(grant("pin", where=(("province", ("79",)),)))
    (delivery,), _, _ = handle(on, "u", ROW | {"province": "01"}, ROW)
    assert (delivery["op"], delivery["data"]) == ("c", {"pin": PIN})


def test_a_row_that_matches_neither_before_nor_after_is_withheld() -> None:
    on = stage(grant("pin", where=(("province", ("48",)),)), grant("pin", where=(("province", ("79", "48")),)))
    assert handle(on, "u", ROW, ROW | {"salary": 6, "province": "01"})[1] == ["ROW_FILTER", "DELIVERED"]
    assert handle(on, "c", None, ROW | {"province": "01"})[1] == ["ROW_FILTER", "ROW_FILTER"]


def test_a_deletion_of_a_visible_row_is_delivered_without_values_and_of_another_not() -> None:
    on = stage(grant("pin", where=(("province", ("79",)),)))
    (delivery,), _, _ = handle(on, "d", ROW, None)
    assert (delivery["op"], delivery["data"]) == ("d", None)
    assert handle(on, "d", ROW | {"province": "01"}, None)[1] == ["ROW_FILTER"]


@pytest.mark.parametrize("known", [PEOPLE, {}, {PIN: Known(PEOPLE[PIN].row | {"full_name": "Ai Đó Khác"}, 77)}])
def test_a_delete_reaches_the_agency_whatever_the_register_says_by_then(known: dict[str, Known]) -> None:
    """A row that is no more must not stay with those it was delivered to because its person was corrected since."""
    grants = [grant("pin", verdicts=(v,), share_verdict=share) for v in ("MATCH", "NOT_FOUND") for share in (True, False)]
    on, now = stage(*grants), stage(*grants, people=known)
    created, _, _ = handle(on, "c", None, ROW)
    deleted, outcomes, verified = handle(now, "d", ROW, None)
    assert outcomes == ["DELIVERED"] * 4
    assert {d["row_key"] for d in deleted} == {c["row_key"] for c in created}
    assert [(d["op"], d["data"]) for d in deleted] == [("d", None)] * 4
    status = verified["verification"][0]["status"]
    assert [d["verdict"] for d in deleted] == [v if v == status else None for v in ("MATCH", None, "NOT_FOUND", None)], (
        "of a verdict that the agreement does not ask for nothing is told"
    )


def test_a_delete_is_withheld_only_by_the_row_filter_and_by_force() -> None:
    on = stage(grant("pin", where=(("province", ("01",)),), verdicts=("MATCH",)), grant("pin", verdicts=("NO_PIN",)))
    assert handle(on, "d", ROW, None)[1] == ["ROW_FILTER", "DELIVERED"]
    assert handle(on, "d", ROW | {"province": "01"}, None, force=False)[1] == ["NOT_IN_FORCE"] * 2


def test_a_verdict_that_changes_is_news_even_if_no_granted_field_does() -> None:
    on = stage(grant("pin", share_verdict=True), grant("pin"))
    deliveries, outcomes, _ = handle(on, "u", ROW | {"name": "Ai Đó Khác"}, ROW)
    assert outcomes == ["DELIVERED", "INVISIBLE"], "to the agreement that shares the verdict, and to no other"
    assert (deliveries[0]["op"], deliveries[0]["verdict"]) == ("u", "MATCH")


def test_agreements_on_verdicts_see_a_corrected_row_come_and_go() -> None:
    on = stage(grant("pin", verdicts=("MATCH",)), grant("pin", verdicts=("MISMATCH", "NOT_FOUND")))
    wrong = ROW | {"name": "Ai Đó Khác"}
    deliveries, outcomes, _ = handle(on, "c", None, wrong)
    assert outcomes == ["VERDICT", "DELIVERED"]
    deliveries, outcomes, _ = handle(on, "u", wrong, ROW)
    assert [d["op"] for d in deliveries] == ["c", "w"]
    assert handle(on, "u", ROW, ROW | {"salary": 9})[1] == ["INVISIBLE", "VERDICT"]


def test_the_reason_is_the_verdict_where_the_filter_held_on_either_side() -> None:
    """ROW_FILTER means: neither before nor after."""
    on = stage(grant("pin", where=(("province", ("79",)),), verdicts=("NOT_FOUND",)))
    elsewhere = ROW | {"province": "01"}
    assert handle(on, "u", ROW, elsewhere)[1] == ["VERDICT"]
    assert handle(on, "u", elsewhere, ROW)[1] == ["VERDICT"]
    assert handle(on, "u", elsewhere, elsewhere | {"salary": 1})[1] == ["ROW_FILTER"]


def test_an_agreement_that_is_not_in_force_gets_nothing_and_counts_nothing() -> None:
    on = stage(grant("pin"))
    deliveries, outcomes, verified = handle(on, "c", None, ROW, force=False)
    assert (deliveries, outcomes, on.seqs) == ([], ["NOT_IN_FORCE"], [0])
    assert verified["decisions"] == [{"agreement": "agency-0.data", "outcome": "NOT_IN_FORCE"}]


def test_sequence_numbers_have_no_gaps_over_withheld_events() -> None:
    on = stage(grant("pin", where=(("province", ("79",)),)))
    seen = [d["seq"] for i in range(40) for d in handle(on, "c", None, ROW | {"province": "79" if i % 3 else "01"})[0]]
    assert seen == list(range(1, len(seen) + 1))
    assert on.seqs == [len(seen)]


@pytest.mark.parametrize("last", [62, 63, 8190, 8191, 8192, 1_048_575, 2**40])
def test_sequence_numbers_of_any_size_are_encoded_rightly(last: int) -> None:
    on = stage(grant("pin"))
    on.seqs[0] = last
    assert [handle(on, "c", None, ROW)[0][0]["seq"] for _ in range(3)] == [last + 1, last + 2, last + 3]


def test_an_agreement_without_the_pin_gets_other_names_for_person_row_and_event() -> None:
    on = stage(grant("pin"), grant("salary"), grant("salary"), grant("pin", masks={"pin": Mask.PSEUDONYM}))
    value, key = on.change("c", None, ROW)
    out: list[Record] = []
    on.plan.handle(value, key, on.replica.get, on.seqs, [True] * 4, out)
    records = [(k, read(on, v)) for _, v, k in out[:-1]]
    assert records[0][0] == key
    for name in ("row_key", "event_id"):
        assert len({r[name] for _, r in records}) == 4, f"two agencies could join their streams by {name}"
    assert len({k for k, _ in records}) == 4
    again: list[Record] = []
    on.plan.handle(value, key, on.replica.get, on.seqs, [True] * 4, again)
    assert [k for _, _, k in again] == [k for _, _, k in out], "names are stable"


def test_no_pin_is_in_any_key_or_in_a_delivery_that_does_not_grant_it() -> None:
    masked = {"pin": Mask.PSEUDONYM}
    on = stage(grant("name", "salary"), grant("pin", "register.ward", masks=masked), grant("pin", masks={"pin": Mask.LAST4}))
    for op, before, after in (("c", None, ROW), ("u", ROW, ROW | {"name": "B", "pin": PIN}), ("d", ROW, None)):
        value, key = on.change(op, before, after)
        out: list[Record] = []
        on.plan.handle(value, key, on.replica.get, on.seqs, [True] * 3, out)
        for topic, delivered, k in out:
            assert PIN.encode() not in k
            assert topic.startswith("verified.") or PIN.encode() not in delivered
            assert topic.startswith("verified.") or PIN.encode()[:8] not in delivered


def test_every_person_of_a_row_is_verified_and_the_gravest_verdict_counts() -> None:
    on = stage(grant("id", of=BIRTH, share_verdict=True), of=BIRTH)
    row = {"id": 1, "pin": PIN, "name": "nguyễn thị hoà", "mother_pin": OTHER, "mother_name": "Trần Thị A"}
    (delivery,), _, verified = handle(on, "c", None, row)
    assert [(v["role"], v["status"], v["register_offset"]) for v in verified["verification"]] == [
        ("child", "MATCH", 41),
        ("mother", "NOT_FOUND", None),
    ]
    assert delivery["verdict"] == "NOT_FOUND"
    assert verified["person"]["ward"] == "W1"


def test_a_role_that_the_row_does_not_fill_is_absent_and_one_named_without_pin_is_not() -> None:
    on = stage(of=BIRTH)
    row = {"id": 1, "pin": PIN, "name": "Nguyễn Thị Hoà", "mother_pin": None, "mother_name": None}
    assert [v["role"] for v in handle(on, "c", None, row)[2]["verification"]] == ["child"]
    named = handle(on, "c", None, row | {"mother_name": "Trần Thị A"})[2]["verification"]
    assert [(v["role"], v["status"]) for v in named] == [("child", "MATCH"), ("mother", "NO_PIN")]


def test_a_row_without_pin_has_no_register_fields() -> None:
    on = stage(
        grant("number", "register.ward", "register.birth_date", masks={"register.birth_date": Mask.YEAR}, share_verdict=True)
    )
    assert handle(on, "c", None, ROW)[0][0]["data"] == {"number": "BH1", "register_ward": "W1", "register_birth_date": 1985}
    (delivery,), _, verified = handle(on, "c", None, ROW | {"pin": None})
    assert delivery["data"] == {"number": "BH1", "register_ward": None, "register_birth_date": None}
    assert delivery["verdict"] == "NO_PIN"
    assert verified["person"] is None


@pytest.mark.parametrize("bad", ["", None, OTHER])
def test_an_update_never_moves_a_row_to_another_person(bad: str | None) -> None:
    """Its key is one person's: the other's register record and lane would be wrong. Capture makes two events of it."""
    on = stage(grant("pin"))
    value, key = on.change("u", ROW, ROW | {"pin": bad})
    out: list[Record] = []
    with pytest.raises(Malformed):
        on.plan.handle(value, key, on.replica.get, on.seqs, [True], out)
    assert (out, on.seqs) == ([], [0])


def test_an_update_never_turns_a_row_into_another() -> None:
    """An agency would keep the one under its old key. Capture makes two events of it."""
    on = stage(grant("pin"))
    value, key = on.change("u", ROW, ROW | {"number": "BH2"})
    out: list[Record] = []
    with pytest.raises(Malformed):
        on.plan.handle(value, key, on.replica.get, on.seqs, [True], out)
    assert (out, on.seqs) == ([], [0])


@pytest.mark.parametrize(("op", "before", "after"), [("c", ROW, ROW), ("r", ROW, ROW), ("u", None, ROW), ("d", ROW, ROW)])
def test_an_op_without_its_images_is_refused(op: str, before: Row | None, after: Row | None) -> None:
    on = stage(grant("pin"))
    value, key = on.change(op, before, after)
    with pytest.raises(Malformed):
        on.plan.handle(value, key, on.replica.get, on.seqs, [True], [])


def test_rows_without_people_have_no_verdict() -> None:
    on = stage(grant("name", of=SCHOOL, share_verdict=True), of=SCHOOL)
    (delivery,), _, verified = handle(on, "c", None, {"code": "S1", "name": "Chu Văn An"})
    assert delivery["verdict"] is None
    assert verified["verification"] == []


REFUSED = [
    (MEMBER, grant("nmae"), "nmae"),
    (MEMBER, grant("register.wardd"), "wardd"),
    (MEMBER, grant(), "no fields"),
    (MEMBER, grant("salary", masks={"salary": Mask.YEAR}), "year"),
    (MEMBER, grant("salary", masks={"salary": Mask.LAST4}), "last4"),
    (MEMBER, grant("pin", where=(("provinz", ("1",)),)), "provinz"),
    (MEMBER, grant("pin", where=(("salary", ("five",)),)), "salary"),
    (MEMBER, grant("pin", verdicts=("PERFECT",)), "PERFECT"),
    (SCHOOL, grant("name", of=SCHOOL, verdicts=("MATCH",)), "verdicts"),
    (SCHOOL, grant("register.ward", of=SCHOOL), "register"),
    (REGISTER, grant("register.ward", of=REGISTER), "register"),
    (REGISTER, grant("pin", of=REGISTER, verdicts=("MATCH",)), "verdicts"),
]


@pytest.mark.parametrize(("of", "bad", "named"), REFUSED)
def test_an_agreement_that_does_not_fit_is_refused_by_name(of: Dataset, bad: Grant, named: str) -> None:
    with pytest.raises(PlanError, match=named) as caught:
        delivery_schemas({of.name: of}, REGISTER, agreement(bad))
    assert "tax.people" in str(caught.value)
    assert of.name in str(caught.value)


def test_schemas_that_are_not_registered_stop_the_engine() -> None:
    with pytest.raises(CatalogueError, match="bus up"):
        compile_plan(SCHOOL, REGISTER, [], Catalogue(), Secrets(PERSON_SECRET, AGREEMENT_SECRET), MAX_RECORD_BYTES)


def test_generated_code_reads_no_column_that_nobody_needs() -> None:
    assert "salary" not in stage(grant("pin", "name")).plan.source
    assert "salary" in stage(grant("pin", "salary")).plan.source
