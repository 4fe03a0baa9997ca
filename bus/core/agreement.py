"""A data-sharing agreement as values: who may see which rows and fields of what, until when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

GIVER = "giver"
"""The party that gives: the authority that runs the bus. The other one is the receiving agency."""


class MaskKind(Enum):
    PLAIN = "plain"
    YEAR = "year"
    """A date (date column or ISO text) becomes its year, an int."""
    LAST = "last"
    """Text becomes its last characters; shorter text becomes empty."""
    BAND = "band"
    """A number becomes the lowest whole number of its band, a date the first year of it: 1,987 in bands of 10 is 1,980."""
    PSEUDONYM = "pseudonym"
    """32 hexadecimal digits: keyed hash under the agreement's secret, stable within the agreement, joinable with no other."""


_SIZED = re.compile(r"(last|band)([1-9]\d{0,17})")
MOST_LAST = 64
"""Characters."""


@dataclass(frozen=True, slots=True)
class Mask:
    """What becomes of a granted field on its way out. A field that is not granted is never read at all.

    `size`: how many characters are left, or how wide a band is; else 0. As text: 'plain', 'year', 'last4', 'band10', 'pseudonym'.
    """

    kind: MaskKind
    size: int = 0
    PLAIN: ClassVar[Mask]
    YEAR: ClassVar[Mask]
    LAST4: ClassVar[Mask]
    PSEUDONYM: ClassVar[Mask]

    def __str__(self) -> str:
        return f"{self.kind.value}{self.size or ''}"

    @staticmethod
    def of(text: str) -> Mask:
        """Raises ValueError for a text that is no mask's."""
        sized = _SIZED.fullmatch(text)
        made = Mask(MaskKind(sized[1]), int(sized[2])) if sized else Mask(MaskKind(text))
        if (made.kind in (MaskKind.LAST, MaskKind.BAND)) != bool(sized) or (made.kind is MaskKind.LAST and made.size > MOST_LAST):
            raise ValueError(text)
        return made


Mask.PLAIN, Mask.YEAR, Mask.PSEUDONYM = Mask(MaskKind.PLAIN), Mask(MaskKind.YEAR), Mask(MaskKind.PSEUDONYM)
Mask.LAST4 = Mask(MaskKind.LAST, 4)


@dataclass(frozen=True, slots=True)
class GrantedField:
    """`name` is a column of the dataset, or 'register.<column>': the register's record of the row's subject."""

    name: str
    mask: Mask = Mask.PLAIN


class Way(Enum):
    """How deliveries reach the agency. They stand in its topic in any case."""

    TOPIC = "topic"
    """It reads the topic itself, as a user of Kafka."""
    FEED = "feed"
    """It asks for them over HTTP."""
    WEBHOOK = "webhook"
    """They are sent to an address of its own."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """`url`: where to, of a webhook; else empty."""

    way: Way = Way.TOPIC
    url: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What both parties agree on for people to keep; nothing here changes what flows."""

    procedure: str = ""
    """Code of the administrative procedure (thủ tục hành chính) that needs the data."""
    officer_role: str = ""
    """The office that answers for their use, never a name."""
    data_life: str = ""
    """How long the agency may keep what it gets: an ISO 8601 duration of years, months or days."""
    contacts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """What an agreement opens of one dataset."""

    dataset: str
    fields: tuple[GrantedField, ...]
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Row filter, all must hold: (column, allowed values as text). A null never matches."""
    verdicts: tuple[str, ...] = ()
    """Verdicts that pass; empty: any."""
    share_verdict: bool = False
    sensitive_basis: tuple[tuple[str, str], ...] = ()
    """(sensitive field, the law that opens it to this agency), in the order of the names."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """`id` is '<agency>.<name>'; instants are Unix milliseconds, `valid_until_ms` exclusive, None: open-ended."""

    id: str
    agency: str
    purpose: str
    legal_basis: str
    grants: tuple[Grant, ...]
    valid_from_ms: int
    valid_until_ms: int | None
    grant_hash: bytes
    """SHA-256 (32 bytes) of the canonical form."""
    past: bool = False
    """Switched on, it is given what was verified before; else it begins with what comes."""
    delivery: Delivery = Delivery()
    terms: Terms = Terms()

    def in_force(self, now_ms: int) -> bool:
        return self.valid_from_ms <= now_ms and (self.valid_until_ms is None or now_ms < self.valid_until_ms)
