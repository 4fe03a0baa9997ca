"""Everything a worker works by: the plans of all datasets, the agreements they serve, and which of them are in force when."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from bus.avro import catalogue, dataset
from bus.avro.catalogue import Catalogue
from bus.avro.dataset import Dataset
from bus.avro.derive import AUDIT_LINE
from bus.config import Settings
from bus.core import topics
from bus.core.agreement import Agreement
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
    """`name` of all agreements, in force or not: equal for equal policies."""

    def force(self, now_ms: int) -> tuple[bool, ...]:
        """Which agreements are in force, by place."""
        return tuple(a.in_force(now_ms) for a in self.agreements)

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

    def policy(self, agreements: Mapping[str, Agreement], found: Catalogue, version: int) -> Policy:
        """Compile everything. Raises PlanError, CatalogueError."""
        listed = tuple(agreements[name] for name in sorted(agreements))
        for agreement in listed:
            if unknown := [g.dataset for g in agreement.grants if g.dataset not in self.datasets]:
                raise PlanError(f"agreement {agreement.id!r} grants {unknown[0]!r}, which no schema describes")
        plans = {d.topic: self.plan(d, listed, found) for d in self.datasets.values()}
        audit_id = found.id_for(catalogue.value_subject(topics.AUDIT), AUDIT_LINE)
        return Policy(listed, plans, audit_id, self.register.topic, version, _digest(listed))


def _digest(listed: Sequence[Agreement]) -> str:
    return hashlib.sha256(b"".join(a.grant_hash for a in listed)).hexdigest()
