"""What the checkout declares, as a subscriber needs it: datasets, agreements, and the schema of each delivery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bus.avro import dataset
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core.agreement import Agreement, Grant
from bus.engine import agreements as agreement_files
from bus.engine import plan
from bus.subscription import standing, words
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
    """`standings`: agreement -> where both parties stand (bus.subscription.standing); None where no bus runs."""

    datasets: dict[str, Dataset]
    agreements: dict[str, Agreement]
    standings: Mapping[str, str] | None = None

    def state(self, agreement: Agreement, now_ms: int) -> str:
        """In words."""
        return words.state(agreement, now_ms, None if self.standings is None else self.standings[agreement.id])

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


def read_with_standings(settings: Settings) -> Files:
    """Also asks the bus, where one runs. Raises ConfigError, too."""
    found = read(settings)
    return replace(found, standings=standing.read(settings, found.agreements))


def in_force(settings: Settings) -> Files:
    """The agreements that are in force, in the text that is, whatever the files say. Raises SchemaError, ConfigError."""
    published = standing.published(settings)
    return Files(dataset.load(settings.schemas), published, dict.fromkeys(published, words.AGREED))
