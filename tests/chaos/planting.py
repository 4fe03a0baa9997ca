"""Bugs are planted in the running product; what a test must then find is that something is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

CALM, KILLS, ABORTS, EXPIRY, CAPTURE = "nothing else", "kill -9", "aborts", "an agreement ends", "kill -9 of capture"


@dataclasses.dataclass(frozen=True, slots=True)
class Bug:
    name: str
    shows_under: str
    """The disturbance that it takes."""
    plant: Callable[[], None]


ALL: list[Bug] = []
Patch = Callable[[], None]


def bug(shows_under: str = CALM) -> Callable[[Patch], Patch]:
    def register(plant: Patch) -> Patch:
        ALL.append(Bug(plant.__name__.replace("_", " "), shows_under, plant))
        return plant

    return register


def replace(owner: Any, name: str, made: Any) -> Any:
    """What was there before. Raises AttributeError where nothing was: the product has moved on, and the bug with it."""
    honest = getattr(owner, name)
    setattr(owner, name, made)
    return honest


def under(disturbances: Iterable[str]) -> list[Bug]:
    return [b for b in ALL if b.shows_under in disturbances]
