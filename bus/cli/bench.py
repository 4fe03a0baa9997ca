"""`bus bench`: the engine beside Kafka Streams on one broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bus.cli import frame


def bench(
    events: Annotated[int, typer.Option(min=1, help="Change events of each of the four domains")] = 250_000,
    people: Annotated[int, typer.Option(min=100, help="People in the register")] = 200_000,
    rounds: Annotated[int, typer.Option(min=0, help="Drains of each engine, in turn, after one to warm up; 0: none")] = 3,
    rate: Annotated[int, typer.Option(min=1, help="Events a second for the latency")] = 2_000,
    seconds: Annotated[int, typer.Option(min=0, help="How long the latency is measured; 0: not at all")] = 60,
    workers: Annotated[int, typer.Option(min=1, max=4, help="Workers of ours, and threads of Kafka Streams")] = 2,
    seed: Annotated[int, typer.Option(help="Same seed, same people and events")] = 1,
    without_streams: Annotated[bool, typer.Option("--without-streams", help="Ours alone: no JDK is needed")] = False,
    home: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Kept afterwards, inputs too, for the next run; default: one that is removed"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A row for each run as one JSON document")] = False,
) -> None:
    """Measure the engine beside Kafka Streams: the same people and events, on one embedded broker, in turn, every output checked.

    Takes a quarter of an hour on two cores. Exit status 1 when an engine's outputs are wrong. docs/performance.md says what is
    measured and how.

    Example: [bold]bus bench[/]   or   [bold]bus bench --rounds 1 --seconds 0 --without-streams --home /tmp/bench[/]
    """
    from bus.bench import run, table
    from bus.bench.filling import Load

    rows = run.measure(run.Order(Load(events, people, seed, workers), rounds, rate, seconds, not without_streams, home))
    if json:
        frame.as_json(rows)
    else:
        print(table.table(rows))
    if problems := table.failed(rows):
        frame.talk("\n".join(f"FAILED: {problem}" for problem in problems))
        raise typer.Exit(1)
