"""Which agreements were in force at which input, and what they were given of their past, by the audit lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.ledger.decoding import Decoder


@dataclass(slots=True)
class Agreed:
    """`past`: agreement -> outcome -> verified events that it was given later than they came."""

    past: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _changes: dict[int, list[tuple[dict[str, int], dict[str, list[str]]]]] = field(default_factory=lambda: defaultdict(list))
    """Lane -> (input topic -> first offset, dataset -> agreements on it), in order."""

    @classmethod
    def of(cls, records: Iterable[Any], decoder: Decoder) -> Agreed:
        """From the records of `bus.audit`, in the order of each lane."""
        made = cls()
        for record in records:
            line = decoder.decode(record.value())
            if change := line.get("change"):
                made._changes[record.partition()].append(_change(change))
            for o in line.get("past_outcomes", ()):
                made.past[o["agreement"]][o["outcome"]] += o["count"]
        return made

    def on(self, dataset: str, topic: str, lane: int, offset: int, otherwise: Iterable[str]) -> list[str]:
        """The agreements on a dataset under which the input at this offset was decided; `otherwise` where no line says."""
        for inputs, agreements in reversed(self._changes.get(lane, ())):
            if inputs.get(topic, 0) <= offset:
                return agreements.get(dataset, [])
        return sorted(otherwise)


def _change(change: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, list[str]]]:
    on: dict[str, list[str]] = defaultdict(list)
    for one in change["agreements"]:
        for dataset in one["datasets"]:
            on[dataset].append(one["agreement"])
    return {i["topic"]: i["next_offset"] for i in change["inputs"]}, {name: sorted(found) for name, found in on.items()}
