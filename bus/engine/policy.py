"""Everything a worker works by: the plans of all datasets, the agreements they serve, and which of them are in force when."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from bus.avro import catalogue, dataset
from bus.avro.catalogue import Catalogue
from bus.avro.derive import AUDIT_LINE
from bus.config import Settings
from bus.core import topics
from bus.core.agreement import Agreement
from bus.engine import agreements
from bus.engine.plan import Plan, Secrets, compile_plan

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

    def force(self, now_ms: int) -> tuple[bool, ...]:
        """Which agreements are in force, by place."""
        return tuple(a.in_force(now_ms) for a in self.agreements)

    def name(self, force: tuple[bool, ...]) -> str:
        """SHA-256, in hexadecimal, over the grant hashes of what is in force."""
        return hashlib.sha256(b"".join(a.grant_hash for a, yes in zip(self.agreements, force, strict=True) if yes)).hexdigest()


def load(settings: Settings, found: Catalogue) -> Policy:
    """Read and compile everything. Raises AgreementError, SchemaError, CatalogueError, PlanError, ConfigError."""
    datasets = dataset.load(settings.schemas)
    register = dataset.register_of(datasets)
    listed = tuple(agreements.load(settings, datasets).values())
    secrets = Secrets(settings.secret(PERSON_KEY), settings.secret(AGREEMENT_KEY))
    plans = [compile_plan(d, register, listed, found, secrets, settings.engine.max_record_bytes) for d in datasets.values()]
    audit_id = found.id_for(catalogue.value_subject(topics.AUDIT), AUDIT_LINE)
    return Policy(listed, {p.topic: p for p in plans}, audit_id, register.topic)
