"""What is told of latencies."""

from __future__ import annotations

from collections.abc import Sequence

_SHARES = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}


def told(late_ms: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and greatest of some, in ascending order."""
    return {name: round(late_ms[min(len(late_ms) - 1, int(len(late_ms) * share))], 1) for name, share in _SHARES.items()}
