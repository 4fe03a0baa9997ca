"""Who asks, and what they may see: the bus's principals with their Kafka passwords, by HTTP basic authentication.

Default deny. `admin` may do everything. Those who read `_schemas` in Kafka may read everything here. An agency may read the
subjects of its own topics, as long as an agreement names it; all others are to it as if they did not exist.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bus.config import ConfigError, Settings
from bus.core import topics

ADMIN = "admin"
READERS = frozenset({"operator", "developer", "register", "registry", "engine", "processors"})
_AGENCY, _CAPTURE = "agency-", "capture-"
_KEEP_SECONDS = 1.0
"""So long a password that was read counts: a new one is taken over without a restart."""
_MOST_HEADER = 1_024
_NOBODY = b"no such principal"


@dataclass(frozen=True, slots=True)
class Viewer:
    """`prefix`: of the only subjects that there are for this one; '' for all."""

    principal: str
    prefix: str
    writes: bool

    def sees(self, subject: str) -> bool:
        return subject.startswith(self.prefix)


class Users:
    """`captures`: the databases that are declared. Agencies are known once `take_index` was told."""

    def __init__(self, settings: Settings, captures: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._readers = READERS | {f"{_CAPTURE}{name}" for name in captures}
        self._agencies: frozenset[str] = frozenset()
        self._passwords: dict[str, tuple[float, bytes | None]] = {}

    def take_index(self, index: bytes | None) -> None:
        """The index of `bus.agreements`: {agreement: hash}; an agreement is named '<agency>.<name>'."""
        try:
            self._agencies = frozenset(name.partition(".")[0] for name in json.loads(index or b"{}"))
        except (ValueError, TypeError):
            self._agencies = frozenset()

    def viewer(self, header: bytes | None) -> Viewer | None:
        """Whom an Authorization header proves; None when it proves nobody."""
        principal, password = _parse(header)
        viewer = self._known(principal)
        expected = self._password(principal) if viewer else None
        right = hmac.compare_digest(password, expected or _NOBODY)  # also for nobody, so that time does not tell who exists
        return viewer if right and expected else None

    def _known(self, principal: str) -> Viewer | None:
        if principal == ADMIN:
            return Viewer(principal, "", True)
        if principal in self._readers:
            return Viewer(principal, "", False)
        agency = principal.removeprefix(_AGENCY)
        if agency != principal and agency in self._agencies:
            return Viewer(principal, topics.agency(f"{agency}."), False)
        return None

    def _password(self, principal: str) -> bytes | None:
        """Of a known principal only: the name is part of a file's."""
        until, found = self._passwords.get(principal, (0.0, None))
        now = self._clock()
        if now >= until:
            try:
                found = self._settings.secret(f"kafka-{principal}").strip() or None
            except (ConfigError, OSError):
                found = None
            self._passwords[principal] = now + _KEEP_SECONDS, found
        return found


def _parse(header: bytes | None) -> tuple[str, bytes]:
    """User and password; ('', b'') when the header is missing or not of this kind."""
    kind, _, rest = (header or b"").partition(b" ")
    if kind.lower() != b"basic" or len(rest) > _MOST_HEADER:
        return "", b""
    try:
        user, _, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
        return user.decode(), password
    except (binascii.Error, ValueError):
        return "", b""
