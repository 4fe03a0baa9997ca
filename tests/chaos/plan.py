"""What chaos is to do and when: a list that follows from the seed alone, so that whatever it led to can be had again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.proxy import Api, Kind

TRANSACTIONAL = (
    *(Api.INIT_PRODUCER_ID, Api.ADD_PARTITIONS_TO_TXN, Api.PRODUCE, Api.ADD_OFFSETS_TO_TXN, Api.TXN_OFFSET_COMMIT, Api.END_TXN),
)
MISTREATMENTS = (Kind.DELAY, Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.REPEAT, Kind.BELATE)
SESSION_SECONDS = 10.0
"""A process that sleeps longer loses its lanes to others."""
KILL, SLEEP, BROKER, DATABASE, PROXY, MEMBERS, LOAD, BIG = (
    *("kill -9", "SIGSTOP", "broker killed", "PostgreSQL killed", "request mistreated", "worker joins or leaves"),
    *("load changed", "big transaction"),
)
_WEIGHTS = {KILL: 8, SLEEP: 4, BROKER: 2, DATABASE: 2, PROXY: 8, MEMBERS: 5, LOAD: 2, BIG: 1}
_GAP_SECONDS = (0.5, 6.0)
_RATES = (20.0, 120.0, 400.0)


@dataclass(frozen=True, slots=True)
class Step:
    at_seconds: float
    kind: str
    target: str = ""
    """A process, a request, or what the load becomes."""
    seconds: float = 0.0
    """How long a process sleeps."""
    mistreatment: Kind = Kind.DELAY
    api: Api = Api.END_TXN

    def __str__(self) -> str:
        tail = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at_seconds:7.1f} s  {self.kind} {self.target}{tail}"


def draw(seed: int, seconds: float, processes: Sequence[str]) -> list[Step]:
    """All steps of a run. `processes`: those that may be killed and put to sleep."""
    rng = random.Random(seed)
    steps: list[Step] = []
    at = rng.uniform(*_GAP_SECONDS)
    while at < seconds:
        steps.append(_step(rng, at, processes))
        at += rng.uniform(*_GAP_SECONDS)
    return steps


def _step(rng: random.Random, at: float, processes: Sequence[str]) -> Step:
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    if kind == KILL:
        return Step(at, kind, rng.choice(processes))
    if kind == SLEEP:
        return Step(at, kind, rng.choice(processes), rng.choice((rng.uniform(0.2, 3), rng.uniform(1.1, 1.8) * SESSION_SECONDS)))
    if kind == PROXY:
        mistreatment, api = rng.choice(MISTREATMENTS), rng.choice(TRANSACTIONAL)
        return Step(at, kind, f"{mistreatment.value} {api.name}", 0.0, mistreatment, api)
    if kind == LOAD:
        return Step(at, kind, f"{rng.choice(_RATES):.0f}/s")
    return Step(at, kind)
