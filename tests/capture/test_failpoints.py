"""kill -9 at every step of capture, in the snapshot and in the stream: each row's history in the topic is whole.

`make failpoints` tries every point for its 1st, 2nd and 3rd time.
"""

from __future__ import annotations

from typing import Any

import pytest

from bus.core import failpoint
from bus.core.failpoint import Point
from tests.capture.conftest import MakeLab
from tests.capture.test_handover import PARCEL, PERSON, SQL, Writer, comes_to_rest_whole, fill, snapshot_done
from tests.slower import SEVERAL

pytestmark = pytest.mark.timeout(400)
PAUSE_MS = 50
"""Longer than the producer lingers: what was produced reaches the broker before the process dies."""
ONCE_EVER = {Point.AFTER_SLOT, Point.SNAPSHOT_DONE}
ONCE_A_LIFE = {Point.SINK_OPENED, Point.BEFORE_SLOT, Point.SNAPSHOT_EXPORTED, Point.SNAPSHOT_TABLE, Point.STREAM_STARTED}
PRODUCING = [Point.TRANSACTION_BEGUN, Point.BEFORE_POSITION, Point.AFTER_POSITION, Point.CAPTURE_COMMITTED]
IN_SNAPSHOT = [
    *(Point.SINK_OPENED, Point.BEFORE_SLOT, Point.AFTER_SLOT, Point.SNAPSHOT_EXPORTED, *PRODUCING, Point.SNAPSHOT_BATCH),
    *(Point.SNAPSHOT_TABLE, Point.SNAPSHOT_DONE),
]
IN_STREAM = [Point.STREAM_STARTED, *PRODUCING, Point.BEFORE_CONFIRM, Point.AFTER_CONFIRM]


@SEVERAL
@pytest.mark.parametrize("count", range(1, 4))
def test_a_capture_that_dies_at_every_point_in_turn_loses_and_repeats_nothing(make_lab: MakeLab, count: int) -> None:
    assert {*IN_SNAPSHOT, *IN_STREAM} == set(failpoint.CAPTURE)
    lab = make_lab(SQL, PARCEL, PERSON)
    fill(lab, 4_000)
    batch: dict[str, Any] = {"batch_events": 100, "heartbeat_seconds": 0.5}
    writers = [Writer(lab, count * 10 + n) for n in range(2)]
    for writer in writers:
        writer.start()
    for point in (*IN_SNAPSHOT, *IN_STREAM):
        lives = 1 if point in ONCE_EVER else count if point in ONCE_A_LIFE else 1
        times = 1 if point in {*ONCE_EVER, *ONCE_A_LIFE} else count
        for life in range(lives):
            assert point not in IN_SNAPSHOT or point in PRODUCING or not snapshot_done(lab) or point is Point.SINK_OPENED
            with lab.capture(dies_at=f"{point.value}:{times}:{PAUSE_MS * (life % 2)}", **batch) as capture:
                capture.dead()
    comes_to_rest_whole(lab, writers, **batch)
