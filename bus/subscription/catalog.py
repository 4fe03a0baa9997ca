"""The catalogue: what each dataset holds, whose it is, who gets what of it, and who may ask for it.

Pure: made of the schema and agreement files as they are read, and of where the parties stand (`State`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bus.avro.dataset import Dataset
from bus.core.agreement import Agreement, Grant
from bus.subscription import words

BASIC, SENSITIVE = "basic", "sensitive"
State = Callable[[Agreement], str]
"""Whether an agreement is in force, in words."""


class SubscriptionError(ValueError):
    """A dataset, agency or agreement that nobody knows, or what cannot be written; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Field:
    """`personal`: '', 'basic' or 'sensitive' (Decree 356/2025). `checked_as`: the register's fields that verification holds it
    against, each as '<role>.<register field>'."""

    name: str
    type: str
    optional: bool
    personal: str
    meaning: str
    checked_as: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """A role of the rows. The subject decides the message key, and is who 'register.<field>' speaks of."""

    role: str
    pin: str
    subject: bool


@dataclass(frozen=True, slots=True)
class Shared:
    """What one agreement opens of the dataset. `state`: whether it is in force, in words."""

    agreement: str
    agency: str
    purpose: str
    legal_basis: str
    valid_from: str
    valid_until: str | None
    state: str
    fields: Mapping[str, str]
    """Field -> mask, 'plain' where there is none."""
    where: Mapping[str, tuple[str, ...]]
    verdicts: tuple[str, ...]
    share_verdict: bool


@dataclass(frozen=True, slots=True)
class Asking:
    """Who may ask for the dataset: any agency, by an agreement file with a purpose, and a legal basis where this says so."""

    who: str
    legal_basis: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One dataset of the catalogue. `owner` is the agency database (domain) that it is captured from."""

    dataset: str
    owner: str
    about: str
    register: bool
    primary_key: tuple[str, ...]
    people: tuple[Person, ...]
    fields: tuple[Field, ...]
    agreements: tuple[Shared, ...]
    asking: Asking

    def personal(self, kind: str) -> int:
        return sum(field.personal == kind for field in self.fields)


def entries(datasets: Mapping[str, Dataset], agreements: Mapping[str, Agreement], state: State) -> dict[str, Entry]:
    """By dataset, in name order."""
    return {name: _entry(datasets[name], agreements.values(), state) for name in sorted(datasets)}


def find(what: str, name: str, known: Iterable[str]) -> str:
    """`name`, if it is known. Raises SubscriptionError with the nearest one that is."""
    listed = sorted(known)
    if name in listed:
        return name
    near = difflib.get_close_matches(name, listed, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(listed) or 'none'}"
    raise SubscriptionError(f"no {what} {name!r}: {hint}")


def _entry(dataset: Dataset, agreements: Iterable[Agreement], state: State) -> Entry:
    fields = tuple(_field(dataset, one) for one in dataset.row["fields"])
    return Entry(
        dataset=dataset.name,
        owner=dataset.domain,
        about=str(dataset.row.get("doc", "")),
        register=dataset.register,
        primary_key=dataset.primary_key,
        people=tuple(Person(role.name, role.pin, role is dataset.people[0]) for role in dataset.people),
        fields=fields,
        agreements=tuple(_shared(a, g, state) for a in agreements for g in a.grants if g.dataset == dataset.name),
        asking=_asking(fields),
    )


def _field(dataset: Dataset, found: Mapping[str, object]) -> Field:
    name = str(found["name"])
    against = [f"{role.name}.{theirs}" for role in dataset.people for theirs, ours in role.match.items() if ours == name]
    return Field(
        name=name,
        type=words.type_name(found["type"]),
        optional=words.optional(found["type"]),
        personal=str(found.get("pii", "")),
        meaning=str(found.get("doc", "")),
        checked_as=() if dataset.register else tuple(against),
    )


def _shared(agreement: Agreement, grant: Grant, state: State) -> Shared:
    ends = agreement.valid_until_ms
    return Shared(
        agreement=agreement.id,
        agency=agreement.agency,
        purpose=agreement.purpose,
        legal_basis=agreement.legal_basis,
        valid_from=words.instant(agreement.valid_from_ms),
        valid_until=None if ends is None else words.instant(ends),
        state=state(agreement),
        fields={field.name: str(field.mask) for field in grant.fields},
        where=dict(grant.where),
        verdicts=grant.verdicts,
        share_verdict=grant.share_verdict,
    )


def _asking(fields: tuple[Field, ...]) -> Asking:
    """As the agreement files are checked (bus.engine.agreements): personal data are shared on a legal basis or not at all."""
    kinds = {field.personal for field in fields}
    if SENSITIVE in kinds:
        return Asking("any agency", "for its personal fields, of which some are sensitive")
    return Asking("any agency", "for its personal fields" if BASIC in kinds else "not needed: it holds no personal data")
