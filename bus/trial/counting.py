"""What one agreement makes of recorded events, counted, a dataset at a time; nothing is kept but numbers and a few examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.avro import derive
from bus.avro.catalogue import Catalogue, record_subject
from bus.avro.dataset import Dataset
from bus.avro.walker import compile_walker
from bus.core import identity, topics
from bus.core.agreement import Agreement
from bus.core.outcome import Outcome
from bus.engine.plan import Plan, Record, delivery_schemas
from bus.engine.recorded import PersonOf, Read, Recorded
from bus.ledger.decoding import compile_decoder
from bus.trial.distinct import Distinct

WHATEVER_IT_DECIDED = ""
"""As an agreement's id: no event was decided for it, so that what was delivered already is told of too."""
DELIVERED = Outcome.DELIVERED.value
Deliver = Callable[[int, Record], None]
"""deliver(lane, (topic, value, key)): each delivery as it would be written."""


class Rows:
    """Who and what a change event of a dataset is about, whatever an agreement opens of it."""

    def __init__(self, dataset: Dataset, secret: bytes) -> None:
        self._pin = dataset.people[0].pin if dataset.people else None
        self._key = [c for c in dataset.fields if c in dataset.primary_key]
        wanted = {*self._key, *([self._pin] if self._pin else [])}
        self._walk = compile_walker(derive.change(dataset), [f"{side}.{c}" for side in ("before", "after") for c in wanted])
        self._shortest = 3 if self._pin and isinstance(dataset.fields[self._pin], list) else 2
        self._row_key = identity.row_keys(secret, dataset.name)

    def of(self, change: bytes) -> tuple[bytes, bool]:
        """(row key, whether the row names its subject, so that the message key is a person's)."""
        spans = self._walk(change)

        def column(name: str) -> bytes:
            start, end = spans[f"after.{name}"] or spans[f"before.{name}"] or (0, 0)
            return change[start:end]

        named = self._pin is not None and len(column(self._pin)) >= self._shortest
        return self._row_key(b"".join(map(column, self._key))), named


@dataclass(slots=True)
class Sums:
    """Of one dataset. `people`: subjects of what is delivered, `rows`: the rows; both by the bus's own keys."""

    outcomes: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    filled: Counter[str] = field(default_factory=Counter)
    """Delivered field -> deliveries in which it is not null."""
    with_values: int = 0
    people: Distinct = field(default_factory=Distinct)
    rows: Distinct = field(default_factory=Distinct)
    examples: dict[str, bytes] = field(default_factory=dict)
    """Op -> the first delivery of that op."""


class Counting:
    """One agreement on one dataset. `plan` as `Grounds.recorded` makes it."""

    def __init__(
        self,
        agreement: Agreement,
        plan: Plan,
        datasets: Mapping[str, Dataset],
        register: Dataset,
        found: Catalogue,
        deliver: Deliver | None = None,
    ) -> None:
        dataset = datasets[plan.dataset]
        self._recorded = Recorded(dataset, register, WHATEVER_IT_DECIDED, plan, found)
        self.read = self._recorded.read
        self.schema = delivery_schema(datasets, register, agreement, plan.dataset)
        self._decode = compile_decoder(self.schema)
        self._deliver = deliver
        self.sums = Sums()

    def take(self, read: Read, key: bytes, row: bytes, named: bool, now: PersonOf, seqs: list[int], lane: int) -> bool:
        """Decide on one event. Whether it is delivered. Raises Malformed for what the engine would stop at."""
        outcome, record = self._recorded.decide(read, key, now, seqs, 0)
        sums = self.sums
        sums.outcomes[outcome] += 1
        if record is None:
            return False
        if self._deliver:
            self._deliver(lane, record)
        sums.rows.add(row)
        if named:
            sums.people.add(key)
        self._count(record[1])
        return True

    def _count(self, value: bytes) -> None:
        sums, delivery = self.sums, self._decode(value)
        sums.ops[delivery["op"]] += 1
        sums.examples.setdefault(delivery["op"], value)
        data: dict[str, Any] | None = delivery["data"]
        if data is not None:
            sums.with_values += 1
            sums.filled.update(name for name, value in data.items() if value is not None)


def delivery_schema(datasets: Mapping[str, Dataset], register: Dataset, agreement: Agreement, dataset: str) -> Any:
    """The schema of what the agreement gets of a dataset that it opens."""
    schemas = delivery_schemas(datasets, register, agreement).values()  # one a grant, in order
    return next(s for g, s in zip(agreement.grants, schemas, strict=True) if g.dataset == dataset)


def with_deliveries(found: Catalogue, datasets: Mapping[str, Dataset], register: Dataset, agreement: Agreement) -> Catalogue:
    """The catalogue as it would be if the agreement were switched on next; the one given stays as it is."""
    made = found.copy()
    for subject, schema in delivery_schemas(datasets, register, agreement).items():
        assert subject == record_subject(topics.agency(agreement.id), schema)
        if entry := made.propose(subject, schema):
            made.add(entry)
    return made
