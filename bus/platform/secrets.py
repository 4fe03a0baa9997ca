"""Secrets are made once, of the system's randomness, into files that only their owner can read (directory 0700, files 0600)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from bus.config import Settings
from bus.core.identity import SECRET_BYTES

KEYS = ("person-key", "agreement-key", "feed-key")
_PASSWORD_BYTES = 24

Randomness = Callable[[int], bytes]


def password(settings: Settings, name: str, random: Randomness = secrets.token_bytes) -> str:
    """The password in secrets/<name>, made when there is none: letters and digits only, so that no quoting is ever needed."""
    return ensure(settings, name, lambda: random(_PASSWORD_BYTES).hex().encode()).decode()


def keys(settings: Settings, random: Randomness = secrets.token_bytes) -> None:
    """The bus's own keys. Made once: with another person key the same person would have another message key."""
    for name in KEYS:
        ensure(settings, name, lambda: random(SECRET_BYTES))


def ensure(settings: Settings, name: str, make: Callable[[], bytes]) -> bytes:
    path = settings.secret_file(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        write(path, make())
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    """A file of mode 0600 that is there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    part.replace(path)
