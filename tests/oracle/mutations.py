"""Planting anomalies in a clean history, each under the kind it must be found as: the register of them, and tools."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from tests.oracle.history import Event, History, Verified
from tests.oracle.synthetic_world import BIRTH

Mutation = Callable[[History, random.Random], None]


class Planting:
    """A decorator that keeps mutations with the kind of anomaly each must be found as: `found` has (kind, name, mutation)."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, Mutation]] = []

    def __call__(self, kind: str) -> Callable[[Mutation], Mutation]:
        def register(mutation: Mutation) -> Mutation:
            self.found.append((kind, mutation.__name__, mutation))
            return mutation

        return register


def births(history: History) -> list[Event]:
    return history.changes[BIRTH.name]


def streamed(history: History, op: str) -> list[Event]:
    return [e for e in births(history) if e.op == op]


def verified(history: History) -> list[Verified]:
    return history.verified[BIRTH.name]


def copy(record: Any, **changes: Any) -> Any:
    return dataclasses.replace(record, **changes)


def later(event: Event) -> Event:
    """The same event once more, far down its lane."""
    later: Event = copy(event, offset=event.offset + 10**6)
    return later


def swap_places(events: list[Event], one: Event, two: Event) -> None:
    i, j = events.index(one), events.index(two)
    events[i], events[j] = two, one
    one.offset, two.offset = two.offset, one.offset


def decision(history: History, outcome: str) -> dict[str, str]:
    return next(d for v in verified(history) for d in v.decisions if d["outcome"] == outcome)
