"""Which agreements are delivered by webhook or by the feed, as values: what is published and what is signed together."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bus.avro.dataset import Dataset, register_of
from bus.core.agreement import Agreement, Way
from bus.delivery.entitled import Entitlement
from bus.engine import plan
from bus.signatures import statement
from bus.signatures.statement import Act, Keys, Signed, Standing, State

MOST_EARLIER = 50
"""Earlier texts of one agreement that are remembered."""
Texts = Mapping[bytes, Agreement]
"""By grant hash."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """One agreement that is delivered this way, whether or not anything of it may be told now."""

    agreement: Agreement
    standing: Standing
    entitlement: Entitlement

    def open(self, now_ms: int) -> bool:
        """Whether its agency may be told: agreed on by both parties, and in force."""
        return self.standing.state is State.AGREED and self.agreement.in_force(now_ms)

    def state(self, now_ms: int) -> str:
        """In one word or two, for the agency."""
        if self.standing.state is not State.AGREED:
            return str(self.standing.state.value)
        if self.open(now_ms):
            return "in force"
        return "not yet in force" if now_ms < self.agreement.valid_from_ms else "over"


@dataclass(frozen=True, slots=True)
class Served:
    """`index`: of everything published, by which agencies are known; `outlets`: by agreement;
    `unfit`: agreement -> why it cannot be told: of datasets that this process knows otherwise, or not."""

    index: bytes
    outlets: Mapping[str, Outlet]
    unfit: Mapping[str, str]

    def of(self, agency: str) -> list[Outlet]:
        return [one for _, one in sorted(self.outlets.items()) if one.agreement.agency == agency]

    def find(self, agency: str, agreement: str, now_ms: int) -> Outlet | None:
        """The agency's own, if it may read it now."""
        found = self.outlets.get(agreement)
        return found if found and found.agreement.agency == agency and found.open(now_ms) else None


def served(
    listed: Mapping[str, Agreement],
    earlier: Mapping[str, Texts],
    said: Collection[Signed],
    keys: Keys,
    datasets: Mapping[str, Dataset],
    way: Way,
) -> Served:
    by_id: dict[str, list[Signed]] = {}
    for signed in said:
        by_id.setdefault(signed.statement.agreement, []).append(signed)
    outlets: dict[str, Outlet] = {}
    unfit: dict[str, str] = {}
    for name, one in listed.items():
        if one.delivery.way is way:
            try:
                outlets[name] = _outlet(one, earlier.get(name, {}), by_id.get(name, []), keys, datasets)
            except plan.PlanError as error:
                unfit[name] = str(error)
    index = {name: one.grant_hash.hex() for name, one in sorted(listed.items())}
    return Served(json.dumps(index).encode(), outlets, unfit)


def _outlet(one: Agreement, earlier: Texts, said: Collection[Signed], keys: Keys, datasets: Mapping[str, Dataset]) -> Outlet:
    """Raises PlanError when the agreement does not fit the datasets."""
    ended = {
        signed.statement.grant_hash
        for signed in said
        if signed.statement.act in (Act.REVOKE, Act.REJECT)
        and signed.statement.party in statement.parties(one)
        and statement.verifies(signed, keys.get(signed.statement.party, ()))
    }
    schemas = plan.delivery_schemas(datasets, register_of(dict(datasets)), one)
    forms = {grant.dataset: fields(schema) for grant, schema in zip(one.grants, schemas.values(), strict=True)}
    pins = {name: dataset.people[0].pin for name, dataset in datasets.items() if dataset.people}
    return Outlet(one, statement.standing(one, said, keys), Entitlement(one, earlier, frozenset(ended), forms, pins))


def fields(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Of a delivery's schema: field of `data` -> its type."""
    data: list[Any] = next((f["type"] for f in schema["fields"] if f["name"] == "data"), [])
    return {f["name"]: f["type"] for branch in data if isinstance(branch, dict) for f in branch["fields"]}
