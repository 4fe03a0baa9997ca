"""The failpoints themselves: off they do nothing, armed they kill exactly there, and a name that is none is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from bus.config import ROOT
from bus.core import failpoint
from bus.core.failpoint import CAPTURE, ENGINE, REDRIVE, WEBHOOKS, Armed, Point

LOOP = "from bus.core import failpoint; [print(n, flush=True) or failpoint.hit(failpoint.Point.AFTER_READ) for n in range(5)]"


def run(armed: dict[str, str]) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name != failpoint.VARIABLE} | armed
    found = subprocess.run([sys.executable, "-c", LOOP], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return found.returncode, found.stdout


@pytest.mark.parametrize(("text", "last"), [("after-read", 0), ("after-read:3", 2), ("after-read:2:10", 1)])
def test_a_process_dies_where_and_when_it_is_told_to(text: str, last: int) -> None:
    assert run({failpoint.VARIABLE: text}) == (-signal.SIGKILL, "".join(f"{n}\n" for n in range(last + 1)))


@pytest.mark.parametrize("armed", [{}, {failpoint.VARIABLE: "before-read:1"}, {failpoint.VARIABLE: "after-read:6"}])
def test_nothing_happens_elsewhere(armed: dict[str, str]) -> None:
    assert run(armed) == (0, "0\n1\n2\n3\n4\n")


@pytest.mark.parametrize("text", ["", "nowhere", "after-read:x", "after-read:1:2:3"])
def test_a_text_that_names_no_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="BUS_FAILPOINT"):
        Armed(text)


def test_every_point_is_the_engines_or_captures_or_of_a_redriving_or_of_webhooks() -> None:
    assert (*ENGINE, *CAPTURE, *REDRIVE, *WEBHOOKS) == tuple(Point)
