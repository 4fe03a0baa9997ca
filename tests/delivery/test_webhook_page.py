"""docs/webhooks.md: what it has an agency type verifies what the bus signs, and what it states is so."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from bus.config import ROOT
from bus.delivery import outbox, sender, signing
from bus.delivery.signing import ED25519, HMAC, Key

PAGE = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
(SHOWN,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
KEY, OTHER = Key(ED25519, bytes(range(32))), Key(ED25519, bytes(32))
BODY = b'[{"id": "1"}]'


def shown() -> Any:
    names: dict[str, Any] = {}
    exec(SHOWN, names)
    return names["verify"]


def test_what_is_shown_verifies_what_is_signed_also_while_a_key_is_changed() -> None:
    now = int(time.time())
    for keys in ((KEY,), (OTHER, KEY), (Key(HMAC, bytes(32)), KEY)):
        shown()(KEY.public(), signing.headers(keys, "msg_1", now, BODY), BODY)


def test_and_nothing_else() -> None:
    now = int(time.time())
    good = signing.headers((KEY,), "msg_1", now, BODY)
    wrong: list[tuple[dict[str, str], bytes]] = [
        (good, BODY + b" "),
        (good | {"webhook-id": "msg_2"}, BODY),
        (good | {"webhook-timestamp": str(now + 1)}, BODY),
        (good | {"webhook-signature": ""}, BODY),
        (good | {"webhook-signature": good["webhook-signature"].replace("v1a", "v1")}, BODY),
        (signing.headers((OTHER,), "msg_1", now, BODY), BODY),
        (signing.headers((KEY,), "msg_1", now - 400, BODY), BODY),
        (signing.headers((KEY,), "msg_1", now + 400, BODY), BODY),
    ]
    for headers, body in wrong:
        with pytest.raises(ValueError, match=r"no signature|too old"):
            shown()(KEY.public(), headers, body)


def test_its_numbers_are_those_of_the_code() -> None:
    hours = sum(outbox.SCHEDULE_SECONDS) / 3_600
    for text in (
        f"at most {outbox.MAX_RUN_EVENTS} events",
        f"within {sender.TIMEOUT_SECONDS:.0f} seconds",
        f"{hours:.1f} hours in all",
        f"While {outbox.MAX_WAITING:,} events wait",
    ):
        assert text in PAGE
    assert outbox.FAILURES_TO_OPEN == len(outbox.SCHEDULE_SECONDS) == 10
