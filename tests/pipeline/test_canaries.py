"""Canary people are in no key, header, log, metric or error, and in agency topics only where an agreement opens the field."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import psycopg
import pytest
from confluent_kafka import Producer

from bus import access
from bus.core import topics
from tests.oracle import check
from tests.oracle.agreements import read_all
from tests.oracle.collect import all_topics, read, records
from tests.oracle.history import Raw
from tests.oracle.leaks import Scanner, opened
from tests.oracle.report import Report
from tests.pipeline.bus import Bus
from tests.pipeline.canaries import AVIARY, plant

REGISTER = "population.person"
INNER = ("change.", "verified.", "dead.", REGISTER)
"""Topics of the bus itself, whose values hold whole rows."""


@pytest.fixture
def sung(running_bus: Bus) -> Scanner:
    """Canaries planted before the snapshot, while streaming, refused by constraints, updated, deleted, and one corrupted."""
    plant(running_bus)
    with running_bus.owner("civil") as connection:
        connection.execute(
            "UPDATE birth SET birth_place = birth_place || '!', province_code = '01' WHERE register_number LIKE 'can-%'"
        )
        connection.execute("UPDATE birth SET province_code = '79' WHERE register_number LIKE 'can-%'")
        with pytest.raises(psycopg.IntegrityError):
            connection.execute("INSERT INTO birth SELECT * FROM birth WHERE register_number LIKE 'can-%'")
        with pytest.raises(psycopg.DataError):
            connection.execute("UPDATE birth SET mother_birth_year = child_pin::bigint WHERE register_number LIKE 'can-%'")
    running_bus.rest()
    corrupt(running_bus)
    running_bus.rest()
    return Scanner(AVIARY.canaries())


def corrupt(bus: Bus) -> None:
    """Broken copies of a canary's event, as a faulty producer with an administrator's rights would send them."""
    original = next(raw for raw in canary_records(bus, "change.civil.birth"))
    value = original.value or b""
    writer = Producer(access.confluent(bus.settings, "admin") | {"acks": "all"})
    for broken in (value[:-9], value + b"\0", b"\x01" + value[1:], b"\0\0\0\xff\xff" + value[5:], value[:90], b"", value[5:]):
        writer.produce("change.civil.birth", broken, original.key, original.lane)
    writer.produce("change.civil.birth", None, original.key, original.lane)
    assert writer.flush(20) == 0


def canary_records(bus: Bus, topic: str) -> Iterator[Raw]:
    scanner = Scanner(AVIARY.canaries())
    return (raw for raw in records(bus.settings, topic) if any(scanner.find(raw.value)))


@pytest.mark.timeout(240)
def test_canaries_are_nowhere_they_must_not_be(running_bus: Bus, sung: Scanner) -> None:
    report = Report()
    everything = frozenset(name for canary in sung.owners.values() for name in canary.fields)
    rights = {topics.agency(a.id): opened(a, REGISTER) for a in read_all(running_bus.settings.agreements)}
    inner = 0
    names = [name for name in all_topics(running_bus.settings) if not name.startswith("__")]
    for topic, found in read(running_bus.settings, names, committed_only=False).items():
        allowed = everything if topic.startswith(INNER) else rights.get(topic, frozenset())
        for raw in found:
            sung.record(topic, raw, report, allowed)
            inner += topic.startswith("change.") and any(sung.find(raw.value))
    assert inner, "no canary went through the bus: nothing was tested"
    texts = scan_texts(running_bus, sung, report)
    print(f"{report.facts['records scanned']} records, {texts} logs and metrics pages, {len(AVIARY.fields)} canary values")
    assert not report.anomalies, str(report)


def scan_texts(bus: Bus, scanner: Scanner, report: Report) -> int:
    """Log files, run/ and every process's /metrics; how many."""
    home, ports = bus.settings.home, bus.metrics_ports()
    files = [p for folder in ("log", "run") for p in (home / folder).rglob("*") if p.is_file()]
    for path in files:
        scanner.text(str(path.relative_to(home)), path.read_bytes(), report)
    assert set(ports) >= set(bus.workers())
    for name, port in ports.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            scanner.text(f"/metrics of {name}", page.read(), report)
    return len(files) + len(ports)


@pytest.mark.timeout(240)
def test_corrupted_records_become_dead_letters_with_their_own_bytes(running_bus: Bus, sung: Scanner) -> None:
    """And nothing else happens: the lane goes on, no count is off, nothing is delivered of them."""
    letters = list(records(running_bus.settings, "dead.civil.birth"))
    assert len(letters) >= 8
    assert {letter.headers["x-dead-code"] for letter in letters} >= {b"BAD_FRAME", b"UNKNOWN_SCHEMA", b"MALFORMED"}
    assert {letter.value for letter in letters} >= {b"", None}
    report = check(running_bus.settings)
    assert report.facts["dead letters"] >= 8
    assert not report.anomalies, str(report)
