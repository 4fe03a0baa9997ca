"""How far a reader of a feed has come, as text that the reader keeps: the server remembers nobody.

A version byte, the positions, and a tag: HMAC-SHA-256, cut to 16 bytes, over these and the agreement's name; all in URL-safe
base64 without padding. There is one text for each state: whatever is changed in it, it is no cursor any more.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bus.avro import varint
from bus.avro.frame import Malformed

VERSION = 1
ANY = -1
"""As `seq`: nothing was told of this lane yet, and whatever number stands first there is right."""
LIVE = -1
"""As `until`: the lane is past its snapshot, or there is none."""
MOST_CHARS = 8_192
MOST_LANES = 256
_TAG_BYTES = 16
_PURPOSE = b"bus.feed.cursor\0"


class Forged(ValueError):
    """Not a cursor of this feed and this agreement."""


@dataclass(frozen=True, slots=True)
class Place:
    """In one lane. `offset`: next to be read; `seq`: the last number told; `until`: the offset at which its snapshot ends."""

    offset: int
    seq: int
    until: int = LIVE

    def read(self, offset: int, seq: int) -> Place:
        """After the record at this offset."""
        return replace(self, offset=offset + 1, seq=seq)


@dataclass(frozen=True, slots=True)
class Cursor:
    """`turn`: the lane that comes first in the next answer, so that none waits for another for ever."""

    places: Mapping[int, Place]
    turn: int = 0

    @property
    def snapshot(self) -> bool:
        """Whether some lane's snapshot is not read to its end."""
        return any(place.until != LIVE for place in self.places.values())

    def at(self, lane: int, place: Place) -> Cursor:
        return Cursor({**self.places, lane: place}, self.turn)


def beginning(lanes: Iterable[int]) -> Cursor:
    """Before the first delivery that is there."""
    return Cursor({lane: Place(0, ANY) for lane in lanes})


def encode(cursor: Cursor, agreement: str, secret: bytes) -> str:
    numbers = [cursor.turn, len(cursor.places)]
    for lane, place in sorted(cursor.places.items()):
        numbers += [lane, place.offset, place.seq, place.until]
    body = bytes([VERSION]) + b"".join(map(varint.encode, numbers))
    return base64.urlsafe_b64encode(body + _tag(body, agreement, secret)).rstrip(b"=").decode()


def decode(text: str, agreement: str, secret: bytes) -> Cursor:
    """Raises Forged for whatever `encode` did not make for this agreement under this secret; it quotes nothing."""
    if not 0 < len(text) <= MOST_CHARS or not text.isascii():
        raise Forged("not a cursor")
    try:
        whole = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Forged("not a cursor") from None
    body, tag = whole[:-_TAG_BYTES], whole[-_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(body, agreement, secret)) or body[:1] != bytes([VERSION]):
        raise Forged("not a cursor of this feed and agreement")
    found = _parse(body)
    if encode(found, agreement, secret) != text:  # base64 has several texts for the same bytes
        raise Forged("not a cursor")
    return found


def _parse(body: bytes) -> Cursor:
    try:
        turn, at = varint.decode(body, 1)
        count, at = varint.decode(body, at)
        if not 0 < count <= MOST_LANES:
            raise Forged("not a cursor")
        places = {}
        for _ in range(count):
            numbers = []
            for _ in range(4):
                number, at = varint.decode(body, at)
                numbers.append(number)
            places[numbers[0]] = Place(*numbers[1:])
    except (IndexError, Malformed):
        raise Forged("not a cursor") from None
    return Cursor(places, turn)


def _tag(body: bytes, agreement: str, secret: bytes) -> bytes:
    return hmac.digest(secret, _PURPOSE + agreement.encode() + b"\0" + body, "sha256")[:_TAG_BYTES]
