"""What a request asks for, read strictly: an unknown word or a value out of bounds is refused, and never quoted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST_WAIT_SECONDS = 60.0
USUAL_EVENTS = 100
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
PAGE = ("cursor", "from", "lane", "limit", "wait_seconds")
STREAM = ("cursor", "from", "lane")


class Wrong(Exception):
    """The request cannot be answered as it stands; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`cursor` '' : from the beginning, or with `snapshot` from the present state on."""

    cursor: str = ""
    snapshot: bool = False
    lane: int | None = None
    limit: int = USUAL_EVENTS
    wait_seconds: float = 0.0


def read(query: Iterable[tuple[str, str]], known: tuple[str, ...], lanes: int, most: int) -> Asked:
    """`query`: names and values in order. Raises Wrong."""
    found: dict[str, str] = {}
    for name, value in query:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise Wrong(f"A parameter is not known here: {hint}")
        if name in found:
            raise Wrong(f"{name} is given twice")
        found[name] = value
    if found.get("from", "snapshot") != "snapshot":
        raise Wrong("from must be 'snapshot'; leave it out to begin with the first delivery")
    if "from" in found and found.get("cursor"):
        raise Wrong("from and cursor exclude each other: a cursor goes on where it stands")
    return Asked(
        found.get("cursor", ""),
        "from" in found,
        int(_number(found["lane"], "lane", 0, lanes - 1)) if "lane" in found else None,
        int(_number(found["limit"], "limit", 1, most)) if "limit" in found else min(USUAL_EVENTS, most),
        _number(found["wait_seconds"], "wait_seconds", 0, MOST_WAIT_SECONDS, whole=False) if "wait_seconds" in found else 0.0,
    )


def _number(text: str, name: str, least: float, most: float, *, whole: bool = True) -> float:
    wrong = Wrong(f"{name} must be a {'whole ' if whole else ''}number from {least:g} to {most:g}")
    if not _NUMBER.fullmatch(text) or (whole and "." in text):
        raise wrong
    value = float(text)
    if not least <= value <= most:
        raise wrong
    return value
