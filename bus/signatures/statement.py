"""An act of a party on an agreement as a signed statement, and where all of them leave the agreement.

A statement names the agreement's grant hash, so it speaks of one text only: an agreement that is changed is another one, which
nobody has signed. It is signed with Ed25519 (RFC 8032) over its canonical JSON (RFC 8785).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bus.core.agreement import GIVER, Agreement

_KIND = "lien-thong/agreement-act/1"
"""In every statement, so that no signature of another purpose can be taken for one."""
MAX_TEXT_CHARS = 500
_HASH_BYTES = 32

Keys = Mapping[str, Collection[Ed25519PublicKey]]
"""Party -> its public keys; any of them will do, so that a key can be changed."""


class Act(Enum):
    SIGN = "sign"
    """The party agrees to the text."""
    REJECT = "reject"
    """It does not, and says why. Final for this text."""
    REVOKE = "revoke"
    """It agreed and ends it, and says why. Final for this text."""


class State(Enum):
    UNSIGNED = "unsigned"
    """A party's signature is missing."""
    AGREED = "agreed"
    """Both have signed, and nobody has taken it back. It delivers within its validity."""
    REJECTED = "rejected"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Statement:
    """`party`: `giver` or the receiving agency; `role`: the office that acts, never a name; `at_ms`: Unix milliseconds."""

    act: Act
    agreement: str
    grant_hash: bytes
    party: str
    at_ms: int
    role: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Signed:
    statement: Statement
    signature: bytes


def key_of(statement: Statement) -> bytes:
    """Each act of each party on each text is kept, whatever follows it."""
    return f"{statement.agreement}/{statement.grant_hash.hex()}/{statement.party}/{statement.act.value}".encode()


def canonical(statement: Statement) -> bytes:
    """RFC 8785: keys are ASCII, numbers whole and below 2^53."""
    content = {
        "act": statement.act.value,
        "agreement": statement.agreement,
        "at_ms": statement.at_ms,
        "grant_hash": statement.grant_hash.hex(),
        "kind": _KIND,
        "party": statement.party,
        "reason": statement.reason,
        "role": statement.role,
    }
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def sign(statement: Statement, key: Ed25519PrivateKey) -> Signed:
    return Signed(statement, key.sign(canonical(statement)))


def encode(signed: Signed) -> bytes:
    """A record's value: {"statement": its canonical form as text, "signature": base64}."""
    text = canonical(signed.statement).decode()
    return json.dumps({"signature": base64.b64encode(signed.signature).decode(), "statement": text}).encode()


def decode(value: bytes) -> Signed:
    """Raises ValueError for anything that `encode` would not write; it quotes nothing."""
    try:
        found = json.loads(value)
        said = json.loads(found["statement"])
        made = Statement(
            Act(said["act"]),
            str(said["agreement"]),
            bytes.fromhex(said["grant_hash"]),
            str(said["party"]),
            int(said["at_ms"]),
            str(said["role"]),
            str(said["reason"]),
        )
        signature = base64.b64decode(found["signature"], validate=True)
        whole = canonical(made).decode() == found["statement"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("not a signed statement") from None
    if not whole or len(made.grant_hash) != _HASH_BYTES:
        raise ValueError("not a signed statement in its canonical form")
    return Signed(made, signature)


def verifies(signed: Signed, keys: Collection[Ed25519PublicKey]) -> bool:
    """Whether one of the party's keys made the signature."""
    content = canonical(signed.statement)
    for key in keys:
        try:
            key.verify(signed.signature, content)
        except InvalidSignature:
            continue
        return True
    return False


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an agreement's text stands. `missing`: parties without a valid signature; `acts`: the valid ones by time."""

    state: State
    missing: tuple[str, ...]
    acts: tuple[Signed, ...]


def parties(agreement: Agreement) -> tuple[str, str]:
    return GIVER, agreement.agency


def standing(agreement: Agreement, said: Collection[Signed], keys: Keys) -> Standing:
    """What the parties' statements make of this text. One that does not verify, or of another text or party, counts nothing."""
    ours = [
        signed
        for signed in said
        if (signed.statement.agreement, signed.statement.grant_hash) == (agreement.id, agreement.grant_hash)
        and signed.statement.party in parties(agreement)
        and verifies(signed, keys.get(signed.statement.party, ()))
    ]
    acts = tuple(sorted(ours, key=lambda signed: (signed.statement.at_ms, signed.statement.act.value)))
    done = {(signed.statement.party, signed.statement.act) for signed in acts}
    missing = tuple(party for party in parties(agreement) if (party, Act.SIGN) not in done)
    kinds = {act for _, act in done}
    if Act.REVOKE in kinds:
        return Standing(State.REVOKED, missing, acts)
    if Act.REJECT in kinds:
        return Standing(State.REJECTED, missing, acts)
    return Standing(State.UNSIGNED if missing else State.AGREED, missing, acts)


def disagreed(agreements: Collection[Agreement], said: Collection[Signed], keys: Keys) -> dict[str, Standing]:
    """Agreement -> where it stands, of those that must not deliver."""
    by_id: dict[str, list[Signed]] = {}
    for signed in said:
        by_id.setdefault(signed.statement.agreement, []).append(signed)
    found = {one.id: standing(one, by_id.get(one.id, ()), keys) for one in agreements}
    return {name: stands for name, stands in found.items() if stands.state is not State.AGREED}
