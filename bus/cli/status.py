"""`bus status`: what runs, and how far every dataset has come."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bus.cli import frame

if TYPE_CHECKING:
    from rich.table import Table

    from bus.platform.health import Status


def status(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False) -> None:
    """Show processes, ports, and per dataset what was captured, processed and lags. Exit status 1 unless all is up.

    Example: [bold]bus status[/]   or   [bold]bus status --json | jq .datasets[/]
    """
    from bus.platform import health

    found = health.gather(frame.settings(context))
    if json:
        frame.as_json(asdict(found))
    elif not found.processes:
        frame.talk(f"No bus runs in {found.home}: start one with `bus up`.")
    else:
        console = frame.out()
        console.print(_processes(found))
        if found.datasets:
            console.print(_datasets(found))
        if missing := _missing(found):
            console.print(f"\n{missing}", soft_wrap=True)
        if found.held:
            console.print(f"\n[red]Nothing is captured of {', '.join(found.held)}.[/] `bus doctor` says why.", soft_wrap=True)
        if found.waiting:
            console.print(f"\n[yellow]The engine waits: {', '.join(found.waiting)}.[/] `bus doctor` says more.", soft_wrap=True)
        console.print(_last_line(found), soft_wrap=True)
    well = found.supervisor == "up" and all(process.state == "up" for process in found.processes)
    raise typer.Exit(0 if well else 1)


def _processes(found: Status) -> Table:
    from rich.table import Table

    table = Table("process", "state", box=None, header_style="bold", pad_edge=False)
    for title in ("pid", "up for", "memory", "restarts", "metrics"):
        table.add_column(title, justify="right")
    for one in found.processes:
        up = one.state == "up"
        table.add_row(
            one.name,
            "[green]up[/]" if up else "[red]down[/]",
            str(one.pid) if up else "",
            _duration(one.uptime_seconds) if up else "",
            f"{one.memory_bytes / 1e6:.0f} MB" if up else "",
            str(one.restarts) if one.restarts else "",
            f":{one.metrics_port}" if one.metrics_port else "",
        )
    return table


def _datasets(found: Status) -> Table:
    from rich.table import Table

    table = Table("dataset", box=None, header_style="bold", pad_edge=False, title="")
    for title in ("captured", "processed", "lag", "dead letters", "mismatch", "not found"):
        table.add_column(title, justify="right")
    for name, flow in found.datasets.items():
        counted = flow.processed is not None
        verdicts = (flow.verdicts.get(verdict, 0) if counted else None for verdict in ("MISMATCH", "NOT_FOUND"))
        cells = (flow.captured, flow.processed, flow.lag_records, flow.dead_letters, *verdicts)
        table.add_row(name, *("-" if cell is None else f"{cell:,}" for cell in cells))
    return table


def _missing(found: Status) -> str:
    """Whose figures are not there yet; '' when all are, or none are to be expected."""
    if found.supervisor not in ("up", "starting"):
        return ""
    flows = found.datasets.values()
    silent = [
        who
        for who, told in (
            ("capture", bool(flows) and all(flow.captured is not None for flow in flows)),
            ("the engine, which begins when the register is complete", any(flow.processed is not None for flow in flows)),
        )
        if not told
    ]
    return f"No figures yet: waiting for {' and '.join(silent)}." if silent else ""


def _last_line(found: Status) -> str:
    where = ", ".join(f"{name} on 127.0.0.1:{port}" for name, port in found.ports.items())
    people = f"; {found.register_people:,} people in the register" if found.register_people else ""
    notes = {"up": "", "starting": " [yellow]It is starting.[/]", "down": " [red]It is down.[/]"}
    lost = " [red]Its supervisor was killed: `bus up` takes over.[/]"
    return f"\n{found.home}: {where or 'configured servers'}{people}.{notes.get(found.supervisor, lost)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {rest:02} s" if minutes else f"{rest} s"
