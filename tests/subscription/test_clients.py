"""The bundles against the running bus: with an agency's credentials alone, exactly the records of the agency's topics.

LT_INTEROP=1 (make contracts-interop) runs the clients too that have to be fetched or installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient

from bus import access, config
from bus.ledger import reading
from bus.ledger.decoding import Decoder
from bus.registry import log
from bus.subscription import files, freshness
from tests.oracle import collect
from tests.pipeline.bus import Bus

INTEROP = os.environ.get("LT_INTEROP") == "1"
interop = pytest.mark.skipif(not INTEROP, reason="make contracts-interop")
AGENCIES = files.read(config.load(Path("/nonexistent"), env={})).agencies()
SECONDS = 60.0
FETCH_SECONDS = 500.0

Place = tuple[str, int, int]


def made(bus: Bus, agency: str, language: str, out: Path) -> Path:
    """A bundle as the command writes it."""
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(bus.settings.home), "subscriber", "bundle", agency]
    done = subprocess.run(
        [*command, "--lang", language, "--out", str(out)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


def run(command: list[str], place: Path, seconds: float = SECONDS, **env: str) -> str:
    """What a client prints; nothing of the bus's own is in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BUS_")} | env
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-2_000:])
    return done.stdout


def spelled(value: Any) -> Any:
    """As the clients' JSON spells it."""
    return json.loads(json.dumps(value, default=lambda v: v.hex() if isinstance(v, bytes) else str(v)))


def there(bus: Bus, agency: str) -> dict[Place, dict[str, Any]]:
    """Every committed record of the agency's topics, decoded by the bus's own decoder."""
    settings = bus.settings
    decoder = Decoder(log.read(access.confluent(settings, "admin")))
    found: dict[Place, dict[str, Any]] = {}
    for name in (t for t in collect.all_topics(settings) if t.startswith(f"agency.{agency}.")):
        for message in reading.read(access.confluent(settings, "admin"), name):
            value = decoder.decode(message.value() or b"")
            found[name, message.partition() or 0, message.offset() or 0] = spelled({"key": message.key(), "delivery": value})
    assert found
    return found


def told(printed: str) -> dict[Place, dict[str, Any]]:
    lines = [json.loads(line) for line in printed.splitlines()]
    found = {(r["topic"], r["lane"], r["offset"]): {"key": r["key"], "delivery": r["delivery"]} for r in lines}
    assert len(found) == len(lines), "a record was handled twice"
    return found


@pytest.mark.parametrize("agency", AGENCIES if INTEROP else AGENCIES[-1:])
def test_the_python_client_gets_exactly_the_agencys_records_and_once(running_bus: Bus, tmp_path: Path, agency: str) -> None:
    """All of it at first; nothing again afterwards, nor when the bus has forgotten the group's place."""
    place = made(running_bus, agency, "python", tmp_path / "ứng dụng")
    group = f"agency-{agency}.python"
    command = [sys.executable, "consume.py", "--until-end", "--group", "python"]
    running_bus.rest()
    assert told(run(command, place)) == there(running_bus, agency)
    assert told(run(command, place)) == {}
    admin = AdminClient(access.confluent(running_bus.settings, "admin"))
    (deleted,) = admin.delete_consumer_groups([group]).values()
    deleted.result(SECONDS)
    assert told(run(command, place)) == {}


def test_a_wrong_password_is_told_and_not_tried_for_ever(running_bus: Bus, tmp_path: Path) -> None:
    place = made(running_bus, AGENCIES[0], "python", tmp_path / "b")
    client = json.loads((place / "client.json").read_text(encoding="utf-8"))
    (place / "client.json").write_text(json.dumps(client | {"password": "wrong"}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "consume.py", "--until-end"], cwd=place, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1
    assert "the bus refuses this user" in done.stderr


def test_newest_events_are_as_old_as_their_records(running_bus: Bus) -> None:
    """Not older than the newest committed record, and no more than the end of its transaction younger."""
    running_bus.rest()
    told_ms = freshness.newest_ms(running_bus.settings, running_bus.datasets)
    assert told_ms is not None
    there_are = collect.read(running_bus.settings, [one.topic for one in running_bus.datasets.values()])
    for name, one in running_bus.datasets.items():
        times = [raw.timestamp_ms for raw in there_are[one.topic]]
        at = told_ms[name]
        assert (at is None) == (not times)
        assert at is None or 0 <= at - max(times) < 5_000


def newer_librdkafka(place: Path) -> dict[str, str]:
    """An environment in which kcat finds the librdkafka of the confluent-kafka wheel: the system's may be too old for Kafka 4."""
    library = next((Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs").glob("librdkafka*"))
    place.mkdir()
    (place / "librdkafka.so.1").symlink_to(library)
    return {"LD_LIBRARY_PATH": f"{place}:{library.parent}"}


@interop
@pytest.mark.parametrize("agency", AGENCIES)
def test_kcat_gets_exactly_the_agencys_records(running_bus: Bus, tmp_path: Path, agency: str) -> None:
    assert shutil.which("kcat"), "apt-get install kcat"
    place = made(running_bus, agency, "kcat", tmp_path / "b")
    running_bus.rest()
    lines = [line.split() for line in run(["sh", "read.sh"], place, SECONDS, **newer_librdkafka(tmp_path / "lib")).splitlines()]
    assert sorted((t, int(lane), int(offset)) for t, lane, offset, *_ in lines) == sorted(there(running_bus, agency))


def alike(printed: str, expected: dict[Place, dict[str, Any]]) -> None:
    """What every language spells alike: places, texts, numbers that are whole, and which fields are null."""
    lines = [json.loads(line) for line in printed.splitlines()]
    found = {(r["topic"], r["lane"], r["offset"]): r["delivery"] for r in lines}
    assert len(found) == len(lines), "a record was handled twice"
    assert found.keys() == expected.keys()
    for place, delivery in found.items():
        wanted = expected[place]["delivery"]
        assert [delivery[k] for k in ("seq", "op", "ts_ms", "agreement")] == [
            wanted[k] for k in ("seq", "op", "ts_ms", "agreement")
        ]
        assert (delivery["data"] is None) == (wanted["data"] is None)
        for name, value in (wanted["data"] or {}).items():
            assert name in delivery["data"]
            assert not isinstance(value, int) or delivery["data"][name] == value
            assert (delivery["data"][name] is None) == (value is None)


@interop
def test_the_node_client_gets_exactly_the_agencys_records_and_once(running_bus: Bus, tmp_path: Path) -> None:
    agency = AGENCIES[-1]
    place = made(running_bus, agency, "node", tmp_path / "ứng dụng")
    run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], place, FETCH_SECONDS)
    running_bus.rest()
    command = ["node", "consume.js", "--group", "node", "--until-idle", "10"]
    printed = run(command, place)
    expected = there(running_bus, agency)
    alike(printed, expected)
    for record in map(json.loads, printed.splitlines()):
        wanted = expected[record["topic"], record["lane"], record["offset"]]
        assert record["key"] == wanted["key"]
        assert record["delivery"]["event_id"] == wanted["delivery"]["event_id"]
    assert run(command, place) == ""


@interop
def test_the_java_client_gets_exactly_the_agencys_records_and_once(running_bus: Bus, tmp_path: Path) -> None:
    agency = AGENCIES[-1]
    place = made(running_bus, agency, "java", tmp_path / "java")
    run(["mvn", "-q", "-B", "compile", "dependency:copy-dependencies"], place, FETCH_SECONDS)
    running_bus.rest()
    command = ["java", "-cp", "target/classes:target/dependency/*", "Consume", "--until-end", "--group", "java"]
    alike(run(command, place), there(running_bus, agency))
    assert run(command, place) == ""
