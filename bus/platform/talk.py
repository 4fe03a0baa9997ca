"""What a person reads on stderr while something takes long: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_STEP_PERCENT = 25


def say(text: str) -> None:
    """One plain line."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def downloading(label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of further bytes received."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total_bytes)
            yield lambda count: bar.advance(task, count)
    else:
        yield _lines(label, total_bytes)


def _lines(label: str, total_bytes: int) -> Callable[[int], None]:
    done, told = 0, -1

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        percent = 100 * done // max(total_bytes, 1)
        if percent // _STEP_PERCENT > told:
            told = percent // _STEP_PERCENT
            say(f"{label}: {percent} % of {total_bytes / 1e6:.0f} MB")

    return advance
