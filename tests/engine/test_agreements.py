"""Agreement files: what is wrong is said with file, line, reason and remedy, all at once; what is right has one hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.avro import dataset
from bus.config import Settings
from bus.core.agreement import Agreement, Delivery, Grant, GrantedField, Mask, MaskKind, Terms, Way
from bus.engine import agreements
from bus.engine.agreements import AgreementError

DATASETS = dataset.load(Settings().schemas)
GOOD = """\
agency: tax
name: owners
purpose: Land use tax
legal_basis: Decree 278/2025/ND-CP
valid_from: 2026-01-01T00:00:00+07:00
valid_until: 2027-01-01T00:00:00+07:00
datasets:
  - dataset: land.ownership
    where: {province_code: "79"}
    verdicts: [MATCH]
    share_verdict: true
    fields:
      - owner_pin
      - acquired_on: year
      - register.address
"""


def load(root: Path, **files: str) -> dict[str, Agreement]:
    for name, text in files.items():
        (root / f"{name}.yaml").write_text(text, encoding="utf-8")
    return agreements.load(dataclasses.replace(Settings(), agreements=root), DATASETS)


def problems(root: Path, text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(AgreementError) as caught:
        load(root, sample=text)
    assert all(p.file == str(root / "sample.yaml") and p.remedy for p in caught.value.problems)
    return [(p.line, p.reason, p.remedy) for p in caught.value.problems]


def test_a_good_file_becomes_exactly_what_it_says(tmp_path: Path) -> None:
    found = load(tmp_path, a=GOOD)["tax.owners"]
    fields = (GrantedField("owner_pin"), GrantedField("acquired_on", Mask.YEAR), GrantedField("register.address"))
    assert found.grants == (Grant("land.ownership", fields, (("province_code", ("79",)),), ("MATCH",), True),)
    assert (found.agency, found.purpose, found.legal_basis) == ("tax", "Land use tax", "Decree 278/2025/ND-CP")
    assert (found.valid_from_ms, found.valid_until_ms) == (1767200400000, 1798736400000)


LINT = {
    "unknown dataset": ("land.ownership", "land.owner", 8, "unknown dataset 'land.owner'", "land.ownership"),
    "unknown field": ("- owner_pin", "- owner_pim", 13, "unknown field of land.ownership 'owner_pim'", "owner_pin"),
    "unknown register field": ("register.address", "register.adress", 15, "'register.adress'", "register.address"),
    "unknown mask": ("acquired_on: year", "acquired_on: years", 14, "unknown mask 'years'", "year"),
    "mask that does not fit": ("acquired_on: year", "acquired_on: last4", 14, "cannot be applied", "string"),
    "unknown verdict": ("[MATCH]", "[MATCHED]", 10, "unknown verdict 'MATCHED'", "MATCH"),
    "unknown filter column": ("province_code:", "province:", 9, "unknown column of land.ownership", "province_code"),
    "filter on what cannot be compared": ("{province_code:", "{share:", 9, "cannot compare 'share'", "string"),
    "filter that can never hold": (
        '{province_code: "79"}',
        "{owner_no: first}",
        9,
        "can never equal 'owner_no'",
        "as the column",
    ),
    "unknown key": ("purpose:", "purposes:", 3, "unknown key in an agreement 'purposes'", "purpose"),
    "unknown key of a grant": ("verdicts:", "verdict:", 10, "unknown key in a dataset's grant", "verdicts"),
    "no legal basis": ("legal_basis: Decree 278/2025/ND-CP\n", "", 12, "names no legal basis", "legal_basis"),
    "ended before begun": ("2027-01-01", "2025-01-01", 6, "ends before it begins", "after"),
    "no zone": ("2026-01-01T00:00:00+07:00", "2026-01-01T00:00:00", 5, "no time zone", "+07:00"),
    "not an instant": ("2026-01-01T00:00:00+07:00", "next year", 5, "not an ISO 8601 instant", "+07:00"),
    "agency that cannot be in a topic": ("agency: tax", "agency: Tax.Office", 1, "cannot be part of a topic name", "hyphens"),
    "nothing granted": (
        "    fields:\n      - owner_pin\n      - acquired_on: year\n      - register.address\n",
        "",
        8,
        "no fields",
        "list",
    ),
    "field twice": ("- acquired_on: year", "- owner_pin", 14, "listed twice", "keep one"),
    "key twice": ("name: owners", "agency: tax", 2, "stands here twice", "line 1"),
    "not YAML": ("datasets:", "datasets: [", 8, "not YAML", "quotes"),
    "alias": ("Land use tax", "&a x\nlegal_basis: *a\n", 4, "an alias", "write the value out"),
    "share_verdict neither true nor false": ("share_verdict: true", "share_verdict: yes", 11, "true or false", "true"),
    "missing agency": ("agency: tax\n", "", 1, "'agency' is missing", "agency:"),
}


@pytest.mark.parametrize("what", LINT)
def test_every_kind_of_mistake_is_named_with_its_line_and_a_remedy(what: str, tmp_path: Path) -> None:
    old, new, line, reason, remedy = LINT[what]
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    assert any(at == line and reason in why and remedy in cure for at, why, cure in found), found


@pytest.mark.parametrize("kind", ["verdicts: [MATCH]", "share_verdict: true"])
@pytest.mark.parametrize("rows", ["land.parcel\n    fields: [parcel_id]", "population.person\n    fields: [pin]"])
def test_verdicts_where_nobody_is_verified_are_refused(kind: str, rows: str, tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("  - dataset")] + f"  - dataset: {rows}\n    {kind}\n"
    assert [(line, "nobody" in why) for line, why, _ in problems(tmp_path, text)] == [(10, True)]


@pytest.mark.parametrize("rows", ["land.parcel", "population.person"])
def test_the_register_enriches_only_what_is_looked_up_in_it(rows: str, tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("  - dataset")] + f"  - dataset: {rows}\n    fields: [register.address]\n"
    assert [(line, "nobody" in why) for line, why, _ in problems(tmp_path, text)] == [(9, True)]


def test_a_sensitive_field_is_named_before_a_basic_one(tmp_path: Path) -> None:
    text = GOOD.replace("legal_basis: Decree 278/2025/ND-CP\n", "").replace("acquired_on: year", "restricted")
    text = text.replace("    fields:", "    sensitive_basis: {restricted: Land Law 31/2024/QH15}\n    fields:")
    assert [(line, "'restricted' is sensitive" in why) for line, why, _ in problems(tmp_path, text)] == [(14, True)]


def test_a_sensitive_field_needs_a_law_of_its_own_and_no_other_field_has_one(tmp_path: Path) -> None:
    bare = GOOD.replace("acquired_on: year", "restricted")
    assert [(line, why) for line, why, _ in problems(tmp_path, bare)] == [
        (14, "'restricted' is sensitive personal data without a legal basis of its own")
    ]
    based = bare.replace("    fields:", "    sensitive_basis: {restricted: Land Law 31/2024/QH15}\n    fields:")
    found = load(tmp_path, sample=based)["tax.owners"]
    assert found.grants[0].sensitive_basis == (("restricted", "Land Law 31/2024/QH15"),)
    assert agreements.parse(agreements.canonical(found)) == found
    other = GOOD.replace("    fields:", "    sensitive_basis: {owner_pin: Land Law 31/2024/QH15}\n    fields:")
    assert "unknown sensitive field of this grant 'owner_pin'" in problems(tmp_path, other)[0][1]


WAYS = {
    "topic": Delivery(),
    "feed": Delivery(Way.FEED),
    "{webhook: 'https://tax.example/events?v=1'}": Delivery(Way.WEBHOOK, "https://tax.example/events?v=1"),
    "{webhook: http://127.0.0.1:8080/}": Delivery(Way.WEBHOOK, "http://127.0.0.1:8080/"),
}


@pytest.mark.parametrize("way", WAYS)
def test_delivery_and_terms_are_read_and_signed_for(tmp_path: Path, way: str) -> None:
    terms = "procedure: 1.004873\nofficer_role: Head of the land tax division\ndata_life: P5Y6M\ncontacts: [land@tax.example]\n"
    found = load(tmp_path, a=f"{terms}delivery: {way}\n{GOOD}")["tax.owners"]
    assert found.delivery == WAYS[way]
    assert found.terms == Terms("1.004873", "Head of the land tax division", "P5Y6M", ("land@tax.example",))
    assert agreements.parse(agreements.canonical(found)) == found
    assert found.grant_hash != load(tmp_path, a=GOOD)["tax.owners"].grant_hash


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("delivery: kafka", "must be topic, feed or a webhook"),
        ("delivery: {webhook: 'http://tax.example/'}", "is not https"),
        ("delivery: {webhook: 'https://user:pass@tax.example/'}", "holds a user or password"),
        ("delivery: {webhook: 'https://tax.example/#a'}", "has a fragment"),
        ("delivery: {webhook: 'https://thuế.example/'}", "is not a URL of ASCII letters"),
        ("delivery: {webhook: 'https://[::1/'}", "is not a URL"),
        ("delivery: {webhook: 'https:///events'}", "is not a URL of ASCII letters with a host"),
        ("delivery: {hook: 'https://tax.example/'}", "unknown key in 'delivery'"),
        ("data_life: five years", "is not a duration"),
        ("data_life: P", "is not a duration"),
        ("contacts: []", "an empty list"),
        ("officer_role: ''", "must be text"),
    ],
)
def test_wrong_delivery_and_terms_are_named_with_their_line(tmp_path: Path, line: str, reason: str) -> None:
    found = problems(tmp_path, f"{line}\n{GOOD}")
    assert any(at == 1 and reason in why for at, why, _ in found), found


def test_a_number_that_no_column_of_its_type_holds_is_a_filter_that_never_holds(tmp_path: Path) -> None:
    for text in ("2147483648", "-2147483649", "9" * 40):
        found = problems(tmp_path, GOOD.replace('{province_code: "79"}', f'{{owner_no: "{text}"}}'))
        assert "can never equal 'owner_no'" in found[0][1]
    load(tmp_path, sample=GOOD.replace('{province_code: "79"}', '{owner_no: "-2147483648"}'))


def test_data_of_no_person_need_no_legal_basis(tmp_path: Path) -> None:
    text = GOOD.replace("legal_basis: Decree 278/2025/ND-CP\n", "")
    text = text[: text.index("  - dataset")] + "  - dataset: education.school\n    fields: [school_id, name]\n"
    assert load(tmp_path, a=text)["tax.owners"].legal_basis == ""


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    broken = GOOD.replace("[MATCH]", "[MATCHED]").replace("- owner_pin", "- owner_pim")
    (tmp_path / "c.yml").write_text(GOOD)
    with pytest.raises(AgreementError) as caught:
        load(tmp_path, a=broken, b=GOOD.replace("agency: tax", "agency: Tax"))
    assert [(Path(p.file).name, p.line) for p in caught.value.problems] == [
        ("a.yaml", 10),
        ("a.yaml", 13),
        ("b.yaml", 1),
        ("c.yml", 0),
    ]


def test_two_files_cannot_hold_the_same_agreement(tmp_path: Path) -> None:
    with pytest.raises(AgreementError, match="exists already"):
        load(tmp_path, a=GOOD, b=GOOD)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"", b"- [" * 5000, b'agency: "\\ud800"', b"x" * 300_000], ids=range(5))
def test_bytes_that_are_no_agreement_are_a_problem_and_not_a_crash(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(raw)
    with pytest.raises(AgreementError):
        load(tmp_path)


@given(st.text(max_size=200))
def test_whatever_stands_in_a_file_is_an_agreement_or_a_named_problem(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    root = tmp_path_factory.mktemp("agreements")
    (root / "a.yaml").write_bytes((GOOD[:80] + text).encode("utf-8", "surrogatepass"))
    with pytest.raises(AgreementError):
        load(root)


def test_the_grant_hash_is_of_the_canonical_json_and_of_everything_in_it(tmp_path: Path) -> None:
    found = load(tmp_path, a=GOOD)["tax.owners"]
    canonical = agreements.canonical(found)
    assert found.grant_hash == hashlib.sha256(canonical).digest()
    assert canonical == json.dumps(json.loads(canonical), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    changed = [
        "tax",
        "owners",
        "Land",
        "278",
        "2026-01",
        "2027-01",
        '"79"',
        "[MATCH]",
        "share_verdict: true",
        "owner_pin",
        "year",
        "address",
    ]
    other = [
        "taxi",
        "landowners",
        "Lend",
        "279",
        "2026-02",
        "2027-02",
        '"01"',
        "[NO_PIN]",
        "share_verdict: false",
        "owner_name",
        "plain",
        "phone",
    ]
    hashes = {load(tmp_path, a=GOOD.replace(a, b, 1)).popitem()[1].grant_hash for a, b in zip(changed, other, strict=True)}
    assert len(hashes | {found.grant_hash}) == len(changed) + 1


def test_order_of_verdicts_filters_and_values_does_not_change_the_hash(tmp_path: Path) -> None:
    one = GOOD.replace("[MATCH]", "[MATCH, NO_PIN]").replace(
        '{province_code: "79"}', '{province_code: ["79", "01"], owner_no: "1"}'
    )
    two = GOOD.replace("[MATCH]", "[NO_PIN, MATCH]").replace(
        '{province_code: "79"}', '{owner_no: 1, province_code: ["01", "79"]}'
    )
    assert load(tmp_path, a=one)["tax.owners"].grant_hash == load(tmp_path, a=two)["tax.owners"].grant_hash


def test_the_agreements_that_come_with_the_bus_load_and_use_every_mask_and_kind_of_condition() -> None:
    found = agreements.load(Settings(), DATASETS)
    grants = [g for a in found.values() for g in a.grants]
    assert {a.agency for a in found.values()} >= {"tax", "social-insurance", "education", "hcmc", "statistics", "data-quality"}
    assert {f.mask.kind for g in grants for f in g.fields} == set(MaskKind)
    assert any(f.name.startswith("register.") for g in grants for f in g.fields)
    assert any(g.verdicts == ("MATCH",) for g in grants)
    assert any(g.share_verdict for g in grants)
    assert {c for g in grants for c in g.where} >= {("province_code", ("79",))}
    for name, agreement in found.items():
        for grant in (g for g in agreement.grants if name.startswith("statistics.")):
            pins = {role.pin for role in DATASETS[grant.dataset].people}
            assert all(f.mask == Mask.PSEUDONYM for f in grant.fields if f.name in pins)
