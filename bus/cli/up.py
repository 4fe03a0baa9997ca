"""`bus up`: start the bus of a home and keep it up."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Annotated

import psutil
import typer

from bus.cli import frame
from bus.config import ConfigError, Settings

START_SECONDS = 300.0
_LOOK_SECONDS = 0.05


def up(
    context: typer.Context,
    foreground: Annotated[bool, typer.Option("--foreground", "-f", help="Stay here; Ctrl-C stops the bus")] = False,
) -> None:
    """Start Kafka, PostgreSQL and every process of the bus, and keep them running in the background.

    Agreements and schemas are checked before anything is started. Starting a bus that is up changes nothing, and says so when
    they are not those it was started with. What dies is started again; `bus down` stops everything.

    Example: [bold]bus up[/]   or   [bold]bus --home /srv/bus up --foreground[/]
    """
    start(frame.settings(context), foreground=foreground)


def _check_listeners(settings: Settings) -> None:
    """What would end a process as soon as it starts, said before. Raises ConfigError."""
    from bus.registry.server import require_tls

    for name, one in (("registry", settings.registry), ("feed", settings.feed)):
        require_tls(name, one.host, one.tls_certificate, one.tls_key)
    if settings.webhooks.allowed_hosts:
        from bus.delivery import webhooks

        webhooks.check(settings)


def start(settings: Settings, *, foreground: bool = False) -> None:
    """Returns when the bus is up; in the foreground, when it was stopped.

    Raises ConfigError when it does not come up, or is up with other files or settings; AgreementError, SchemaError and
    PlanError, with nothing started, when the files are wrong.
    """
    from bus.platform import declaration, jars, presence, processes, roster

    if presence.is_up(settings):
        if foreground:
            raise ConfigError(f"the bus in {settings.home} is up already: stop it with `bus down` first")
        _follow(settings, None)
        frame.talk(f"The bus in {settings.home} is up.")
        if changed := presence.changed(settings, declaration.Files.read(settings).digests(settings)):
            raise ConfigError(changed)
        return
    declaration.Files.read(settings)
    _check_listeners(settings)
    if not settings.kafka.bootstrap:
        jars.fetch()  # here, where a person sees the progress
    if foreground:
        from bus.platform import supervisor

        supervisor.Supervisor(settings, frame.talk).run()
        frame.talk(f"Stopped. Data is in {settings.home}; remove that directory to remove it.")
        return
    processes.make_home(settings)
    presence.start_file(settings).unlink(missing_ok=True)
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(settings.home), "up", "--foreground"]
    child = processes.spawn(settings, roster.SUPERVISOR, command)
    try:
        _follow(settings, child)
    except KeyboardInterrupt:
        from bus.cli import down

        frame.talk("Stopping what has started.")
        down.stop(settings)
        raise
    frame.talk("`bus status` shows it at work, `bus down` stops it.")


def _follow(settings: Settings, child: subprocess.Popen[bytes] | psutil.Popen | None) -> None:
    """Tells the steps of a start until it is complete. Raises ConfigError when it fails."""
    from bus.platform import presence

    told = 0
    deadline = time.monotonic() + START_SECONDS
    while True:
        found = presence.read_start(settings) or {"steps": [], "ready": False, "error": ""}
        for step in found["steps"][told:]:
            if child is not None:
                frame.talk(step)
        told = len(found["steps"])
        if found["ready"]:
            return
        if found["error"]:
            raise ConfigError(str(found["error"]))
        if (child is not None and child.poll() is not None) or (child is None and not presence.is_up(settings)):
            raise ConfigError(f"the bus ended while it was starting: see {settings.home}/log/supervisor.log, or run `bus doctor`")
        if time.monotonic() > deadline:
            raise ConfigError(f"the bus is not up after {START_SECONDS:.0f} s: run `bus doctor`")
        time.sleep(_LOOK_SECONDS)
