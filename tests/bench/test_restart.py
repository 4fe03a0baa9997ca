"""The restart measurement's backlog and table. The rest of it needs a broker."""

from __future__ import annotations

import pytest

from bus.bench import restart
from bus.bench.restart import Backlog
from bus.bench.workload import Workload


def test_a_backlog_about_millions_has_the_usual_verdicts() -> None:
    workload = Workload(10_000_000, 5)
    backlog = Backlog(workload, workload.domains[0], 2_000)
    assert len(backlog.events) == sum(backlog.statuses.values()) == 2_000
    assert backlog.statuses["MATCH"] == pytest.approx(1_900, abs=60)
    assert backlog.statuses["MISMATCH"]
    assert backlog.statuses["NOT_FOUND"]


@pytest.mark.parametrize(("people", "size"), [(10, 10), (1_000, 300), (7, 100), (600, 300)])
def test_the_slices_hold_everybody_once(people: int, size: int) -> None:
    numbers = [number for first, last in restart._slices(people, size) for number in range(first, last)]
    assert numbers == list(range(people))


def test_the_table_has_a_line_for_each_way() -> None:
    way = {"engine": "ours", "way": "worker", "first_output_seconds": 1.5, "longest_seconds": 1.75, "peak_rss_mb": 90}
    assert restart.table([way | {"restore_seconds": None}]).endswith("| ours: worker | 1.5 | 1.75 | - | 90 |")
