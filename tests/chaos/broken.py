"""The real process with something done to it before it runs: `python -m tests.chaos.broken --bug NAME HOME engine-0`.

Nothing of this is in the product: what is to be broken is replaced in the started process.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus import config
from bus.config import ROOT, Settings
from bus.core import failpoint
from bus.engine import worker
from bus.engine.client import Abort, Indefinite
from bus.engine.transaction import Transactions
from tests.chaos import bugs, bugs_capture, planting  # noqa: F401 imported, bugs are in planting.ALL

if TYPE_CHECKING:
    from tests.engine.stage import Stage

EVERY = 3
"""Each third transaction is disturbed."""


def aborting() -> None:
    """The client says of every third transaction that it must be aborted, before anything of its end was sent."""
    honest, count = Transactions.commit, iter(range(1, sys.maxsize))

    def commit(self: Transactions, *given: Any) -> None:
        if next(count) % EVERY == 0:
            raise Abort("as the test wants it")
        honest(self, *given)

    planting.replace(Transactions, "commit", commit)


def leaving_open() -> None:
    """Nobody learns what became of every third transaction; by turns it was committed and was not."""
    honest, count = Transactions.commit, iter(range(1, sys.maxsize))

    def commit(self: Transactions, *given: Any) -> None:
        number = next(count)
        if number % (2 * EVERY) != EVERY:
            honest(self, *given)
        if number % EVERY == 0:
            raise Indefinite("as the test wants it")

    planting.replace(Transactions, "commit", commit)


DISTURBANCES: dict[str, Callable[[], None]] = {"": lambda: None, "abort": aborting, "open": leaving_open}


def start(stage: Stage, process: str, *, bug: str = "", disturbance: str = "", dies_at: str = "") -> None:
    """As `stage.start`. `dies_at`: what BUS_FAILPOINT is to say."""
    line, environment = command(stage.settings.home, process, bug=bug, disturbance=disturbance, dies_at=dies_at)
    with (stage.settings.home / "log" / f"{process}.log").open("ab") as log:
        stage.running[process] = subprocess.Popen(line, stdout=log, stderr=log, cwd=ROOT, env=environment)


def command(
    settings: Path, process: str, *, bug: str = "", disturbance: str = "", dies_at: str = ""
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment. `settings`: a home, or a file with pickled Settings."""
    options = ["--bug", bug, "--disturbance", disturbance]
    line = [sys.executable, "-m", "tests.chaos.broken", *options, str(settings), process]
    return line, dict(os.environ) | ({failpoint.VARIABLE: dies_at} if dies_at else {})


def _settings(place: Path) -> Settings:
    """Of a home, or as a test has written them down."""
    if place.is_dir():
        return config.load(place, env={})
    found: Settings = pickle.loads(place.read_bytes())
    return found


def main() -> None:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument("--bug", default="", choices=["", *(b.name for b in planting.ALL)])
    asked.add_argument("--disturbance", default="", choices=DISTURBANCES)
    asked.add_argument("settings", type=Path, help="a home, or a file with pickled Settings")
    asked.add_argument("process", help="engine-<index> or capture-<database>")
    given = asked.parse_args()
    next((b.plant for b in planting.ALL if b.name == given.bug), lambda: None)()
    DISTURBANCES[given.disturbance]()
    room, _, rest = given.process.partition("-")
    if room == "engine":
        worker.run(_settings(given.settings), int(rest))
    else:
        from connectors.capture import process

        process.run(_settings(given.settings), rest)


if __name__ == "__main__":
    main()
