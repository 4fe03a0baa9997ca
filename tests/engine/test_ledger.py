"""The conservation ledger over what an engine really did: clean as it is, and whatever is broken in a copy is named."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its own documented name

from bus.core import topics
from bus.ledger import conserve
from bus.ledger.conservation import LaneWalk, Scope
from bus.ledger.conserve import Asked, _Secrets
from bus.ledger.entries import Distillery, Letter, Line
from bus.ledger.sums import Books
from bus.ledger.watch import Watch
from tests.engine.stage import Stage
from tests.engine.test_changes import NEW, caught_up
from tests.engine.test_worker import run_here, working
from tests.ledger.memory import Memory
from tests.slower import SEVERAL

pytestmark = pytest.mark.timeout(400)
Copy = dict[int, dict[str, list[Any]]]
"""Lane -> topic -> entries."""


def scope(stage: Stage) -> Scope:
    inputs = {d.topic: d.name for d in stage.datasets.values()}
    return Scope(inputs, frozenset(stage.agreements), _Secrets(stage.settings).other_id, stage.register.name)


def copied(stage: Stage) -> Copy:
    stage.look()
    asked = scope(stage)
    made = Distillery(stage._catalogue, {f"{d.domain}_{d.table}": d.name for d in stage.datasets.values()})
    names = [topics.AUDIT, *asked.inputs, *map(topics.agency, stage.agreements)]
    names += [f(d) for d in asked.inputs.values() for f in (topics.verified, topics.dead)]
    return {
        lane: {t: [made.of(t, asked.inputs)(record) for record in stage.lanes(t).get(lane, [])] for t in names}
        for lane in range(4)
    }


def ledger(stage: Stage, copy: Copy) -> Books:
    books = Books()
    for lane, found in copy.items():
        walk = LaneWalk(Memory(lane, found), books, scope(stage))
        for line in list(found[topics.AUDIT]):
            walk.take(line)
        walk.close(dict.fromkeys(found, 1 << 62))
    return books


@pytest.fixture(scope="module")
def original(stage: Stage) -> Copy:
    """What an engine did with a thousand events and two dead letters, and what waits for it still."""
    stage.feed(900)
    stage.poison()
    run_here(stage, 100)
    stage.feed(60)
    return copied(stage)


def cut(copy: Copy, pick: Callable[[Any], bool], prefix: str) -> tuple[int, str, int]:
    """(lane, topic, index) in the middle of the longest list of such entries."""
    places = [
        (len(entries), lane, topic)
        for lane, found in copy.items()
        for topic, entries in found.items()
        if topic.startswith(prefix) and any(map(pick, entries))
    ]
    _, lane, topic = max(places)
    entries = copy[lane][topic]
    middle = [at for at, entry in enumerate(entries) if pick(entry)]
    return lane, topic, middle[len(middle) // 2]


def anything(_: Any) -> bool:
    return True


def test_what_an_engine_did_comes_out_and_what_waits_is_counted(stage: Stage, original: Copy) -> None:
    books = ledger(stage, original)
    assert books.clean, books.told()["differences"][:3]
    told = books.told()
    assert sum(d["waiting"] for d in told["datasets"].values()) >= 60
    for dataset, sums in told["datasets"].items():
        assert sums["captured"] == len([r for found in original.values() for r in found[stage.datasets[dataset].topic]])
    decided = sum(len(found[topics.verified(d)]) for found in original.values() for d in stage.datasets)
    assert sum(d["decided"] for d in told["datasets"].values()) == decided
    in_topics = {a: sum(len(found[topics.agency(a)]) for found in original.values()) for a in stage.agreements}
    for agreement, count in in_topics.items():
        found = told["agreements"].get(agreement, {}).values()
        assert sum(s["delivered"] + s["past"].get("DELIVERED", 0) for s in found) == count, agreement


def accounts(entry: Any) -> bool:
    """An audit line that tells of a change of agreements alone counts nothing, and no count misses it."""
    return not isinstance(entry, Line) or bool(entry.content["inputs"])


def removed(copy: Copy, prefix: str) -> tuple[str, int, Any]:
    lane, topic, at = cut(copy, accounts, prefix)
    return topic, lane, copy[lane][topic].pop(at)


def test_a_delivery_that_is_taken_away_is_named_with_its_seq_and_event(stage: Stage, original: Copy) -> None:
    copy = {lane: {t: list(e) for t, e in found.items()} for lane, found in original.items()}
    topic, lane, gone = removed(copy, "agency.")
    (finding,) = ledger(stage, copy).findings
    assert (finding.kind, finding.topic, finding.lane, finding.detail["seq"]) == ("missing", topic, lane, gone.seq)
    assert finding.dataset == gone.dataset


def again(entry: Any, offset: int) -> Any:
    return entry._replace(offset=offset)


@pytest.mark.parametrize("where", ["behind itself", "at the end"])
def test_a_delivery_that_stands_there_twice_is_named(stage: Stage, original: Copy, where: str) -> None:
    copy = {lane: {t: list(e) for t, e in found.items()} for lane, found in original.items()}
    lane, topic, at = cut(copy, anything, "agency.")
    entries = copy[lane][topic]
    entries.insert(at + 1 if where == "behind itself" else len(entries), again(entries[at], entries[-1].offset + 10))
    books = ledger(stage, copy)
    (finding,) = books.findings
    assert (finding.topic, finding.lane) == (topic, lane)
    assert finding.kind in ("repeated", "unexplained")
    assert finding.detail["seq"] == entries[at].seq
    assert books.agreements[finding.dataset, finding.agreement].difference == -1


def test_a_delivery_that_says_another_event_is_named_and_so_is_the_one_that_lacks(stage: Stage, original: Copy) -> None:
    copy = {lane: {t: list(e) for t, e in found.items()} for lane, found in original.items()}
    lane, topic, at = cut(copy, anything, "agency.")
    copy[lane][topic][at] = copy[lane][topic][at]._replace(event_id=bytes(16))
    findings = ledger(stage, copy).findings
    assert {f.kind for f in findings} == {"other_event", "not_delivered"}
    assert {(f.topic, f.lane) for f in findings} == {(topic, lane)}


def test_a_delivery_under_another_agreement_text_is_named(stage: Stage, original: Copy) -> None:
    copy = {lane: {t: list(e) for t, e in found.items()} for lane, found in original.items()}
    lane, topic, at = cut(copy, anything, "agency.")
    copy[lane][topic][at] = copy[lane][topic][at]._replace(grant_hash=bytes(32))
    (finding,) = ledger(stage, copy).findings
    assert (finding.kind, finding.topic, finding.lane, finding.offset) == (
        "grant_hash",
        topic,
        lane,
        copy[lane][topic][at].offset,
    )


BROKEN: dict[str, tuple[str, str]] = {
    "a verified event is missing": ("verified.", "not_verified"),
    "a change event is missing": ("change.", "audit"),
    "an audit line is missing": (topics.AUDIT, "unexplained"),
}


@pytest.mark.parametrize(("prefix", "kind"), BROKEN.values(), ids=list(BROKEN))
def test_any_record_that_is_taken_away_is_noticed(stage: Stage, original: Copy, prefix: str, kind: str) -> None:
    copy = {lane: {t: list(e) for t, e in found.items()} for lane, found in original.items()}
    removed(copy, prefix)
    books = ledger(stage, copy)
    assert not books.clean
    assert kind in {f.kind for f in books.findings}


def test_a_dead_letter_that_is_taken_away_leaves_its_event_unaccounted(stage: Stage, original: Copy) -> None:
    copy = {lane: {t: list(e) for t, e in found.items()} for lane, found in original.items()}
    lane, topic = next((n, t) for n, found in copy.items() for t, e in found.items() if t.startswith("dead.") and e)
    gone: Letter = copy[lane][topic].pop()
    books = ledger(stage, copy)
    assert {f.kind for f in books.findings} == {"audit", "not_verified"}
    assert any(f.detail.get("input_offset") == gone.origin for f in books.findings)


def test_an_audit_line_that_says_another_number_is_named(stage: Stage, original: Copy) -> None:
    copy = {lane: {t: list(e) for t, e in found.items()} for lane, found in original.items()}
    lane, topic, at = cut(copy, lambda line: bool(line.content["outcomes"]), topics.AUDIT)
    line: Line = copy[lane][topic][at]
    told = [dict(o) for o in line.content["outcomes"]]
    told[0]["count"] += 1
    copy[lane][topic][at] = Line(line.offset, line.content | {"outcomes": told})
    (finding,) = ledger(stage, copy).findings
    assert (finding.kind, finding.offset) == ("audit", line.offset)
    assert finding.detail["audited"] == finding.detail["decided"] + 1


@SEVERAL
def test_on_the_broker_it_comes_out_too(stage: Stage, original: Copy) -> None:
    """With an operator's user; and taken again from where it was left, in two parts, it is the same."""
    report = conserve.take(stage.settings, Asked())
    assert report["ok"], report["differences"][:5]
    watch = Watch(stage.settings, structlog.get_logger())
    watch.round()
    first = dict(watch._resume)
    watch.round()
    assert watch.differences.total() == 0
    assert {lane: left.starts for lane, left in watch._resume.items()} == {lane: left.starts for lane, left in first.items()}


@SEVERAL
def test_on_the_broker_it_comes_out_though_an_agreement_is_given_its_past_and_from_any_time_on(
    stage: Stage, original: Copy, tmp_path: Path
) -> None:
    """The whole way, as an operator; then an administrator slips a record into a topic that nobody's agreement explains."""
    files = shutil.copytree(stage.settings.agreements, tmp_path / "agreements")
    (files / "archive.land.yaml").write_text(NEW.replace("datasets:", "past: all\ndatasets:"), encoding="utf-8")
    stage.apply(files)
    try:
        stage.feed(300)
        with working(stage):
            stage.until("the past to be given", lambda: caught_up(stage, "archive.land"))
            stage.until("the end of the inputs", stage.drained)
        watch = Watch(stage.settings, structlog.get_logger())
        watch.round()
        began = time.time()
        run_here(stage, 100)
        watch.round()
        assert watch.differences.total() == 0
        stage.feed(20)
        report = conserve.take(stage.settings, Asked())
        assert report["ok"], report["differences"][:5]
        assert report["agreements"]["archive.land"]["land.ownership"]["past"]["DELIVERED"]
        since = conserve.take(stage.settings, Asked(since=f"{time.time() - began + 0.5:.0f}s"))
        assert since["ok"], since["differences"][:5]
        assert 0 < sum(d["decided"] for d in since["datasets"].values()) < sum(d["decided"] for d in report["datasets"].values())
        told = forged(stage)
        assert conserve.take(stage.settings, Asked(agency="nobody"))["differences"] == told
        watch.round()
        assert watch.differences[told[0]["dataset"], "nobody.ghost"] == 1
        watch.round()
        assert watch.differences[told[0]["dataset"], "nobody.ghost"] == 1
    finally:
        admin = AdminClient(stage.config)
        admin.delete_topics(["agency.nobody.ghost"])["agency.nobody.ghost"].exception(20)
        stage.apply()


def forged(stage: Stage) -> list[dict[str, Any]]:
    """What the ledger is to say of a record that stands in an agency's topic as a real delivery would."""
    topic = "agency.nobody.ghost"
    admin = AdminClient(stage.config)
    admin.create_topics([NewTopic(topic, 4)])[topic].result(20)
    value = stage.records(topics.agency("tax.taxpayers"))[0].value()
    name, other = b"\x1atax.taxpayers", b"\x18nobody.ghost"
    assert value.count(name[1:]) == 1
    at = value.index(name[1:])
    producer = Producer(stage.config)
    producer.produce(topic, value[: at - 1] + other + value[at - 1 + len(name) :], b"k", 2)
    assert producer.flush(20) == 0
    return [
        {
            "kind": "unexplained",
            "dataset": stage.dataset_of(value),
            "agreement": "nobody.ghost",
            "topic": topic,
            "lane": 2,
            "offset": 0,
            "event_id": value[5:21].hex(),
            "seq": 1,
        }
    ]
