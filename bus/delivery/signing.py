"""Signatures of Standard Webhooks 1.0, and each endpoint's own keys: one file of the home's secrets, mode 0600.

Signed is `<id>.<timestamp>.<body>`: `v1` with HMAC-SHA-256, `v1a` with Ed25519. While a secret is being changed, both the old one
and the new one sign. An endpoint begins with an Ed25519 key: what verifies there cannot sign.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bus.config import ConfigError, Settings

ED25519, HMAC = "v1a", "v1"
SECRET_BYTES = 32
_MOST_KEYS = 4
"""Two kinds, an old and a new one of each."""
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"

Randomness = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Key:
    """`secret`: 32 bytes, an Ed25519 seed or an HMAC secret."""

    kind: str
    secret: bytes = field(repr=False)

    def signature(self, content: bytes) -> str:
        if self.kind == HMAC:
            made = hmac.new(self.secret, content, hashlib.sha256).digest()
        else:
            made = Ed25519PrivateKey.from_private_bytes(self.secret).sign(content)
        return f"{self.kind},{base64.b64encode(made).decode()}"

    def public(self) -> str:
        """Of an Ed25519 key, in the specification's form."""
        key = Ed25519PrivateKey.from_private_bytes(self.secret).public_key()
        return "whpk_" + base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    def shared(self) -> str:
        """Of an HMAC secret, in the specification's form: for a file, never for a log."""
        return "whsec_" + base64.b64encode(self.secret).decode()


def headers(keys: tuple[Key, ...], message_id: str, timestamp_seconds: int, body: bytes) -> dict[str, str]:
    content = b"%s.%d.%s" % (message_id.encode(), timestamp_seconds, body)
    signatures = " ".join(key.signature(content) for key in keys)
    return {ID: message_id, TIMESTAMP: str(timestamp_seconds), SIGNATURE: signatures}


def file(settings: Settings, agreement: str) -> Path:
    return settings.secret_file(f"webhook-{agreement}")


def keys(settings: Settings, agreement: str, random: Randomness = secrets.token_bytes) -> tuple[Key, ...]:
    """Oldest first; made when there are none. Raises ConfigError for a file that holds none."""
    place = file(settings, agreement)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(place, _content((Key(ED25519, random(SECRET_BYTES)),)))
    return _read(place)


def rotate(settings: Settings, agreement: str, random: Randomness = secrets.token_bytes) -> tuple[Key, ...]:
    """A new key of each kind that there is; the old ones go on signing until `retire`. Raises ConfigError while one is old."""
    there = keys(settings, agreement, random)
    kinds = [key.kind for key in there]
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"{agreement} signs with an old and a new key already: `bus webhook secret {agreement} --retire` first")
    return _replace(settings, agreement, (*there, *(Key(kind, random(SECRET_BYTES)) for kind in kinds)))


def retire(settings: Settings, agreement: str) -> tuple[Key, ...]:
    """The newest of each kind stays. Raises ConfigError where there is no older one."""
    there = keys(settings, agreement)
    newest = tuple({key.kind: key for key in there}.values())
    if newest == there:
        raise ConfigError(f"{agreement} has no old key: `bus webhook secret {agreement} --rotate` makes a new one")
    return _replace(settings, agreement, newest)


def with_hmac(settings: Settings, agreement: str, random: Randomness = secrets.token_bytes) -> tuple[Key, ...]:
    """An HMAC secret beside the Ed25519 key, for receivers that know no other signature."""
    there = keys(settings, agreement, random)
    if any(key.kind == HMAC for key in there):
        return there
    return _replace(settings, agreement, (*there, Key(HMAC, random(SECRET_BYTES))))


def may_save(place: Path) -> None:
    """Raises ConfigError when a secret cannot be written there."""
    if not place.name or place.is_dir():
        raise ConfigError(f"{place} is a directory: name a file in it")
    if place.exists():
        raise _taken(place)
    if not place.parent.is_dir():
        raise ConfigError(f"{place.parent} is no directory: make it first")


def save(place: Path, text: str) -> None:
    """A secret that somebody takes to an agency. Raises ConfigError when the file is there already."""
    try:
        _create(place, text.encode(), exclusive=True)
    except FileExistsError:
        raise _taken(place) from None
    except OSError as error:
        raise ConfigError(f"cannot write {place}: {error.strerror}") from None


def _taken(place: Path) -> ConfigError:
    return ConfigError(f"{place} is there already: name another file")


def _read(place: Path) -> tuple[Key, ...]:
    try:
        listed: list[Any] = json.loads(place.read_bytes())
        found = tuple(Key(str(one["kind"]), base64.b64decode(one["secret"], validate=True)) for one in listed)
    except (ValueError, KeyError, TypeError):
        found = ()
    good = all(key.kind in (HMAC, ED25519) and len(key.secret) == SECRET_BYTES for key in found)
    if not 0 < len(found) <= _MOST_KEYS or not good:
        raise ConfigError(f"{place} holds no keys of a webhook: move it away, and new ones are made")
    return found


def _content(listed: tuple[Key, ...]) -> bytes:
    return json.dumps([{"kind": key.kind, "secret": base64.b64encode(key.secret).decode()} for key in listed]).encode()


def _replace(settings: Settings, agreement: str, listed: tuple[Key, ...]) -> tuple[Key, ...]:
    place = file(settings, agreement)
    part = _part(place, _content(listed))
    part.replace(place)
    return listed


def _create(place: Path, content: bytes, *, exclusive: bool = False) -> None:
    """Whole or not at all; where two make it at once, the first has made it."""
    part = _part(place, content)
    try:
        os.link(part, place)
    except FileExistsError:
        if exclusive:
            raise
    finally:
        part.unlink()


def _part(place: Path, content: bytes) -> Path:
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    return part
