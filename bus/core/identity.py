"""Keys that stand for people and rows without naming them.

A PIN never is a Kafka key, a label or a log field; what stands for it is a keyed hash under a secret of the bus.
The person key is HMAC-SHA-256 truncated to 16 bytes (RFC 2104; truncation as in RFC 4868).
Row keys and agreement pseudonyms are keyed BLAKE2b (RFC 7693, section 2.9), which costs half as much per call.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

Keyed = Callable[[bytes], bytes]

KEY_BYTES = 16
SECRET_BYTES = 32
ROW_KEY, PSEUDONYM = b"bus.row", b"bus.pseudonym"
"""Names that keep the hashes of one secret apart (RFC 7693, section 2.8: personalization)."""


def person_key(secret: bytes, pin: bytes) -> bytes:
    """16 bytes for the PIN's UTF-8 bytes. Empty PINs have no key: the caller uses `row_key` instead."""
    return hmac.digest(secret, pin, "sha256")[:KEY_BYTES]


def row_key(secret: bytes, dataset: str, primary_key: bytes) -> bytes:
    """16 bytes for one row: `primary_key` is the concatenation of the key columns' Avro encodings, in schema order."""
    head = dataset.encode() + b"\0"
    return hashlib.blake2b(head + primary_key, key=secret, digest_size=KEY_BYTES, person=ROW_KEY).digest()


def agreement_secret(master: bytes, agreement: str) -> bytes:
    """The 32-byte key of one agreement, so that two agencies cannot join their streams on what we hash for them."""
    return hashlib.blake2b(agreement.encode(), key=master, digest_size=SECRET_BYTES, person=b"bus.agreement").digest()


def pseudonym(secret: bytes, value: bytes) -> bytes:
    """16 bytes: a keyed pseudonym of `value` under an agreement's secret."""
    return hashlib.blake2b(value, key=secret, digest_size=KEY_BYTES, person=PSEUDONYM).digest()


def row_keys(secret: bytes, dataset: str) -> Keyed:
    """`row_key` of one dataset, with the secret taken in once: a third less work a call."""
    begun = hashlib.blake2b(dataset.encode() + b"\0", key=secret, digest_size=KEY_BYTES, person=ROW_KEY)
    return _continue(begun)


def pseudonyms(secret: bytes) -> Keyed:
    """`pseudonym` under one secret, taken in once."""
    return _continue(hashlib.blake2b(key=secret, digest_size=KEY_BYTES, person=PSEUDONYM))


def _continue(begun: hashlib.blake2b) -> Keyed:
    copy = begun.copy

    def digest(value: bytes) -> bytes:
        state = copy()
        state.update(value)
        return state.digest()

    return digest


def lane_of(key: bytes, lanes: int) -> int:
    """The partition that Kafka's default (murmur2) partitioner gives `key`: the lane of a person or row."""
    return (_murmur2(key) & 0x7FFFFFFF) % lanes


def _murmur2(data: bytes) -> int:
    """Kafka's variant of MurmurHash2 (org.apache.kafka.common.utils.Utils.murmur2), as an unsigned 32-bit int."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
