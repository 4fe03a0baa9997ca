"""Agreements that change while the engine works: at exact offsets, everywhere, and all or nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bus import telemetry
from bus.core import topics
from bus.engine import agreement_log, agreements
from bus.engine.agreement_log import INDEX, Reading, Said
from bus.engine.client import Stop
from bus.engine.worker import Worker
from bus.platform import agreed, cluster, declared
from bus.signatures import keys, statement
from bus.signatures import log as signatures
from bus.signatures.statement import Act, Statement
from tests.engine.feeding import feeding
from tests.engine.stage import Stage, digest
from tests.engine.strength.matrix import only_soak
from tests.engine.test_worker import owns

pytestmark = pytest.mark.timeout(300)
LONGEST_SECONDS = 20.0
"""Ten times what is promised: this may run beside three other suites on two cores."""
NEW = """\
agency: archive
name: land
purpose: Archive
legal_basis: Decree 1
valid_from: 2026-01-01T00:00:00+07:00
datasets:
  - dataset: land.ownership
    fields: [owner_pin, province_code]
"""


@pytest.fixture(scope="module", autouse=True)
def afterwards(stage: Stage) -> Iterator[None]:
    """The agreements of the checkout are in force again."""
    yield
    stage.stop_workers()
    stage.apply()


@pytest.fixture
def files(stage: Stage, tmp_path: Path) -> Path:
    """Agreement files to be edited."""
    return shutil.copytree(stage.settings.agreements, tmp_path / "agreements")


def in_force(stage: Stage) -> dict[int, dict[str, Any]]:
    """Lane -> the last change on record there."""
    stage.look()
    changes = {
        lane: [line["change"] | {"at_ms": line["decided_at_ms"]} for line in stage.decode(records) if line["change"]]
        for lane, records in stage.lanes(topics.AUDIT).items()
    }
    return {lane: found[-1] for lane, found in changes.items() if found}


def until_in_force(stage: Stage, wanted: str) -> float:
    """Until every lane works by it; seconds from its last record's writing to the last lane's first transaction under it."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while {change["after"] for change in in_force(stage).values()} != {wanted}:
        assert time.monotonic() < deadline, "not in force everywhere in time"
        time.sleep(0.02)
    written_ms = stage.records(topics.AGREEMENTS)[-1].timestamp()[1]
    return float(max(change["at_ms"] for change in in_force(stage).values()) - written_ms) / 1000


def digest_of(stage: Stage) -> str:
    """Of what the topic says now."""
    found = agreement_log.read(stage.config).agreements()
    return digest({name: {"grant_hash": one.grant_hash} for name, one in found.items()})


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_change_takes_effect_at_one_point_of_every_lane_while_events_flow(stage: Stage, files: Path) -> None:
    """One agreement is narrowed, one is new, one ends; the laws of `check` hold every delivery to its side of the offsets."""
    for index in range(2):
        stage.start(f"engine-{index}")
    stage.until("both to own lanes", lambda: all(owns(stage, f"engine-{n}", 2) for n in range(2)))
    with feeding(stage):
        stage.until("all lanes to be at work", lambda: len(in_force(stage)) == 4)
        (files / "archive.land.yaml").write_text(NEW, encoding="utf-8")
        (files / "education.pupils.yaml").unlink()
        edit(files / "tax.taxpayers.yaml", "      - register.ward_code\n", "")
        done = stage.apply(files)
        assert done.change == agreement_log.Change(("archive.land",), ("education.pupils",), ("tax.taxpayers",))
        seconds = until_in_force(stage, digest_of(stage))
        print(f"\nin force in all lanes of both workers after {seconds:.3f} s")
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained)
    outcomes = stage.check()
    assert outcomes["archive.land", "land.ownership", "DELIVERED"]
    assert len({d["grant_hash"] for d in stage.decode(stage.records(topics.agency("tax.taxpayers")))}) == 2


def write(stage: Stage, records: dict[bytes, bytes | None]) -> None:
    """What nobody but the administrator could write, and the bus never does."""
    producer = Producer(stage.config)
    for key, value in records.items():
        producer.produce(topics.AGREEMENTS, value, key, partition=0)
    assert producer.flush(30) == 0


def sign(stage: Stage, values: Iterable[bytes | None]) -> None:
    """For both parties, with the keys of this home."""
    listed = [agreements.parse(value) for value in values if value is not None]
    said = [
        statement.sign(Statement(Act.SIGN, one.id, one.grant_hash, party, 1), keys.private(stage.settings, party))
        for one in listed
        for party in statement.parties(one)
    ]
    signatures.write(stage.settings, said)


def garbage(_: Said) -> dict[bytes, bytes | None]:
    return {b"tax.taxpayers": b'{"agency": "tax", "id": "tax.taxpayers"}'}


def one_without_the_index(said: Said) -> dict[bytes, bytes | None]:
    changed = dataclasses.replace(said.agreements()["tax.taxpayers"], purpose="another")
    return {b"tax.taxpayers": agreements.canonical(changed)}


def a_field_that_there_is_not(said: Said) -> dict[bytes, bytes | None]:
    """A whole set, well-formed, with an ending beside it that must not take effect either."""
    old = said.agreements()["tax.taxpayers"]
    grant = dataclasses.replace(old.grants[0], fields=(dataclasses.replace(old.grants[0].fields[0], name="no_such_column"),))
    value = agreements.canonical(dataclasses.replace(old, grants=(grant,)))
    index = json.loads(said.index or b"")
    index["tax.taxpayers"] = agreements.parse(value).grant_hash.hex()
    del index["education.pupils"]
    return {b"tax.taxpayers": value, b"education.pupils": None, INDEX: json.dumps(index, separators=(",", ":")).encode()}


def one_that_nobody_signed(said: Said) -> dict[bytes, bytes | None]:
    """Well-formed, under an index that names it: whoever can write here can do no more than that."""
    value = agreements.canonical(dataclasses.replace(said.agreements()["tax.taxpayers"], purpose="another"))
    index = json.loads(said.index or b"")
    index["tax.taxpayers"] = agreements.parse(value).grant_hash.hex()
    return {b"tax.taxpayers": value, INDEX: json.dumps(index, separators=(",", ":")).encode()}


WRONG: dict[str, Callable[[Said], dict[bytes, bytes | None]]] = {
    "agreement 'tax.taxpayers': not an agreement": garbage,
    "not those that its index names": one_without_the_index,
    "not agreed on by both parties, so nothing of this set is used: tax.taxpayers": one_that_nobody_signed,
    "'no_such_column'": a_field_that_there_is_not,
}
"""What the refusal says -> what was written."""


def test_what_is_malformed_is_refused_whole_and_what_was_in_force_stays(stage: Stage, files: Path) -> None:
    """Also for a worker that dies and starts again meanwhile. The next good set takes effect."""
    stage.apply(files)
    stage.start("engine-0")
    stage.until("lanes", lambda: owns(stage, "engine-0", 4))
    said, old = agreement_log.read(stage.config), digest_of(stage)
    until_in_force(stage, old)
    for reason, wrong in WRONG.items():
        records = {**said.values, **wrong(said)}
        if wrong is a_field_that_there_is_not:
            sign(stage, [records[b"tax.taxpayers"]])
        write(stage, records)
        stage.until(f"the refusal: {reason}", lambda reason=reason: reason in refusals(stage)[-1])  # type: ignore[misc]
        stage.feed(100)
    stage.until("the end of the inputs", stage.drained)
    before = len(refusals(stage))
    stage.kill("engine-0")
    stage.start("engine-0")
    stage.until("the refusal again", lambda: len(refusals(stage)) > before)
    stage.feed(300)
    stage.until("the end of the inputs", stage.drained)
    assert {change["after"] for change in in_force(stage).values()} == {old}
    edit(files / "tax.taxpayers.yaml", "purpose: ", "purpose: again ")
    stage.apply(files)
    assert digest_of(stage) != old
    until_in_force(stage, digest_of(stage))
    stage.check()


def refusals(stage: Stage) -> list[str]:
    return ["", *(line["reason"] for line in stage.log("engine-0") if line["event"] == "agreements_refused")]


OWNERS = """\
agency: {agency}
name: owners
purpose: Archive
legal_basis: Decree 1
valid_from: 2026-01-01T00:00:00+07:00
{past}datasets:
  - dataset: civil.birth
    verdicts: [MATCH, MISMATCH]
    share_verdict: true
    fields: [child_pin, child_name, mother_pin, register.province_code]
  - dataset: land.ownership
    verdicts: [MATCH]
    fields: [owner_pin, parcel_id, acquired_on: year, register.address]
  - dataset: insurance.member
    where: {{participation: [compulsory, household]}}
    fields: [pin, employer_code, active]
  - dataset: population.person
    fields: [pin, full_name, status]
"""


def owners(files: Path, agency: str, past: str = "") -> str:
    """Everybody's PIN is in the clear, so that all such agreements have the same ids and keys."""
    (files / f"{agency}.owners.yaml").write_text(OWNERS.format(agency=agency, past=past), encoding="utf-8")
    return f"{agency}.owners"


def given_to(stage: Stage, agreement: str) -> dict[tuple[int, str], list[tuple[Any, ...]]]:
    """(lane, dataset) -> what the agreement received, in order, without what tells it from another agreement."""
    found: dict[tuple[int, str], list[tuple[Any, ...]]] = defaultdict(list)
    for record in stage.records(topics.agency(agreement)):
        one = stage.decoder.decode(record.value())
        told = [str(one[name]) for name in ("event_id", "op", "ts_ms", "row_key", "verdict", "data")]
        found[record.partition(), stage.dataset_of(record.value())].append((record.key(), *told))
    return found


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=only_soak) for turn in range(1, 5))])
def test_what_is_revoked_under_load_gets_nothing_that_is_decided_later_and_may_not_read_any_more(
    stage: Stage, files: Path, turn: int
) -> None:
    """`check` holds every delivery to its side of the offsets at which the revocation took effect."""
    name = owners(files, f"revoked-{turn}")
    stage.apply(files)
    for index in range(2):
        stage.start(f"engine-{index}")
    with feeding(stage):
        stage.until("deliveries", lambda: len(given_records(stage, name)) > 100)
        one = agreements.load(dataclasses.replace(stage.settings, agreements=files), stage.datasets)[name]
        began_ms = time.time_ns() // 1_000_000
        agreed.act(stage.settings, one, Statement(Act.REVOKE, name, one.grant_hash, "giver", began_ms, "", "it is over"))
        assert stage.apply(files).change.off == (name,)
        told_ms = time.time_ns() // 1_000_000
        until_in_force(stage, digest_of(stage))
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    last_ms = max(record.timestamp()[1] for record in given_records(stage, name))
    print(f"\nlast delivery {last_ms - began_ms} ms after the order to revoke, which took {told_ms - began_ms} ms")
    assert last_ms - began_ms < LONGEST_SECONDS * 1000
    with cluster.admin(stage.settings) as client:
        _, others = cluster.rights_differing(client, declared.rights(stage.datasets, {}))
    assert not [acl for acl in others if acl.principal == f"User:agency-revoked-{turn}"]


def caught_up(stage: Stage, agreement: str) -> bool:
    stage.look()
    return all(record.get("past", {}).get(agreement, {"live": False})["live"] for record in stage.last_lane_records().values())


@only_soak
def test_an_agreement_switched_on_gets_what_it_would_have_got_from_the_start(stage: Stage, files: Path) -> None:
    """Beside live events, and with workers that are killed in the middle of it. `check` counts every event, once."""
    first = owners(files, "first")
    stage.apply(files)
    stage.start("engine-0")
    stage.until("lanes", lambda: owns(stage, "engine-0", 4))
    stage.feed(6_000)
    stage.until("the end of the inputs", stage.drained)
    second = owners(files, "second", "past: all\n")
    began = time.monotonic()
    stage.apply(files)
    killed_amid = 0
    with feeding(stage):
        for _ in range(2):
            seen = len(given_records(stage, second))
            stage.until("more of the past", lambda seen=seen: len(given_records(stage, second)) > seen)  # type: ignore[misc]
            stage.kill("engine-0")
            killed_amid += not caught_up(stage, second)
            stage.start("engine-0")
        stage.start("engine-1")
        stage.until("the past to be given", lambda: caught_up(stage, second))
        seconds = time.monotonic() - began
    stage.feed(500)
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    theirs, ours = given_to(stage, first), given_to(stage, second)
    assert theirs.keys() <= ours.keys()
    for place, found in theirs.items():
        assert ours[place][-len(found) :] == found, place
    past = sum(n for (agreement, *_), n in stage.past_outcomes().items() if agreement == second)
    print(f"\n{past} verified events read again in {seconds:.1f} s, with two kills, {killed_amid} of them amid it")
    assert past > 2_000
    assert stage.account() == []
    assert killed_amid


def given_records(stage: Stage, agreement: str) -> list[Any]:
    stage.look()
    return stage.records(topics.agency(agreement))


def test_an_agreement_that_ends_gets_nothing_more_and_goes_on_where_it_stopped_when_it_comes_back(
    stage: Stage, files: Path
) -> None:
    """What came while it was away is its past then; nothing is repeated, whatever part of it came live."""
    other, third = owners(files, "other"), owners(files, "third", "past: all\n")
    stage.apply(files)
    stage.start("engine-0")
    stage.until("the past to be given", lambda: caught_up(stage, third))
    stage.feed(600)
    stage.until("the end of the inputs", stage.drained)
    (files / "third.owners.yaml").unlink()
    stage.apply(files)
    until_in_force(stage, digest_of(stage))
    before = len(given_records(stage, third))
    stage.feed(600)
    stage.until("the end of the inputs", stage.drained)
    assert len(given_records(stage, third)) == before
    owners(files, "third", "past: all\n")
    stage.apply(files)
    stage.feed(600)
    stage.until("the past to be given", lambda: caught_up(stage, third))
    stage.until("the end of the inputs", stage.drained)
    stage.check()
    theirs, ours = given_to(stage, other), given_to(stage, third)
    assert all(ours[place][-len(found) :] == found for place, found in theirs.items())
    assert all(len(set(found)) == len(found) for found in ours.values())


@only_soak
def test_a_worker_that_has_not_heard_of_a_lanes_agreements_does_nothing_in_it_before_it_has(
    stage: Stage, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has worked the lane under newer ones, which may have taken away what this one would still deliver."""
    stage.start("engine-0")
    (files / "education.pupils.yaml").unlink()
    stage.apply(files)
    until_in_force(stage, digest_of(stage))
    stage.stop("engine-0")
    honest, held = Reading.newest, threading.Event()
    held.set()
    monkeypatch.setattr(Reading, "newest", lambda reading, end: next(reading.older()) if held.is_set() else honest(reading, end))
    stage.look()
    lines = len(stage.records(topics.AUDIT))
    stop = Stop()
    worker = Worker(stage.settings, 0, stop)
    thread = threading.Thread(target=worker.work)
    thread.start()
    try:
        stage.feed(300)
        stage.until("it to wait", lambda: waits_for_agreements() == 1)
        assert not stage.drained()
        stage.look()
        assert len(stage.records(topics.AUDIT)) == lines
        held.clear()
        edit(files / "tax.taxpayers.yaml", "purpose: ", "purpose: again ")
        stage.apply(files)  # the topic says something new, so it is read to its end
        stage.until("the end of the inputs", stage.drained)
    finally:
        stop.asked = True
        thread.join(60)
        worker.close()
    assert waits_for_agreements() == 0
    stage.check()


def waits_for_agreements() -> float:
    found = telemetry._registry.get_sample_value("bus_engine_waiting", {"cause": "agreements"})
    return -1 if found is None else found
