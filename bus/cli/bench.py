"""`bus bench`: what this bus does beside what else one would take, and what things cost as they grow."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bus.cli import frame

app = typer.Typer(invoke_without_command=True)


@app.callback()
def bench(
    context: typer.Context,
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
    with_capture: Annotated[
        bool, typer.Option("--with-capture/--without-capture", help="Then also `bus bench capture`, as it is by default")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="A row for each run as one JSON document")] = False,
) -> None:
    """Measure the engine beside Kafka Streams: the same people and change events, on one embedded broker, in turn, every output
    checked.

    Takes a quarter of an hour on two cores. Exit status 1 when an engine's outputs are wrong. docs/performance.md says what is
    measured and how. The commands below measure other things, with options of their own.

    Example: [bold]bus bench[/]   or   [bold]bus bench --rounds 1 --seconds 0 --without-streams --home /tmp/bench[/]
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped, as on Ctrl-C
    if context.invoked_subcommand is not None:
        return
    from bus.bench import capture as measuring
    from bus.bench import run, table
    from bus.bench.filling import Load

    rows = run.measure(run.Order(Load(events, people, seed, workers), rounds, rate, seconds, not without_streams, home))
    captured = measuring.measure(measuring.Order(), frame.talk) if with_capture else []
    _tell(rows + captured, json, lambda _: "\n".join([table.table(rows), *([_captured(captured)] if captured else [])]))
    _exit_unless_right(rows + captured)


@app.command()
def capture(
    rows: Annotated[int, typer.Option(min=1, help="Rows that are there for the snapshot")] = 500_000,
    inserts: Annotated[int, typer.Option(min=1, help="Rows inserted while nobody reads")] = 300_000,
    updates: Annotated[int, typer.Option(min=1, help="Of the snapshot's rows, updated while nobody reads")] = 100_000,
    rate: Annotated[int, typer.Option(min=1, help="Single-row transactions a second for the latency")] = 500,
    seconds: Annotated[int, typer.Option(min=0, help="How long each latency is measured; 0: not at all")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each, in turn, after a smaller one to warm up")] = 2,
    seed: Annotated[int, typer.Option(help="Same seed, same rows")] = 1,
    without_debezium: Annotated[bool, typer.Option("--without-debezium", help="Ours alone")] = False,
    json: Annotated[bool, typer.Option("--json", help="A row for each phase as one JSON document")] = False,
) -> None:
    """Measure the capture beside Debezium: one table, one PostgreSQL, one broker, in turn, exactly once, every event checked.

    Takes ten minutes and 6 GB of disk. Exit status 1 when the events of either do not give the table again.

    Example: [bold]bus bench capture[/]   or   [bold]bus bench capture --rows 20000 --inserts 20000 --updates 5000 --rounds 1[/]
    """
    from bus.bench import capture as measuring

    if updates > rows:
        raise typer.BadParameter("as many as there are rows at most", param_hint="--updates")
    order = measuring.Order(rows, inserts, updates, rate, seconds, rounds, seed, not without_debezium)
    found = measuring.measure(order, frame.talk)
    _tell(found, json, _captured)
    _exit_unless_right(found)


Rows = list[dict[str, Any]]


def _tell(rows: Rows, json: bool, shown: Callable[[Rows], str]) -> None:
    if json:
        frame.as_json(rows)
    else:
        print(shown(rows))


def _captured(rows: Rows) -> str:
    from bus.bench import capture_shown

    return capture_shown.table(rows)


def _exit_unless_right(rows: Rows) -> None:
    from bus.bench import table

    if problems := table.failed(rows):
        frame.talk("\n".join(f"FAILED: {problem}" for problem in problems))
        raise typer.Exit(1)


@app.command()
def restart(
    people: Annotated[int, typer.Option(min=100, max=10_000_000, help="People in the register")] = 10_000_000,
    backlog: Annotated[int, typer.Option(min=1, help="Events that wait at each start")] = 10_000,
    restarts: Annotated[int, typer.Option(min=1, help="Starts that count of each way, after one that does not")] = 3,
    seed: Annotated[int, typer.Option(help="Same seed, same people and events")] = 1,
    without_streams: Annotated[bool, typer.Option("--without-streams", help="Ours alone: no JDK is needed")] = False,
    json: Annotated[bool, typer.Option("--json", help="A row for each way of starting as one JSON document")] = False,
) -> None:
    """Measure how soon the engine goes on after a restart, beside Kafka Streams: from its start to the first committed output.

    10 million people take 14 GB of disk (in $TMPDIR, removed afterwards), 12 GB of memory for Java, and half an hour.

    Example: [bold]bus bench restart[/]   or   [bold]bus bench restart --people 100000 --restarts 1[/]
    """
    from bus.bench import restart as measuring

    _tell(
        measuring.measure(measuring.Order(people, backlog, restarts, seed, not without_streams), frame.talk),
        json,
        measuring.table,
    )


@app.command()
def past(
    events: Annotated[int, typer.Option(min=1, help="Change events of the past")] = 300_000,
    people: Annotated[int, typer.Option(min=100, help="People in the register")] = 20_000,
    rate: Annotated[int, typer.Option(min=1, help="Live events a second")] = 500,
    seconds: Annotated[int, typer.Option(min=1, help="How long the latency is measured, each time")] = 25,
    agreement: Annotated[str, typer.Option(help="Whose grants the late agreement has")] = "tax.taxpayers",
    json: Annotated[bool, typer.Option("--json", help="A row for each measurement as one JSON document")] = False,
) -> None:
    """Measure what it costs the live stream that an agreement gets its past: latency alone and beside it.

    Example: [bold]bus bench past[/]   or   [bold]bus bench past --events 20000 --seconds 5[/]
    """
    from bus.bench import past as measuring

    found = measuring.measure(measuring.Order(events, people, rate, seconds, agreement), frame.talk)
    _tell(found, json, lambda rows: "\n".join("  ".join(f"{name} {value}" for name, value in row.items()) for row in rows))


@app.command()
def growth(
    people: Annotated[str, typer.Option(help="People in the replica, one plot point each")] = "10000,1000000,10000000",
    agreements: Annotated[str, typer.Option(help="Agreements on one dataset, likewise")] = "1,10,100,300",
    sizes: Annotated[str, typer.Option(help="Bytes of a change event, likewise; 200 is the least")] = "200,2000,20000",
    events: Annotated[int, typer.Option(min=1, help="Events of a round; fewer where they are large")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each point, of which the median counts")] = 7,
    seed: Annotated[int, typer.Option(help="Same seed, same people and events")] = 1,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Where growth-*.svg go; default: no plots")] = None,
    json: Annotated[bool, typer.Option("--json", help="A row for each point as one JSON document")] = False,
) -> None:
    """Measure what an event costs the engine as people, agreements and records grow: in this process, without Kafka.

    10 million people take 8 GB of disk (in $TMPDIR, removed afterwards), 1 GB of memory and some ten minutes on two cores.

    Example: [bold]bus bench growth --plots docs[/]   or   [bold]bus bench growth --people 10000,100000 --rounds 3[/]
    """
    import dataclasses

    from bus.bench import growth as measuring
    from bus.bench import growth_shown

    axes = (_numbers("--people", people, 1, 10_000_000), _numbers("--agreements", agreements, 1, 1_000))
    order = measuring.Order(*axes, _numbers("--sizes", sizes, 200, 1_000_000), events, rounds, seed)
    points = measuring.measure(order, frame.talk)
    for name, drawn in growth_shown.plots(points).items() if plots else ():
        assert plots is not None
        plots.mkdir(parents=True, exist_ok=True)
        (plots / name).write_text(drawn, encoding="utf-8")
    _tell([dataclasses.asdict(point) for point in points], json, lambda _: growth_shown.table(points))


def _numbers(option: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """'1,10' as (1, 10). Raises BadParameter."""
    try:
        found = tuple(sorted({int(one) for one in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < least or found[-1] > most:
        raise typer.BadParameter(f"{text!r}: whole numbers from {least:,} to {most:,}, separated by commas", param_hint=option)
    return found


@app.command()
def registry(
    seconds: Annotated[float, typer.Option(min=1, help="How long each round lasts")] = 10.0,
    connections: Annotated[int, typer.Option(min=1, max=500, help="Kept open, one request at a time on each")] = 8,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    json: Annotated[bool, typer.Option("--json", help="A row for each round as one JSON document")] = False,
) -> None:
    """Measure the schema registry: how soon it answers after its start, and lookups by id a second on one core.

    Example: [bold]bus bench registry[/]   or   [bold]bus bench registry --seconds 3 --rounds 1 --json[/]
    """
    from bus.bench import lookups as measuring

    _tell(measuring.measure(measuring.Order(seconds, connections, rounds), frame.talk), json, measuring.table)
