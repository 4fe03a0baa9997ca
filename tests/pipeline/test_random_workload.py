"""Conservation: after a workload of everything awkward the checker finds every change explained, exactly once, in order."""

from __future__ import annotations

import pytest

from tests.oracle import judge
from tests.oracle.collect import collect
from tests.oracle.history import History
from tests.pipeline.bus import SOAK, Bus
from tests.pipeline.load import load
from tests.pipeline.rest import until

SEED = 7
TRANSACTIONS, BIG_TRANSACTION_ROWS = (20_000, 20_000) if SOAK else (400, 5_000)
STALENESS_MS = 60_000


@pytest.mark.timeout(3600 if SOAK else 240)
def test_after_a_random_workload_everything_is_explained(running_bus: Bus) -> None:
    """Every committed change x agreement is delivered, withheld or dead-lettered for the right reason; nothing else is there."""
    with load(running_bus, SEED, rate=200.0) as life:
        until(lambda: life.committed >= TRANSACTIONS // 2, 1800, "half of the workload")
        life.workload.big_transaction(BIG_TRANSACTION_ROWS)
        until(lambda: life.committed >= TRANSACTIONS, 1800, "the other half")
    assert sum(life.lived.values()) > 0
    running_bus.rest()
    history = collect(running_bus.settings)
    history.staleness_ms = STALENESS_MS
    report = judge(history)
    print(report)
    assert not report.anomalies, str(report)
    covered(history)
    found = judge(planted(history)).kinds()
    assert {
        "lost",
        "phantom",
        "wrong-field",
        "leaked-field",
        "wrong-reason",
        "wrong-verdict",
        "seq-gap",
        "audit-mismatch",
    } <= found


def planted(history: History) -> History:
    """The same run with one thing wrong of each of several kinds: the checker sees in a real history, too."""
    deliveries = [d for a in history.agreements for d in history.deliveries[a.id]]
    with_data = [d for d in deliveries if d.data and d.op == "u"]
    with_data[0].data = {**(with_data[0].data or {}), "smuggled": "x"}
    with_data[-1].ts_ms += 1
    deliveries[-1].seq += 1
    history.changes["civil.birth"].pop(len(history.changes["civil.birth"]) // 2)
    verified = history.verified["land.ownership"]
    verified[0].decisions[0]["outcome"] = "NOT_IN_FORCE"
    entry = next(x for v in verified for x in v.verification if x["status"] == "MATCH")
    entry["status"], entry["mismatched"] = "MISMATCH", ["full_name"]
    history.audit.pop()
    return history


def covered(history: History) -> None:
    """The workload did what it is for: a law that nothing tried to break was not tested."""
    ops = {(name, e.op) for name, events in history.changes.items() for e in events}
    missing = [(name, op) for name in history.datasets for op in "ru" if (name, op) not in ops]
    assert not missing
    assert {"c", "d"} <= {op for name, op in ops if name == "civil.birth"}
    assert {d.op for deliveries in history.deliveries.values() for d in deliveries} == {"c", "u", "d", "r", "w"}
    assert all(history.deliveries[a.id] for a in history.agreements)
    outcomes = {d["outcome"] for found in history.verified.values() for v in found for d in v.decisions}
    assert outcomes >= {"DELIVERED", "ROW_FILTER", "VERDICT", "INVISIBLE"}
    statuses = {x["status"] for found in history.verified.values() for v in found for x in v.verification}
    assert statuses == {"MATCH", "MISMATCH", "NOT_FOUND", "NO_PIN"}
    sizes: dict[int, int] = {}
    for event in history.changes["civil.birth"]:
        sizes[event.source["xid"]] = sizes.get(event.source["xid"], 0) + 1
    assert max(n for xid, n in sizes.items() if xid) >= BIG_TRANSACTION_ROWS
