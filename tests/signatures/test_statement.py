"""What counts as a party's word on an agreement: its own key's signature over this very text, and nothing else."""

from __future__ import annotations

import dataclasses
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bus.core.agreement import GIVER, Agreement
from bus.signatures import statement
from bus.signatures.statement import Act, Signed, Standing, State, Statement

ONE = Agreement("tax.owners", "tax", "p", "l", (), 0, None, b"h" * 32)
PRIVATE = {party: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n, party in enumerate((GIVER, "tax", "land"), 1)}
KEYS = {party: (key.public_key(),) for party, key in PRIVATE.items()}
TEXT = st.text(max_size=20)
STATEMENTS = st.builds(
    Statement,
    st.sampled_from(Act),
    st.just(ONE.id),
    st.sampled_from((ONE.grant_hash, b"o" * 32)),
    st.sampled_from(sorted(PRIVATE)),
    st.integers(0, 2**53 - 1),
    TEXT,
    TEXT,
)


def says(act: Act, party: str, at_ms: int = 1, **changed: object) -> Signed:
    made = dataclasses.replace(Statement(act, ONE.id, ONE.grant_hash, party, at_ms), **changed)  # type: ignore[arg-type]
    return statement.sign(made, PRIVATE[party])


BOTH = [says(Act.SIGN, GIVER), says(Act.SIGN, "tax", 2)]


def stands(*said: Signed) -> Standing:
    return statement.standing(ONE, said, KEYS)


@given(STATEMENTS)
def test_a_statement_reads_back_as_it_was_signed(made: Statement) -> None:
    signed = statement.sign(made, PRIVATE[made.party])
    assert statement.decode(statement.encode(signed)) == signed
    assert statement.verifies(signed, KEYS[made.party])


def test_the_canonical_form_is_that_of_rfc_8785() -> None:
    made = Statement(Act.REVOKE, "tax.owners", b"\x01" * 32, GIVER, 1_700_000_000_000, "Phòng dữ liệu", 'it "ended"\n')
    assert statement.canonical(made).decode() == (
        '{"act":"revoke","agreement":"tax.owners","at_ms":1700000000000,"grant_hash":"' + "01" * 32 + '",'
        '"kind":"lien-thong/agreement-act/1","party":"giver","reason":"it \\"ended\\"\\n","role":"Phòng dữ liệu"}'
    )


@given(STATEMENTS, st.data())
def test_no_change_of_a_signed_statement_verifies(made: Statement, data: st.DataObject) -> None:
    signed = statement.sign(made, PRIVATE[made.party])
    other = data.draw(STATEMENTS.filter(lambda one: one != made))
    assert not statement.verifies(Signed(other, signed.signature), KEYS[made.party])
    at = data.draw(st.integers(0, 511))
    flipped = bytearray(signed.signature)
    flipped[at // 8] ^= 1 << at % 8
    assert not statement.verifies(Signed(made, bytes(flipped)), KEYS[made.party])
    assert not statement.verifies(signed, KEYS["land" if made.party != "land" else "tax"])


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"null", b"\xff", b'{"statement": "{}", "signature": ""}', b"[" * 100_000])
def test_what_is_no_statement_is_a_value_error_that_quotes_nothing(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a signed statement") as told:
        statement.decode(value)
    assert "{" not in str(told.value)


def test_a_statement_in_another_form_than_the_canonical_is_none() -> None:
    found = json.loads(statement.encode(BOTH[0]))
    spaced = found | {"statement": json.dumps(json.loads(found["statement"]))}
    with pytest.raises(ValueError, match="canonical form"):
        statement.decode(json.dumps(spaced).encode())


def test_both_must_sign() -> None:
    assert stands() == Standing(State.UNSIGNED, (GIVER, "tax"), ())
    assert stands(BOTH[0]).missing == ("tax",)
    assert stands(*BOTH).state is State.AGREED


FORGERIES = {
    "another agreement's": says(Act.SIGN, "tax", agreement="tax.other"),
    "of another text": says(Act.SIGN, "tax", grant_hash=b"o" * 32),
    "of somebody who is no party": says(Act.SIGN, "land"),
    "by another key": Signed(BOTH[1].statement, says(Act.SIGN, "land").signature),
    "the giver's, under the agency's name": Signed(BOTH[1].statement, BOTH[0].signature),
    "of an act that was never meant": Signed(
        dataclasses.replace(says(Act.REJECT, "tax").statement, act=Act.SIGN), BOTH[1].signature
    ),
    "empty": Signed(BOTH[1].statement, b""),
}


@pytest.mark.parametrize("forged", FORGERIES)
def test_a_signature_that_is_not_the_partys_own_on_this_text_counts_nothing(forged: str) -> None:
    found = stands(BOTH[0], FORGERIES[forged])
    if forged == "of an act that was never meant":
        assert statement.verifies(
            BOTH[1], KEYS["tax"]
        )  # the forgery differs in its time only; were it equal it would be no forgery
    assert (found.state, found.missing) == (State.UNSIGNED, ("tax",))


def test_nobody_revokes_or_rejects_for_somebody_else() -> None:
    false = Signed(says(Act.REVOKE, "tax").statement, says(Act.REVOKE, "land").signature)
    assert stands(*BOTH, false, says(Act.REVOKE, "land"), says(Act.REJECT, "tax", grant_hash=b"o" * 32)).state is State.AGREED


@given(st.permutations([*BOTH, says(Act.REVOKE, "tax", 3), says(Act.SIGN, "tax", 4), says(Act.SIGN, GIVER, 5)]))
def test_what_was_revoked_stays_so_whatever_is_signed_afterwards_and_in_whatever_order_it_is_read(said: list[Signed]) -> None:
    assert stands(*said).state is State.REVOKED


def test_what_was_rejected_stays_so() -> None:
    assert stands(BOTH[0], says(Act.REJECT, "tax", 2), says(Act.SIGN, "tax", 3)).state is State.REJECTED


def test_a_party_may_have_several_keys_and_no_key_agrees_to_nothing() -> None:
    fresh = Ed25519PrivateKey.generate().public_key()
    assert statement.standing(ONE, BOTH, KEYS | {"tax": (fresh, *KEYS["tax"])}).state is State.AGREED
    assert statement.standing(ONE, BOTH, KEYS | {"tax": (fresh,)}).missing == ("tax",)
    assert statement.standing(ONE, BOTH, {GIVER: KEYS[GIVER]}).missing == ("tax",)
