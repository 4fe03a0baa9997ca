"""`bus simulate`: let life go on in the mock agencies."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from bus import access
from bus.cli import frame


def simulate(
    context: typer.Context,
    rate: Annotated[float, typer.Option(min=0.1, help="Row changes a second, over all agencies")] = 50.0,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="How long; without it until Ctrl-C")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same society and same life")] = 1,
    people: Annotated[int | None, typer.Option(min=1, help="Fill empty databases with a society of this size first")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document at the end")] = False,
) -> None:
    """Births, deaths, moves, marriages, land transfers, enrolments and more, in the embedded agencies' databases.

    Where the bus of the home is up, it is also told how long a change takes from its commit to its delivery.

    Example: [bold]bus simulate --rate 200 --seconds 30[/]   or, on empty databases, [bold]bus simulate --people 5000[/]
    """
    from bus.cli import measured
    from bus.platform import presence
    from connectors import society

    settings = frame.settings(context)
    dsns = {domain: access.owner_dsn(settings, domain) for domain in society.domains() if domain not in settings.postgres.dsn}
    if people is not None and society.is_empty(dsns):
        _fill(dsns, people, seed)
    ready = presence.is_up(settings) and (presence.read_start(settings) or {}).get("ready")
    probe = measured.probe(settings) if ready else None
    started = time.monotonic()
    changes = _live(dsns, rate, seconds, seed)
    took = time.monotonic() - started
    total = sum(changes.values())
    latency = None
    if probe is not None:
        probe.stop()
        latency = probe.percentiles()
    if json:
        about = {"changes": changes, "total": total, "seconds": round(took, 3), "rate": round(total / max(took, 0.001), 1)}
        frame.as_json(about | {"latency_ms": latency})
        return
    for name, count in changes.items():
        frame.out().print(f"{name:<26}{count:>10,}")
    if latency is not None and latency["count"]:
        frame.talk(f"From commit to delivery: p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms")
    frame.talk(f"{total:,} row changes in {took:.1f} s, {total / max(took, 0.001):,.0f} a second")


def _fill(dsns: Mapping[str, str], people: int, seed: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from connectors import society

    with Progress(console=Console(stderr=True)) as bars:
        bar = {domain: bars.add_task(f"filling {domain}", total=people) for domain in dsns}
        rows = society.fill(dsns, people, seed, lambda domain, done, _: bars.update(bar[domain], completed=done))
    frame.talk(f"{sum(rows.values()):,} rows about {people:,} people")


def _live(dsns: Mapping[str, str], rate: float, seconds: float | None, seed: int) -> dict[str, int]:
    """Live until the time is over or the first Ctrl-C, which lets what has begun come to its end."""
    from rich.console import Console

    from connectors import society

    stopped = threading.Event()
    former = {s: signal.signal(s, lambda *_: stopped.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    console = Console(stderr=True)
    try:
        if not console.is_terminal:
            return society.live(dsns, rate, seconds, seed, lambda _: None, stopped.is_set)
        with console.status("life begins") as line:
            tick = _told(line.update)
            return society.live(dsns, rate, seconds, seed, tick, stopped.is_set)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _told(say: Callable[[str], None]) -> Callable[[Mapping[str, int]], None]:
    return lambda changes: say(f"{sum(changes.values()):,} row changes so far; Ctrl-C ends it")
