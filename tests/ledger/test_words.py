"""What is said of a check is no more than what was checked."""

from __future__ import annotations

from typing import Any

import pytest

from bus.cli import ledger, verify_feed

FEED: dict[str, Any] = {"topic": "agency.tax.taxpayers", "principal": "agency-tax", "since": "1m", "seconds": 0.1, "lanes": {}}
ACCOUNT: dict[str, Any] = {"datasets": {}, "agreements": {}, "differences": [], "findings": 0, "seconds": 0.1}


@pytest.mark.parametrize(
    ("records", "ok", "said"), [(0, True, "nothing was checked"), (9, True, "is whole"), (9, False, "is not whole")]
)
def test_a_feed_without_records_is_not_called_whole(
    capsys: pytest.CaptureFixture[str], records: int, ok: bool, said: str
) -> None:
    verify_feed._show(FEED | {"records": records, "ok": ok})
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("records", "ok", "said"),
    [
        (0, True, "There is nothing to account for"),
        (9, True, "Everything is accounted for"),
        (9, False, "does not come out"),
        (0, False, "does not come out"),
    ],
)
def test_an_account_of_nothing_is_not_called_complete(
    capsys: pytest.CaptureFixture[str], records: int, ok: bool, said: str
) -> None:
    ledger._show(ACCOUNT | {"records": records, "audit_lines": records, "ok": ok})
    assert said in capsys.readouterr().out
