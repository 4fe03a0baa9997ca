"""What the engine would make of a letter today: by the schemas, agreements, settings and register of this moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bus import access
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.avro.dataset import Dataset
from bus.avro.frame import Malformed
from bus.config import Settings
from bus.core.outcome import Outcome
from bus.engine import agreement_log
from bus.engine.client import HumanNeeded
from bus.engine.plan import Plan, PlanError, Record
from bus.engine.policy import Grounds, Policy
from bus.engine.replica import ReplicaReader
from bus.letters.letter import Letter, LetterError
from bus.registry import log as registry

PersonOf = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class Becomes:
    """`code`: it would be a dead letter again; else verdict, and outcome by agreement."""

    code: str = ""
    verdict: str = ""
    outcomes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        return {"dead_again": self.code} if self.code else {"verdict": self.verdict, "outcomes": dict(self.outcomes)}


@dataclass(frozen=True, slots=True)
class Today:
    """`policy` as it is compiled now; `verified`: whether the register's replica could be asked."""

    policy: Policy
    datasets: Mapping[str, Dataset]
    found: Catalogue
    now_ms: int
    verified: bool
    _person_of: PersonOf

    def becomes(self, letter: Letter) -> Becomes:
        plan: Plan | None = self.policy.plans.get(letter.source)
        if plan is None:
            return Becomes(code="UNKNOWN_TOPIC")
        force, seqs = self.policy.force(self.now_ms), [0] * len(self.policy.agreements)
        given = letter.value, letter.key or b"", self._person_of, seqs, force, list[Record]()
        try:
            tally = plan.handle(*given)
        except Malformed as first:
            try:
                tally = plan.again(*given, first.code)
            except Malformed as bad:
                return Becomes(code=bad.code.value)
        return Becomes("", plan.verdict(tally), dict(plan.outcomes(tally)))


@contextmanager
def today(settings: Settings, principal: str, now_ms: int) -> Iterator[Today]:
    """Raises LetterError where agreements or schemas cannot be used, ConfigError when there is no bus."""
    connection = access.confluent(settings, principal)
    try:
        found = registry.read(connection)
        said = agreement_log.read(connection)
        grounds = Grounds.load(settings)
        policy = grounds.policy(said.agreements(), found, said.version)
    except (HumanNeeded, agreement_log.Malformed, PlanError, CatalogueError) as error:
        raise LetterError(f"what would become of a letter cannot be told: {error}") from None
    reader = ReplicaReader(settings.home)
    try:
        if not reader.ready():
            yield Today(policy, grounds.datasets, found, now_ms, False, lambda _: None)
            return

        def person_of(key: bytes) -> bytes | None:
            with reader.view() as get:  # each for itself: a view that stays open holds up the replica's writer
                return get(key)

        yield Today(policy, grounds.datasets, found, now_ms, True, person_of)
    finally:
        reader.close()


def delivers(becomes: Becomes) -> list[str]:
    """The agreements that would get a delivery."""
    return sorted(a for a, outcome in becomes.outcomes.items() if outcome == Outcome.DELIVERED.value)
