"""The judgement as a whole."""

from __future__ import annotations

from bus.config import Settings
from tests.oracle import audit, capture, engine
from tests.oracle.history import History
from tests.oracle.report import Report


def judge(history: History) -> Report:
    """Every law over one history."""
    report = Report()
    capture.check(history, report)
    engine.check(history, report)
    audit.check(history, report)
    return report


def judge_engine(history: History) -> Report:
    """The laws of everything behind the change topics, whatever filled them."""
    report = Report()
    engine.check(history, report)
    audit.check(history, report)
    return report


def check(settings: Settings, staleness_ms: int | None = None) -> Report:
    """Judge a running bus at rest: nothing may write to the databases meanwhile. `staleness_ms` as in History."""
    from tests.oracle.collect import collect

    history = collect(settings)
    history.staleness_ms = staleness_ms
    return judge(history)
