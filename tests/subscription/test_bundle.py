"""A bundle as files: one agency's only, secret where it is secret, well-formed whatever a password or a purpose holds."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import config
from bus.avro.catalogue import Catalogue, Entry, text_of
from bus.subscription import bundle, files
from bus.subscription.bundle import Connection, Order
from bus.subscription.catalog import SubscriptionError

FILES = files.read(config.load(Path("/nonexistent"), env={}))
NOW_MS = 1_795_000_000_000
AGENCY = FILES.agencies()[0]
PASSWORD = "0123456789abcdef" * 3
CONNECTION = Connection(("127.0.0.1:9092",), "SASL_PLAINTEXT", "SCRAM-SHA-512", f"agency-{AGENCY}", PASSWORD)
LANGUAGES = bundle.languages()
CONSUMER = bundle.CLIENTS / "python" / "consume.py"


def order(agency: str = AGENCY, connection: Connection = CONNECTION) -> Order:
    agreements = tuple(FILES.of(agency))
    schemas = {7: text_of(next(FILES.delivered(agreements[0])).schema)}
    return Order(agency, agreements, connection, schemas, {"asyncapi.yaml": "asyncapi: 3.0.0\n"}, NOW_MS)


def catalogue() -> Catalogue:
    """All agreements' schemas, each in two versions."""
    found = Catalogue()
    for agreement in FILES.agreements.values():
        for one in FILES.delivered(agreement):
            older = one.schema | {"doc": f"older, {agreement.id}"}
            for schema in (older, one.schema):
                entry = found.propose(one.subject, schema)
                assert entry
                found.add(entry)
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_password_stands_in_secret_files_only(language: str) -> None:
    made = bundle.files(order(), language)
    holding = {name for name, file in made.items() if PASSWORD.encode() in file.content}
    assert holding == {name for name, file in made.items() if file.secret}
    assert holding
    assert {"README.md", "schemas/7.avsc", "asyncapi.yaml"} <= made.keys()
    assert not [name for name in made if name.endswith((".j2", "run.md", ".pyc"))]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_readme_is_whole_and_names_the_agencys_topics_only(language: str) -> None:
    text = bundle.files(order(), language)["README.md"].content.decode()
    assert set(re.findall(r"`(agency\.[\w.-]+)`", text)) == set(order().topics)
    assert "{{" not in text
    assert "{%" not in text
    assert "```" in text


@pytest.mark.parametrize("agency", FILES.agencies())
def test_the_schemas_are_all_versions_of_the_agencys_own_topics(agency: str) -> None:
    known, agreements = catalogue(), tuple(FILES.of(agency))
    subjects = {one.subject for agreement in agreements for one in FILES.delivered(agreement)}
    wanted = {entry.id for subject in subjects for entry in known.versions(subject)}
    assert set(bundle.schemas_of(agreements, known)) == wanted
    assert len(wanted) == 2 * len(subjects)


def test_a_name_that_begins_with_anothers_gets_nothing_of_it() -> None:
    one = FILES.of(AGENCY)[0]
    known = Catalogue()
    known.add(Entry(f"agency.{AGENCY}x.y-vn.Delivery", 1, 1, '"string"'))
    known.add(Entry(f"agency.{one.id}x-vn.Delivery", 1, 2, '"long"'))
    known.add(Entry(f"agency.{one.id}-vn.Delivery", 1, 3, '"int"'))
    assert set(bundle.schemas_of((one,), known)) == {3}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_directory_and_the_secrets_are_the_owners_alone(tmp_path: Path, language: str) -> None:
    place = tmp_path / "khách hàng"
    made = bundle.files(order(), language)
    bundle.write(place, made)
    assert place.stat().st_mode & 0o777 == 0o700
    assert {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} == set(made)
    for name, file in made.items():
        assert (place / name).read_bytes() == file.content
        assert not file.secret or (place / name).stat().st_mode & 0o777 == 0o600


def test_nothing_is_written_into_a_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SubscriptionError, match="not empty"):
        bundle.write(tmp_path, bundle.files(order(), "kcat"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(SubscriptionError, match="cannot write"):
        bundle.write(tmp_path / "notes.txt" / "below", {})


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_whatever_a_password_holds_java_reads_it_back(password: str) -> None:
    """Properties by the rules of java.util.Properties.load, then the JAAS string's quotes."""
    connection = dataclasses.replace(CONNECTION, password=password)
    text = bundle.files(order(connection=connection), "java")["client.properties"].content.decode("ascii")
    found = dict(line.split("=", 1) for line in text.splitlines())
    units = re.sub(r"\\u([0-9a-f]{4})|\\(.)", _unescaped, found["sasl.jaas.config"])
    login = units.encode("utf-16-be", "surrogatepass").decode("utf-16-be")
    quoted = re.fullmatch(r'.* username="[^"]*" password="(.*)";', login, re.DOTALL)
    assert quoted
    assert re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL) == password


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else {"n": "\n", "r": "\r"}.get(found[2], found[2])


def test_a_purpose_with_marks_does_not_break_the_readmes_table() -> None:
    hostile = "a | b\n# <script>alert(1)</script> `x` [y](z) & {{ 7 * 7 }}"
    agreements = tuple(dataclasses.replace(one, purpose=hostile) for one in order().agreements)
    text = bundle.files(dataclasses.replace(order(), agreements=agreements), "kcat")["README.md"].content.decode()
    row = next(line for line in text.splitlines() if line.startswith("| `agency."))
    assert re.sub(r"\\.", "", row).count("|") == 6
    assert "{{ 7 * 7 }}" in re.sub(r"\\(.)", r"\1", row)
    assert not re.search(r"(?<!\\)[<>`\[]", row.split(" | ", 2)[2].rpartition(" | from")[0])


def consumer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("consume", CONSUMER)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(st.lists(st.integers(1, 40), max_size=10), st.integers(0, 39))
def test_the_python_clients_progress_takes_each_delivery_once(returns: list[int], crash: int) -> None:
    """Deliveries 1 to 40, read again and again from earlier places; from `crash` on as after a restart with what was saved."""
    module = consumer()
    setattr(module, "HERE", Path(_memory()))  # noqa: B010  # a module that is known by its path only
    progress, handled = module.Progress("g"), list[int]()
    stretches = [1, *returns]
    for number, begin in enumerate(stretches):
        progress.assigned()
        for seq in range(min(begin, (handled[-1] if handled else 0) + 1), 41):
            if progress.is_new("t", 0, seq):
                handled.append(seq)
        progress.save()
        if number == crash % len(stretches):
            progress = module.Progress("g")
    assert handled == list(range(1, 41))


def _memory() -> str:
    import tempfile

    return tempfile.mkdtemp()


def test_the_python_client_tells_a_gap_and_only_a_gap(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    module = consumer()
    setattr(module, "HERE", tmp_path)  # noqa: B010  # as above
    progress = module.Progress("g")
    for seq in (1, 2, 2, 3):
        progress.is_new("t", 1, seq)
    assert capsys.readouterr().err == ""
    progress.is_new("t", 1, 6)
    assert "t lane 1: seq 4 to 5 did not come" in capsys.readouterr().err
    progress.is_new("t", 2, 4)
    assert "t lane 2: seq 1 to 3 did not come" in capsys.readouterr().err, "a group that begins, begins with the first one"


def test_the_python_client_tells_a_gap_over_a_restart_and_knows_what_another_member_has_saved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = consumer()
    setattr(module, "HERE", tmp_path)  # noqa: B010  # as above
    before, other = module.Progress("g"), module.Progress("g")
    for seq in (1, 2, 3):
        before.is_new("t", 1, seq)
    before.save()
    restarted = module.Progress("g")
    restarted.is_new("t", 1, 3)
    assert capsys.readouterr().err == "", "what comes again is no gap"
    restarted = module.Progress("g")
    restarted.is_new("t", 1, 7)
    assert "t lane 1: seq 4 to 6 did not come" in capsys.readouterr().err
    other.assigned()
    other.is_new("t", 1, 4)
    assert capsys.readouterr().err == ""


def test_the_clients_scripts_are_well_formed() -> None:
    subprocess.run(["sh", "-n", str(bundle.CLIENTS / "kcat" / "read.sh")], check=True, timeout=10)
    assert json.loads(bundle.files(order(), "python")["client.json"].content)["group"] == f"agency-{AGENCY}"


@pytest.mark.parametrize(
    ("mechanism", "librdkafka", "runs"),
    [
        ("SCRAM-SHA-512", "2.0.2", False),
        ("SCRAM-SHA-512", "2.6.0", False),
        ("SCRAM-SHA-512", "2.6.1", True),
        ("SCRAM-SHA-512", "2.12.0", True),
        ("PLAIN", "2.0.2", True),
    ],
)
def test_kcat_is_refused_before_a_login_that_kafka_4_refuses(tmp_path: Path, mechanism: str, librdkafka: str, runs: bool) -> None:
    """librdkafka before 2.6.1 sends a nonce that SCRAM does not know (confluentinc/librdkafka#4895)."""
    place, programs = tmp_path / "b", tmp_path / "bin"
    bundle.write(place, bundle.files(order(connection=dataclasses.replace(CONNECTION, mechanism=mechanism)), "kcat"))
    programs.mkdir()
    (programs / "kcat").write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && echo "Version 1.7.1 (JSON, librdkafka {librdkafka} builtin.features=gzip)" || echo ran\n'
    )
    (programs / "kcat").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "read.sh"], cwd=place, env={"PATH": path}, capture_output=True, text=True, timeout=10, check=False
    )
    assert ("ran" in done.stdout) == runs
    assert (done.returncode == 0) == runs
    assert runs or f"librdkafka {librdkafka}" in done.stderr
