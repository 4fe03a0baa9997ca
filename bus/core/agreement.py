"""A data-sharing agreement as values: who may see which rows and fields of what, until when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

GIVER = "giver"
"""The party that gives: the authority that runs the bus. The other one is the receiving agency."""


class Mask(Enum):
    """What becomes of a granted field on its way out. A field that is not granted is never read at all."""

    PLAIN = "plain"
    YEAR = "year"
    """A date (date column or ISO text) becomes its year, an int."""
    LAST4 = "last4"
    """Text becomes its last four characters; shorter text becomes empty."""
    PSEUDONYM = "pseudonym"
    """32 hexadecimal digits: keyed hash under the agreement's secret, stable within the agreement, joinable with no other."""


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
