"""Whether a supervisor holds a home, and how far its start has come."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
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
