"""Laws of signatures: the specification's own verifiers take them, and nothing that was altered."""

from __future__ import annotations

import base64
import stat
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from bus.config import ConfigError, Settings
from bus.delivery import signing
from bus.delivery.signing import ED25519, HMAC, Key

NAME = "tax.taxpayers"
BODY = '[{"id":"é"}]'.encode()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def verify_ed25519(public: str, headers: dict[str, str], body: bytes) -> bool:
    """By the specification's text: any one signature of the list that this key made."""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    for one in headers["webhook-signature"].split(" "):
        version, _, signature = one.partition(",")
        if version == "v1a":
            try:
                key.verify(base64.b64decode(signature), content)
            except InvalidSignature:
                continue
            return True
    return False


def verify_hmac(shared: str, headers: dict[str, str], body: bytes) -> bool:
    try:
        Webhook(shared).verify(body, headers, json_parse=False)
    except WebhookVerificationError:
        return False
    return True


@given(st.binary(min_size=32, max_size=32), st.text(), st.from_regex("[a-z0-9_]{1,40}", fullmatch=True))
def test_the_specifications_package_and_an_ed25519_verifier_take_what_is_signed(secret: bytes, text: str, identity: str) -> None:
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    keys = (Key(ED25519, secret), Key(HMAC, secret))
    headers = signing.headers(keys, identity, int(time.time()), body)
    assert verify_ed25519(keys[0].public(), headers, body)
    assert verify_hmac(keys[1].shared(), headers, body)


def test_the_specifications_own_example_has_its_signature() -> None:
    """Of the reference libraries' tests."""
    key = Key(HMAC, base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    made = signing.headers((key,), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def altered(headers: dict[str, str], body: bytes) -> list[tuple[dict[str, str], bytes]]:
    found = [(headers, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]) for at in range(len(body)) if body[at] < 128]
    found += [(headers, body + b" "), (headers, body[:-1]), (headers, b"")]
    found += [(headers | {"webhook-id": one}, body) for one in ("msg_2", "msg_1.1", "msg")]
    later = int(headers["webhook-timestamp"]) + 1
    found += [(headers | {"webhook-timestamp": str(one)}, body) for one in (later, later - 2)]
    signatures = headers["webhook-signature"].split(" ")
    swapped = [",".join(["v1a" if one.startswith("v1,") else "v1", one.partition(",")[2]]) for one in signatures]
    return [*found, (headers | {"webhook-signature": " ".join(swapped)}, body), (headers | {"webhook-signature": "v1,"}, body)]


def test_what_was_altered_verifies_nowhere(settings: Settings) -> None:
    ed, mac = signing.with_hmac(settings, NAME)
    headers = signing.headers((ed, mac), "msg_1", int(time.time()), BODY)
    assert verify_ed25519(ed.public(), headers, BODY)
    assert verify_hmac(mac.shared(), headers, BODY)
    for wrong, body in altered(headers, BODY):
        assert not verify_ed25519(ed.public(), wrong, body)
        assert not verify_hmac(mac.shared(), wrong, body)


def test_each_endpoint_has_keys_of_its_own_that_only_their_owner_reads(settings: Settings) -> None:
    one, other = signing.keys(settings, NAME), signing.keys(settings, "tax.other")
    assert one != other
    assert signing.keys(settings, NAME) == one
    assert stat.S_IMODE(signing.file(settings, NAME).stat().st_mode) == 0o600
    assert not [path for path in settings.secret_file("x").parent.iterdir() if path.suffix == ".part"]
    assert repr(one).count("secret") == 0
    headers = signing.headers(one, "msg_1", 1, BODY)
    assert not verify_ed25519(other[0].public(), headers, BODY)


def test_while_a_secret_is_changed_old_and_new_verify_and_afterwards_the_new_one_only(settings: Settings) -> None:
    before = signing.with_hmac(settings, NAME)
    both = signing.rotate(settings, NAME)
    now = int(time.time())
    headers = signing.headers(both, "msg_1", now, BODY)
    assert len(headers["webhook-signature"].split(" ")) == 4
    new = both[2:]
    for ed, mac in (before, new):
        assert verify_ed25519(ed.public(), headers, BODY)
        assert verify_hmac(mac.shared(), headers, BODY)
    with pytest.raises(ConfigError, match="--retire"):
        signing.rotate(settings, NAME)
    assert signing.retire(settings, NAME) == new
    headers = signing.headers(signing.keys(settings, NAME), "msg_1", now, BODY)
    assert not verify_ed25519(before[0].public(), headers, BODY)
    assert not verify_hmac(before[1].shared(), headers, BODY)
    assert verify_hmac(new[1].shared(), headers, BODY)
    with pytest.raises(ConfigError, match="--rotate"):
        signing.retire(settings, NAME)


@pytest.mark.parametrize("text", ["", "[]", "{}", '[{"kind":"v1"}]', '[{"kind":"v2","secret":"AAAA"}]', "[1]", "null"])
def test_a_file_that_holds_no_keys_is_refused_and_not_quoted(settings: Settings, text: str) -> None:
    place = signing.file(settings, NAME)
    place.parent.mkdir(parents=True)
    place.write_text(text)
    with pytest.raises(ConfigError, match="holds no keys of a webhook"):
        signing.keys(settings, NAME)


def test_a_secret_for_the_agency_goes_to_a_new_file_of_mode_0600(tmp_path: Path) -> None:
    place = tmp_path / "tax.secret"
    signing.save(place, "whsec_x\n")
    assert (place.read_text(), stat.S_IMODE(place.stat().st_mode)) == ("whsec_x\n", 0o600)
    with pytest.raises(ConfigError, match="is there already"):
        signing.save(place, "whsec_y\n")
    assert place.read_text() == "whsec_x\n"
