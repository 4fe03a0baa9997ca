"""Test files of agreements: the checkout's hold, every change of an agreement breaks its own, a wrong file says where."""

from __future__ import annotations

import dataclasses
import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bus.avro import dataset
from bus.cli.main import app
from bus.config import ROOT, Settings
from bus.core.agreement import Agreement, Grant, GrantedField, Mask
from bus.core.outcome import VERDICTS
from bus.engine import agreements
from bus.trial import cases, testing
from bus.trial.cases import CaseError, Examples

SETTINGS = Settings()
DATASETS = dataset.load(SETTINGS.schemas)
REGISTER = dataset.register_of(DATASETS)
AGREED = agreements.load(SETTINGS, DATASETS)
FILES = cases.load(SETTINGS.agreements, AGREED, DATASETS, REGISTER)


def test_every_shipped_agreement_is_tested_in_all_it_opens_and_passes() -> None:
    report = testing.run(SETTINGS, [])
    assert report.untested == []
    assert {t.examples.agreement.id: (t.failures, t.lacking) for t in report.tested} == {name: ([], []) for name in AGREED}


def test_the_example_in_the_documents_holds(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "agreements.md").read_text(encoding="utf-8")
    example = text.partition("## Test it")[2].partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "example.test.yaml").write_text(example, encoding="utf-8")
    found = testing.examine(cases.load(tmp_path, AGREED, DATASETS, REGISTER)[0], DATASETS, REGISTER)
    assert len(found.examples.cases) == 3
    assert found.failures == []


def test_everybody_in_the_shipped_files_is_invented() -> None:
    """Personal numbers that nobody has, and names in composed form."""
    for one in FILES:
        text = one.path.read_text(encoding="utf-8")
        assert unicodedata.is_normalized("NFC", text)
        pin = REGISTER.people[0].pin
        pins = {person[pin] for person in one.people}
        for case in one.cases:
            roles = [role.pin for role in DATASETS[case.dataset].people]
            pins |= {row[c] for row in (case.before, case.after) if row for c in roles}
        assert all(len(p) == 12 and p.startswith("0000000000") for p in pins - {None})


def changed(grant: Grant) -> Iterator[tuple[str, Grant]]:
    """The grant with one thing different, each in turn: what limits and masks it, the first and the last field, one more."""
    for place, (column, _) in enumerate(grant.where):
        yield f"no filter on {column}", dataclasses.replace(grant, where=grant.where[:place] + grant.where[place + 1 :])
    if grant.verdicts:
        yield "any verdict", dataclasses.replace(grant, verdicts=())
        others = tuple(v for v in VERDICTS if v not in grant.verdicts)
        yield "other verdicts", dataclasses.replace(grant, verdicts=others)
    if DATASETS[grant.dataset].people and grant.dataset != REGISTER.name:
        yield "share_verdict", dataclasses.replace(grant, share_verdict=not grant.share_verdict)
    for place, field in enumerate(grant.fields):
        rest = grant.fields[:place], grant.fields[place + 1 :]
        if len(grant.fields) > 1 and place in (0, len(grant.fields) - 1):
            yield f"without {field.name}", dataclasses.replace(grant, fields=(*rest[0], *rest[1]))
        if field.mask != Mask.PLAIN:
            yield f"{field.name} unmasked", dataclasses.replace(grant, fields=(*rest[0], GrantedField(field.name), *rest[1]))
    more = next(c for c in DATASETS[grant.dataset].fields if c not in {f.name for f in grant.fields})
    yield f"with {more}", dataclasses.replace(grant, fields=(*grant.fields, GrantedField(more)))


@pytest.mark.parametrize("one", FILES, ids=lambda one: one.agreement.id)
def test_whatever_is_changed_in_a_shipped_agreement_its_test_file_notices(one: Examples) -> None:
    seen = 0
    for grant in one.agreement.grants:
        own = tuple(c for c in one.cases if c.dataset == grant.dataset)
        for what, other in changed(grant):
            agreement = dataclasses.replace(one.agreement, grants=(other,))
            found = testing.examine(dataclasses.replace(one, agreement=agreement, cases=own), DATASETS, REGISTER)
            assert found.failures, f"{grant.dataset}: {what} goes unnoticed"
            seen += 1
    assert seen > 10


AGREEMENT = """\
agency: archive
name: land
purpose: Archive
legal_basis: Decree 1
valid_from: 2026-01-01T00:00:00+07:00
datasets:
  - dataset: land.ownership
    where: {province_code: "79"}
    verdicts: [MATCH]
    share_verdict: true
    fields: [owner_pin: pseudonym, acquired_on: year, share]
"""
TEST = """\
agreement: archive.land
people:
  - {pin: "000000000001", full_name: Nguyễn Văn Thử, birth_date: 1980, sex: M}
rows:
  land.ownership: {owner_pin: "000000000001", owner_name: Nguyễn Văn Thử, province_code: "79", acquired_on: 2014-01-15, share: 1}
cases:
  - case: an owner
    dataset: land.ownership
    op: c
    gets:
      op: c
      verdict: MATCH
      data: {owner_pin: {pseudonym: "000000000001"}, acquired_on: 2014, share: 1}
  - case: elsewhere
    dataset: land.ownership
    op: c
    after: {province_code: "01"}
    withheld: ROW_FILTER
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose agreements are one, with a test file."""
    place = tmp_path / "agreements"
    place.mkdir()
    (place / "archive.land.yaml").write_text(AGREEMENT, encoding="utf-8")
    (place / "archive.land.test.yaml").write_text(TEST, encoding="utf-8")
    made = tmp_path / ".bus"
    made.mkdir()
    (made / "settings.yaml").write_text(f"agreements: {json.dumps(str(place))}\n", encoding="utf-8")
    return made


def edit(home: Path, old: str, new: str) -> None:
    file = home.parent / "agreements" / "archive.land.test.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def bus(home: Path, *arguments: str) -> tuple[int, str, Exception | None]:
    done = CliRunner().invoke(app, ["--home", str(home), "agreement", "test", *arguments])
    error = done.exception
    return done.exit_code, done.output, error if isinstance(error, Exception) else None


def test_a_file_that_holds_exits_with_0_and_says_what_it_does_not_look_at(home: Path) -> None:
    status, text, _ = bus(home)
    assert status == 0
    assert "passed  archive.land: 2 of 2 cases" in text
    assert "not looked at: land.ownership: a row whose verdict is not asked for" in text
    assert bus(home, "--all-tested")[0] == 1


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("acquired_on: 2014, share", "acquired_on: 2015, share", "    - data.acquired_on: 2015\n    + data.acquired_on: 2014"),
        ("verdict: MATCH", "verdict: MISMATCH", "    - verdict: MISMATCH\n    + verdict: MATCH"),
        ("withheld: ROW_FILTER", "withheld: VERDICT", "    - outcome: VERDICT\n    + outcome: ROW_FILTER"),
        ('pseudonym: "000000000001"', 'pseudonym: "000000000002"', "    - data.owner_pin: "),
        ('{province_code: "01"}', '{province_code: "79"}', "    - outcome: ROW_FILTER\n    + outcome: DELIVERED"),
        (
            "full_name: Nguyễn Văn Thử, birth",
            "full_name: Nguyễn Văn Khác, birth",
            "    - outcome: DELIVERED\n    + outcome: VERDICT",
        ),
    ],
)
def test_what_came_otherwise_is_told_with_both_sides_and_exits_with_1(home: Path, old: str, new: str, difference: str) -> None:
    edit(home, old, new)
    status, text, _ = bus(home)
    assert status == 1
    assert "FAILED  archive.land: 1 of 2 cases" in text
    assert difference in text
    status, text, _ = bus(home, "--json")
    assert status == 1
    assert not json.loads(text)["passed"]
    assert len(json.loads(text)["files"][0]["failures"]) == 1


def test_an_update_that_no_capture_makes_is_told_as_refused(home: Path) -> None:
    new = 'op: u\n    after: {owner_pin: "000000000002"}\n    withheld: ROW_FILTER'
    edit(home, 'op: c\n    after: {province_code: "01"}\n    withheld: ROW_FILTER', new)
    status, text, _ = bus(home)
    assert status == 1
    assert "refused: MALFORMED (an update keeps primary key and subject" in text


@pytest.mark.parametrize(
    ("old", "new", "line", "reason", "remedy"),
    [
        ("agreement: archive.land", "agreement: archive.lnd", 1, "unknown agreement", "archive.land"),
        ("share: 1}\ncases", "shar: 1}\ncases", 5, "unknown column of land.ownership 'shar'", "did you mean 'share'?"),
        ("acquired_on: 2014-01-15", "acquired_on: 15/1/2014", 5, "'acquired_on': not a date", "2025-07-01"),
        ("land.ownership\n    op: c\n    gets", "land.parcel\n    op: c\n    gets", 8, "'land.parcel'", "land."),
        ("op: c\n    gets", "op: x\n    gets", 9, "unknown op 'x'", "known are: c, d, r, u"),
        (", share: 1}\n  -", "}\n  -", 13, "'data' lacks share", "null if nothing"),
        ("      verdict: MATCH", "      verdict: MATSCH", 12, "unknown verdict", "MATCH"),
        ("withheld: ROW_FILTER", "withheld: NOT_IN_FORCE", 18, "unknown withheld", "known are"),
        ("    withheld: ROW_FILTER\n", "", 14, "either 'gets' or 'withheld'", "write one"),
        ("after: {prov", "before: {prov", 17, "an event 'c' has no 'before'", "it has: after"),
        ("op: c\n    after: {province_code: \"01\"}", "op: u", 14, "an update without 'after'", "what has changed"),
        ("  - case: elsewhere", "  - case: ''", 14, "'case' must be text", "write 'case: …'"),
        ("cases:", "casus:", 6, "unknown key in a test file 'casus'", "did you mean 'cases'?"),
        ("op: c\n      verdict", "op: w\n      verdict", 11, "a delivery 'w' has no values", "leave 'data' out"),
        ('pin: "000000000001", full_name', "full_name", 3, "a person without 'pin'", "invented"),
        ("\nrows:", '\n  - {pin: "000000000001"}\nrows:', 4, "a second person with this 'pin'", "one record"),
        ("{pseudonym: ", "{pseudo: ", 13, "'owner_pin' is a pseudonym", "with what is hidden"),
        ("share: 1}\n  -", "sharing: 1}\n  -", 13, "unknown field that archive.land gets", "did you mean 'share'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_line_reason_and_remedy(
    home: Path, old: str, new: str, line: int, reason: str, remedy: str
) -> None:
    edit(home, old, new)
    status, _, error = bus(home)
    assert isinstance(error, CaseError), "a mistake of a person's is told as one"
    assert status == 1
    found = [p for p in error.problems if reason in p.reason]
    assert found, [str(p) for p in error.problems]
    assert (found[0].line, found[0].file.endswith("archive.land.test.yaml")) == (line, True)
    assert remedy in found[0].remedy


def test_an_agreement_without_a_file_is_told_and_fails_only_if_asked(home: Path) -> None:
    (home.parent / "agreements" / "archive.land.test.yaml").unlink()
    status, text, _ = bus(home)
    assert (status, "untested  archive.land" in text) == (0, True)
    assert bus(home, "--all-tested")[0] == 1
    error = bus(home, "archive.lamd")[2]
    assert "did you mean 'archive.land'?" in str(error)


def test_a_test_file_is_never_taken_for_an_agreement(home: Path, tmp_path: Path) -> None:
    """Not even one that could be read as one."""
    place = tmp_path / "agreements"
    shutil.copy(place / "archive.land.yaml", place / "another.test.yaml")
    found: dict[str, Agreement] = agreements.load(dataclasses.replace(SETTINGS, agreements=place), DATASETS)
    assert list(found) == ["archive.land"]
