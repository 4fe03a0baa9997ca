"""What the checkout declares, as a subscriber needs it: datasets, agreements, and the schema of each delivery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bus.avro import dataset
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core.agreement import Agreement, Grant
from bus.engine import agreements as agreement_files
from bus.engine import plan
from bus.subscription.catalog import find


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one grant puts into the agreement's topic. `subject`: where its schema is registered."""

    dataset: Dataset
    grant: Grant
    schema: dict[str, Any]
    subject: str
    person_key: bool
    """Whether the message key is the bus's person key (the agreement grants the subject's PIN in the clear), else a pseudonym."""


@dataclass(frozen=True, slots=True)
class Files:
    datasets: dict[str, Dataset]
    agreements: dict[str, Agreement]

    def agencies(self) -> list[str]:
        return sorted({one.agency for one in self.agreements.values()})

    def of(self, agency: str) -> list[Agreement]:
        """The agency's agreements in id order. Raises SubscriptionError for an agency that has none."""
        find("agency with an agreement", agency, self.agencies())
        return [one for one in self.agreements.values() if one.agency == agency]

    def agreement(self, name: str) -> Agreement:
        """Raises SubscriptionError."""
        return self.agreements[find("agreement", name, self.agreements)]

    def delivered(self, agreement: Agreement) -> Iterator[Delivered]:
        """By the agreement's grants, in their order."""
        schemas = plan.delivery_schemas(self.datasets, dataset.register_of(self.datasets), agreement)
        for grant, (subject, schema) in zip(agreement.grants, schemas.items(), strict=True):
            found = self.datasets[grant.dataset]
            yield Delivered(found, grant, schema, subject, plan.sees_pin(found, grant))


def read(settings: Settings) -> Files:
    """Raises SchemaError, or AgreementError with every problem of every file."""
    datasets = dataset.load(settings.schemas)
    return Files(datasets, agreement_files.load(settings, datasets))
