"""The capture comparison: the events of a table give the table again and no wrong one passes; and how the records are read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus.avro import dataset
from bus.bench import capture_shown, debezium, ours, wide
from bus.bench.capture import INSERTS, LATENCY, SNAPSHOT, UPDATES, Look, Order, span
from bus.bench.wide import Change, Image, Replay
from bus.bench.workload import Workload
from bus.platform import jars


def _image(number: int, ward: str = "00001") -> Image:
    return (number, "079012345678", "Nguyễn Thị Lan", 20_000, *[None] * 5, ward, *[None] * 5, 1_780_000_000_000_000)


ROWS = [_image(number) for number in range(1, 6)]
TRUE = [
    *(Change("r", None, row) for row in ROWS[:3]),
    *(Change("c", None, row) for row in ROWS[3:]),
    Change("u", ROWS[1], _image(2, "00002")),
    Change("u", _image(2, "00002"), _image(2, "00003")),
    Change("d", ROWS[2], None),
]
OPS = {"r": 3, "c": 2, "u": 2, "d": 1}
TABLE = {row[0]: wide.digest(row) for row in (ROWS[0], _image(2, "00003"), ROWS[3], ROWS[4])}


def _problems(changes: list[Change]) -> list[str]:
    replay = Replay()
    for change in changes:
        replay.add(change)
    return replay.problems(OPS, TABLE)


def test_true_events_give_the_table() -> None:
    assert _problems(TRUE) == []


def _other_ward(change: Change) -> Change:
    assert change.after is not None
    return dataclasses.replace(change, after=_image(change.after[0], "99999"))


WRONG: dict[str, Callable[[list[Change]], list[Change]]] = {
    "an insert is lost": lambda found: found[:3] + found[4:],
    "a snapshot row is lost": lambda found: found[1:],
    "an update is lost": lambda found: found[:5] + found[6:],
    "an update is repeated": lambda found: [*found[:7], found[6], *found[7:]],
    "an insert is repeated": lambda found: [*found, found[4]],
    "two updates change places": lambda found: [*found[:5], found[6], found[5], *found[7:]],
    "a value is changed": lambda found: [*found[:4], _other_ward(found[4]), *found[5:]],
    "an update has no image before": lambda found: [*found[:5], dataclasses.replace(found[5], before=None), *found[6:]],
    "an image before is of another row": lambda found: [*found[:5], dataclasses.replace(found[5], before=ROWS[3]), *found[6:]],
    "a delete is lost": lambda found: found[:-1],
    "an insert is told as a snapshot row": lambda found: [*found[:3], dataclasses.replace(found[3], op="r"), *found[4:]],
}


@pytest.mark.parametrize("how", WRONG)
def test_no_wrong_event_passes(how: str) -> None:
    assert _problems(WRONG[how](TRUE))


def test_debezium_s_json_is_read_as_the_table_is() -> None:
    row = dict.fromkeys((column for column, _ in wide.COLUMNS), None) | {
        "id": 7, "full_name": "Lê Văn Đạt", "birth_date": 20_000, "registered_at": "2026-05-28T20:26:40.00012Z",
    }  # fmt: skip
    found = debezium.decode(json.dumps({"op": "u", "before": row | {"registered_at": None}, "after": row}).encode())
    assert found.op == "u"
    assert found.after is not None
    assert found.before is not None
    assert found.after[:4] == (7, None, "Lê Văn Đạt", 20_000)
    assert (found.after[-1], found.before[-1]) == (1_780_000_000_000_120, None)


@pytest.mark.parametrize(
    ("text", "micros"),
    [("1969-12-31T23:59:59.999999Z", -1), ("1970-01-01T00:00:00Z", 0), ("2026-05-28T20:26:40.5Z", 1_780_000_000_500_000)],
)
def test_times_are_exact_to_the_microsecond(text: str, micros: int) -> None:
    assert debezium._micros(text) == micros


def test_rows_are_seeded_and_have_a_value_for_each_loaded_column() -> None:
    assert list(wide.rows(3, 50)) == list(wide.rows(3, 50)) != list(wide.rows(4, 50))
    assert {len(row) for row in wide.rows(3, 50)} == {len(wide.COLUMNS) - 2}
    assert all(len(row[0]) == 12 for row in wide.rows(3, 50))


def test_the_table_is_a_dataset_whose_subject_has_a_pin(tmp_path: Path) -> None:
    wide.write_schema(tmp_path, "wide0")
    ours.write_register(Workload(1, 1), tmp_path)
    one = dataset.load(tmp_path)["wide0.birth"]
    assert list(one.fields) == [column for column, _ in wide.COLUMNS]
    assert one.people[0].pin == "personal_id"


def test_the_warm_up_is_smaller_and_every_round_has_a_database_of_its_own() -> None:
    order = Order(rows=1_000, inserts=500, updates=100, rounds=2)
    assert order.domains == ["wide0", "wide1", "wide2"]
    assert (order.warm_up().rows, order.warm_up().inserts, order.warm_up().updates, order.warm_up().seconds) == (200, 100, 20, 0)


def _looks(*ends: int) -> list[Look]:
    return [Look(float(at), at * 1.0, 0, 0, end) for at, end in enumerate(ends)]


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [((5, 5, 7, 9, 9, 12, 12, 12), (2, 2, 5)), ((5, 5, 9, 9, 9), (2, 1, 2)), ((0, 4), (1, 0, 1)), ((0, 4, 8), (1, 1, 2))],
)
def test_the_clock_runs_from_the_first_news_to_the_last(ends: tuple[int, ...], wanted: tuple[int, int, int]) -> None:
    assert tuple(look.at for look in span(_looks(*ends))) == wanted


def _row(engine: str, mode: str, **figures: Any) -> dict[str, Any]:
    return {"engine": engine, "mode": mode, "check": "ok", **figures}


def test_the_table_has_medians_and_ratios_and_each_linger_that_was_tried() -> None:
    rows = [_row(engine, mode, changes_per_second=rate, peak_rss_mb=100) for mode in (SNAPSHOT, INSERTS, UPDATES)
            for engine, rates in (("debezium", (100, 200, 300)), ("ours", (300, 400, 500))) for rate in rates]  # fmt: skip
    rows.append(_row("debezium", LATENCY, p50_ms=10, p99_ms=30))
    rows += [_row("ours", LATENCY, linger_ms=linger, p50_ms=linger, p99_ms=linger + 5) for linger in (50, 10)]
    shown = capture_shown.table(rows)
    assert f"| {INSERTS}: changes/s | 200 (100–300) | 400 (300–500) | 2.00 |" in shown
    assert "| latency, capture.linger_ms 50: p99, ms | 30 | 55 | 1.83 |" in shown
    assert "| latency, capture.linger_ms 10: p99, ms | 30 | 15 | 0.50 |" in shown
    assert "| check, ours | ok | | |" in shown


def test_a_round_that_failed_its_check_is_told() -> None:
    rows = [_row("ours", SNAPSHOT, changes_per_second=1), _row("ours", INSERTS) | {"check": "FAILED: 2 rows"}]
    assert "| check, ours | FAILED | | |" in capture_shown.table(rows)


def test_debezium_s_jars_are_locked_with_their_hashes_and_one_version_of_kafka() -> None:
    found = jars.locked(debezium.LOCK)
    assert {f"{one.group}:{one.artifact}:{one.version}" for one in found} >= {name for name, _ in debezium.WANTED}
    assert all(len(one.sha256) == 64 for one in found)
    assert {one.version for one in found if one.group == "org.apache.kafka"} == {"4.3.1"}
    assert len({(one.group, one.artifact) for one in found}) == len(found)
