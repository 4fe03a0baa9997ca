"""Whose signature counts: the parties' public keys, and the private ones of parties that exist in this home only.

A party has its keys in `<parties>/<party>.pub`: one or more Ed25519 public keys in PEM (`openssl pkey -pubout`). On an embedded
broker, a party without such a file is a mock one: this home makes a key for it, and signs with it by itself. Its public half lies
in the home's `parties/`, where every process may read it; the private one in `secrets/sign-<party>`, mode 0600. On a cluster that
was there before, nobody is signed for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from bus.config import ConfigError, Settings
from bus.core.agreement import GIVER, Agreement

_END = "-----END PUBLIC KEY-----"
_MAX_FILE_BYTES = 65_536


def own_file(settings: Settings, party: str) -> Path:
    return settings.parties / f"{party}.pub"


def is_mock(settings: Settings, party: str) -> bool:
    """Whether this home signs for the party."""
    return not settings.kafka.bootstrap and not own_file(settings, party).exists()


def public(settings: Settings, agreements: Iterable[Agreement]) -> dict[str, tuple[Ed25519PublicKey, ...]]:
    """Each party's keys; none of a party that has no key yet. Raises ConfigError for a file that holds no such keys."""
    found = {}
    for party in sorted({GIVER, *(one.agency for one in agreements)}):
        own = own_file(settings, party)
        place = _mock_file(settings, party) if is_mock(settings, party) else own
        found[party] = _read(place) if place.exists() else ()
    return found


def _mock_file(settings: Settings, party: str) -> Path:
    return settings.home / "parties" / f"{party}.pub"


def _read(path: Path) -> tuple[Ed25519PublicKey, ...]:
    wrong = ConfigError(f"{path} holds no Ed25519 public keys in PEM: write them with `openssl pkey -in KEY -pubout`")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise wrong
    blocks = [block + _END for block in path.read_text(encoding="utf-8", errors="replace").split(_END)[:-1]]
    try:
        keys = [load_pem_public_key(block.strip().encode()) for block in blocks]
    except (ValueError, UnsupportedAlgorithm):
        raise wrong from None
    ours = tuple(key for key in keys if isinstance(key, Ed25519PublicKey))
    if not ours or len(ours) != len(keys):
        raise wrong
    return ours


def private(settings: Settings, party: str, file: Path | None = None) -> Ed25519PrivateKey:
    """The key to sign with: of `file`, or a mock party's own, which is made when there is none. Raises ConfigError."""
    if file is not None:
        return _load(file)
    if not is_mock(settings, party):
        place = own_file(settings, party)
        raise ConfigError(f"{party} signs with a key of its own: use `--key FILE`, the private one of {place}")
    place = settings.secret_file(f"sign-{party}")
    if not place.exists():
        _make(settings, party, place)
    return _load(place)


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path} is no private key in PEM without a passphrase: make one with `openssl genpkey -algorithm ed25519`"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key: make one with `openssl genpkey -algorithm ed25519`")
    return key


def _make(settings: Settings, party: str, place: Path) -> None:
    """The public half first: a private one without it would sign what nobody can check."""
    key = Ed25519PrivateKey.generate()
    public_file = _mock_file(settings, party)
    public_file.parent.mkdir(parents=True, exist_ok=True)
    _write(public_file, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(place, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
