"""`bus down`: stop everything that a home runs."""

from __future__ import annotations

import contextlib
import time

import typer

from bus.cli import frame
from bus.config import Settings


def down(context: typer.Context) -> None:
    """Stop every process of this bus, in order, within 5 seconds. Data stays; `bus up` goes on where it stopped.

    Example: [bold]bus down[/]
    """
    settings = frame.settings(context)
    began = time.monotonic()
    if stop(settings):
        frame.talk(
            f"Stopped in {time.monotonic() - began:.1f} s. Data is in {settings.home}; remove that directory to remove it."
        )
    else:
        frame.talk(f"No bus runs in {settings.home}.")


def stop(settings: Settings) -> bool:
    """Whether there was anything to stop. Only processes that this home recorded as its own are ended."""
    import psutil

    from bus.platform import presence, processes, roster, stopping

    found = processes.running(settings, roster.SUPERVISOR)
    anything = found is not None or any(record.process() for record in processes.records(settings))
    if found is not None:
        with contextlib.suppress(psutil.Error):
            found.terminate()
            found.wait(stopping.TOTAL_SECONDS)
        with contextlib.suppress(psutil.Error):
            found.kill()
    stopping.stop_all(settings)
    processes.forget(settings, roster.SUPERVISOR)
    presence.start_file(settings).unlink(missing_ok=True)
    return anything
