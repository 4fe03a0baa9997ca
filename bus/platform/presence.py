"""Whether a supervisor holds a home, and how far its start has come."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bus.config import ConfigError, Settings


def start_file(settings: Settings) -> Path:
    return settings.home / "run" / "start.json"


def read_start(settings: Settings) -> dict[str, Any] | None:
    """How far the latest start has come; None when the bus was never started or was stopped in order."""
    try:
        found: dict[str, Any] = json.loads(start_file(settings).read_text(encoding="utf-8"))
        return found
    except (FileNotFoundError, ValueError):
        return None


def changed(settings: Settings, digests: Mapping[str, str]) -> str:
    """What is not as it was when the bus that is up was started, and what to do; '' when nothing is, or no start is complete."""
    start = read_start(settings)
    if not start or not start["ready"]:
        return ""
    began = start["digests"]
    names = [name for name, digest in digests.items() if began.get(name) != digest]
    if not names:
        return ""
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    remedy = "run `bus agreement apply`" if names == ["agreements"] else "run `bus down`, then `bus up`"
    return f"{listed} have changed since the bus started: {remedy}"


def applied(settings: Settings, digests: Mapping[str, str]) -> None:
    """The bus that is up works by these agreements now."""
    start = read_start(settings)
    if not start or not start["ready"]:
        return
    start["digests"] = start["digests"] | {"agreements": digests["agreements"]}
    part = start_file(settings).with_suffix(".part")
    part.write_text(json.dumps(start), encoding="utf-8")
    part.replace(start_file(settings))


def is_up(settings: Settings) -> bool:
    """Whether a supervisor holds this home."""
    try:
        with lock(settings):
            return False
    except ConfigError:
        return True
    except FileNotFoundError:
        return False


@contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """The home's supervisor lock. Raises ConfigError when it is held."""
    with (settings.home / "run" / "supervisor.lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"the bus in {settings.home} is up already: `bus status` shows it, `bus down` stops it") from None
        yield
