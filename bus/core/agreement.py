"""A data-sharing agreement as values: who may see which rows and fields of what, until when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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

    def in_force(self, now_ms: int) -> bool:
        return self.valid_from_ms <= now_ms and (self.valid_until_ms is None or now_ms < self.valid_until_ms)
