"""Proof of the checker: every kind of anomaly planted in a clean history is found by name; clean ones raise no alarm."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.oracle import judge, mutations_capture, mutations_engine
from tests.oracle.mutations import Mutation
from tests.oracle.report import KINDS
from tests.oracle.synthetic import clean

MUTATIONS = [*mutations_capture.plant.found, *mutations_engine.plant.found]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "mutation"), [pytest.param(k, m, id=f"{k}-{n}") for k, n, m in MUTATIONS])
def test_planted_anomaly_is_found(kind: str, mutation: Mutation, seed: int) -> None:
    """A history with exactly one thing wrong is refused, and the wrong thing is named."""
    history = clean(seed, transactions=160)
    mutation(history, random.Random(seed))
    report = judge(history)
    assert kind in report.kinds(), str(report)
    assert report.witness(kind).where


def test_every_kind_is_planted() -> None:
    """No kind of anomaly goes without proof (canaries have theirs in test_leaks)."""
    assert {k for k, _, _ in MUTATIONS} | {"canary"} == set(KINDS)


@pytest.mark.parametrize("seed", range(20))
def test_clean_history_raises_no_alarm(seed: int) -> None:
    report = judge(clean(seed, people=10 + seed * 3, transactions=20 + 20 * seed))
    assert not report.anomalies, str(report)
    assert min(report.facts[what] for what in ("verified events", "deliveries", "decisions")) > 0


@pytest.mark.skipif(os.environ.get("LT_SOAK") != "1", reason="make soak")
def test_a_hundred_thousand_events_in_well_under_a_minute() -> None:
    history = clean(3, 1000, 43_000)
    assert sum(map(len, history.changes.values())) > 100_000
    begun = time.process_time()
    report = judge(history)
    assert not report.anomalies, str(report)
    assert time.process_time() - begun < 40
