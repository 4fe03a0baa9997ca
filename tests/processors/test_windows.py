"""Laws of the windows: every event counted once, whatever is repeated, reassigned or restarted."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bus.processors.windows import TumblingWindows, Window

WIDTH, GRACE = 60.0, 5.0
LOG = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 299), st.sampled_from("ab")), max_size=60)


def _log(events: list[tuple[int, float, str]]) -> list[tuple[tuple[str, int], int, float, str]]:
    """(lane, offset, timestamp, what), time-ordered as lanes are."""
    offsets: Counter[int] = Counter()
    made = []
    for lane, at, what in sorted(events, key=lambda e: e[1]):
        made.append((("t", lane), offsets[lane], at, what))
        offsets[lane] += 1 + (at > 150)  # transaction markers leave gaps
    return made


def _expected(log: list[tuple[tuple[str, int], int, float, str]], begin: float) -> Counter[str]:
    return Counter(what for _, _, at, what in log if begin <= at < begin + WIDTH)


def _closed(windows: TumblingWindows, now: float) -> Window:
    found = windows.closed(now)
    assert found is not None
    return found


@given(LOG, st.data())
def test_repeated_records_are_counted_once(events: list[tuple[int, float, str]], data: st.DataObject) -> None:
    """Within a generation any suffix of the lane may come again."""
    windows, log = TumblingWindows(WIDTH, GRACE), _log(events)
    windows.observe(1, 0.0)
    for place, (lane, offset, at, what) in enumerate(log):
        windows.add(1, lane, offset, at, at, [what])
        for again in log[data.draw(st.integers(0, place)) : place]:
            assert not windows.add(1, again[0], again[1], again[2], at, [again[3]])
        if not place % 7:
            windows.closed(at)
    assert _closed(windows, 307.0).counts == _expected(log, 240.0)


@given(LOG, st.floats(100, 299))
def test_a_restart_at_any_moment_counts_the_last_closed_window_whole(events: list[tuple[int, float, str]], crash: float) -> None:
    log = _log(events)
    fresh = TumblingWindows(WIDTH, GRACE)
    begin = fresh.start_at(crash)
    fresh.observe(1, crash)
    for lane, offset, at, what in log:
        if begin <= at <= crash:
            fresh.add(1, lane, offset, at, crash, [what])
    now = crash + 2 * GRACE
    for lane, offset, at, what in log:
        if crash < at <= now:
            fresh.add(1, lane, offset, at, now, [what])
    window = _closed(fresh, now)
    assert window.counts == _expected(log, window.begin)


@given(LOG)
def test_an_older_generation_adds_nothing_and_a_newer_one_begins_afresh(events: list[tuple[int, float, str]]) -> None:
    windows, log = TumblingWindows(WIDTH, GRACE), _log(events)
    for lane, offset, at, what in log:
        windows.add(1, lane, offset, at, at, [what])
    windows.observe(2, 300.0)
    assert not any(windows.add(1, lane, offset, at, 300.0, [what]) for lane, offset, at, what in log)
    assert all(windows.add(2, lane, offset, at, 300.0, [what]) for lane, offset, at, what in log)
    assert windows.closed(300.0) is None, "nothing is shown before the reader can know where it stands"
    assert _closed(windows, 320.0).counts == _expected(log, 240.0)


def test_a_reader_that_is_behind_closes_windows_by_the_events_time() -> None:
    windows = TumblingWindows(WIDTH, GRACE)
    windows.observe(1, 1000.0)
    for offset in range(600):
        windows.add(1, ("t", 0), offset, float(offset), 1000.0 + offset / 10, ["x"])
    behind = _closed(windows, 1060.0)
    assert (behind.end, behind.counts["x"]) == (540.0, 60), "the window the events themselves have passed, not the clock's"
    assert windows.behind_seconds(1060.0) > 400
    assert windows.behind_seconds(1080.0) == 0, "and once nothing old arrives any more it has caught up"


def test_a_window_waits_for_its_grace() -> None:
    windows = TumblingWindows(WIDTH, GRACE)
    windows.observe(1, 0.0)
    windows.add(1, ("t", 0), 0, 59.9, 62.0, ["x"])
    assert _closed(windows, 64.9).end == 0.0
    assert _closed(windows, 74.0).counts["x"] == 1
