"""Everything a worker works by: the plans of all datasets, the agreements they serve, and which of them are in force when."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from bus.avro import catalogue, dataset
from bus.avro.catalogue import Catalogue
from bus.avro.dataset import Dataset
from bus.avro.derive import AUDIT_LINE
from bus.config import Settings
from bus.core import topics
from bus.core.agreement import Agreement
from bus.engine.lanes import NOTHING, Lane, Past
from bus.engine.plan import Plan, PlanError, Secrets, compile_plan

PERSON_KEY = "person-key"
AGREEMENT_KEY = "agreement-key"


@dataclass(frozen=True, slots=True)
class Policy:
    """`agreements` in id order; every plan counts its sequence numbers by that order."""

    agreements: tuple[Agreement, ...]
    plans: Mapping[str, Plan]
    """Input topic -> plan."""
    audit_schema_id: int
    register_topic: str
    version: int = 0
    """The end of `bus.agreements` when it said this: of two policies the one with the greater is the newer."""
    digest: str = ""
    found: Catalogue = field(default_factory=Catalogue, repr=False, compare=False)
    """The schemas it was compiled with."""
    """`name` of all agreements, in force or not: equal for equal policies."""

    def force(self, now_ms: int) -> tuple[bool, ...]:
        """Which agreements are in force, by place."""
        return tuple(a.in_force(now_ms) for a in self.agreements)

    def force_in(self, past: Mapping[str, Past], force: tuple[bool, ...]) -> tuple[bool, ...]:
        """`force` in a lane that knows this of pasts: an agreement that is given its past is not in force until it has it."""
        if not any(a.past for a in self.agreements):
            return force
        return tuple(yes and (not a.past or past.get(a.id, NOTHING).live) for a, yes in zip(self.agreements, force, strict=True))

    def carry(self, lane: Lane) -> dict[str, Past]:
        """What a lane knows of pasts when it is worked under this policy for the first time.

        One that is no longer asked for stops where it is, to go on from there if it comes back. An agreement that delivered
        before it asked for its past has begun without it, and goes on.
        """
        asked = {a.id for a in self.agreements if a.past}
        kept = {name: past if name in asked else Past(past.next) for name, past in lane.past.items()}
        begun = {name for name, seq in zip(lane.agreements, lane.seqs, strict=True) if seq}
        return kept | {name: Past({}, live=True) for name in asked & begun if name not in kept}

    def name(self, force: tuple[bool, ...]) -> str:
        """SHA-256, in hexadecimal, over the grant hashes of what is in force."""
        return _digest([a for a, yes in zip(self.agreements, force, strict=True) if yes])


@dataclass(frozen=True, slots=True)
class Grounds:
    """What agreements are compiled against; it stays while a worker runs."""

    datasets: Mapping[str, Dataset]
    register: Dataset
    secrets: Secrets
    max_record_bytes: int

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Raises SchemaError, ConfigError."""
        datasets = dataset.load(settings.schemas)
        secrets = Secrets(settings.secret(PERSON_KEY), settings.secret(AGREEMENT_KEY))
        return cls(datasets, dataset.register_of(datasets), secrets, settings.engine.max_record_bytes)

    def plan(self, one: Dataset, listed: Sequence[Agreement], found: Catalogue) -> Plan:
        """Raises PlanError, CatalogueError."""
        return compile_plan(one, self.register, listed, found, self.secrets, self.max_record_bytes)

    def recorded(self, agreement: Agreement, found: Catalogue) -> dict[str, Plan]:
        """Dataset -> the plan of this agreement alone for events that were verified already. Raises PlanError, CatalogueError."""
        return {
            g.dataset: compile_plan(
                self.datasets[g.dataset],
                self.register,
                (agreement,),
                found,
                self.secrets,
                self.max_record_bytes,
                recorded=True,
            )
            for g in agreement.grants
        }

    def policy(self, agreements: Mapping[str, Agreement], found: Catalogue, version: int) -> Policy:
        """Compile everything. Raises PlanError, CatalogueError."""
        listed = tuple(agreements[name] for name in sorted(agreements))
        for agreement in listed:
            if unknown := [g.dataset for g in agreement.grants if g.dataset not in self.datasets]:
                raise PlanError(f"agreement {agreement.id!r} grants {unknown[0]!r}, which no schema describes")
        plans = {d.topic: self.plan(d, listed, found) for d in self.datasets.values()}
        audit_id = found.id_for(catalogue.value_subject(topics.AUDIT), AUDIT_LINE)
        return Policy(listed, plans, audit_id, self.register.topic, version, _digest(listed), found)


def _digest(listed: Sequence[Agreement]) -> str:
    return hashlib.sha256(b"".join(a.grant_hash for a in listed)).hexdigest()
