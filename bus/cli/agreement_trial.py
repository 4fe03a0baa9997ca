"""`bus agreement try` and `bus agreement test`: what an agreement would do, before it does it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bus.cli import frame

Json = Annotated[bool, typer.Option("--json", help="One JSON document")]


def known_agreements(incomplete: str) -> list[str]:
    """For the shell's completion: nothing, rather than an error, where there is nothing to read."""
    from bus import config
    from bus.avro import dataset
    from bus.engine import agreements

    try:
        settings = config.load()
        found = agreements.load(settings, dataset.load(settings.schemas))
    except (ValueError, OSError):
        return []
    return [name for name in found if name.startswith(incomplete)]


def add_to(app: typer.Typer) -> None:
    """Make these commands of `bus agreement`."""
    app.command(name="try")(try_)
    app.command(name="test")(run_tests)


def try_(
    context: typer.Context,
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="An agreement file, in force or not, wherever it lies")],
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="Events recorded since: 30d, 12h, a time as ISO 8601, or beginning")
    ] = "beginning",
    json: Json = False,
) -> None:
    """Try a draft on recorded events: what it would get if it were switched on with 'past: all'. Nothing is delivered or written.

    Deliveries, rows and people per dataset, how often each field is filled, what would be withheld and why, what differs from the
    agreement of the same name that is in force, and example deliveries, masked. Verdicts are those recorded then.

    Example: [bold]bus agreement try new.yaml --since 30d[/]   or   [bold]bus agreement try new.yaml --json[/]
    """
    from datetime import UTC, datetime

    from bus.avro import dataset
    from bus.cli import trial_view
    from bus.engine import agreements
    from bus.trial.draft import try_draft

    settings = frame.settings(context)
    datasets = dataset.load(settings.schemas)
    one = agreements.read(draft, datasets)
    with _bar() as tick:
        trial = try_draft(settings, one, datetime.now(UTC), since, tick)
    if json:
        frame.as_json(trial_view.as_json(trial, datasets))
        return
    console = frame.out()
    for line in trial_view.lines(trial, datasets):
        if isinstance(line, str):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        else:
            console.print(line, highlight=False)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar a dataset on a terminal, nothing elsewhere. Counts offsets, some of which are ends of transactions."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = dict[str, TaskID]()

        def tick(dataset: str, read: int, estimate: int) -> None:
            if dataset not in tasks:
                tasks[dataset] = bar.add_task(dataset, total=estimate)
            bar.update(tasks[dataset], completed=read, total=max(estimate, read))

        yield tick


def run_tests(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]…", help="Such as tax.taxpayers (default: all)", autocompletion=known_agreements),
    ] = None,
    all_tested: Annotated[
        bool, typer.Option("--all-tested", help="An agreement without a test file, or whose tests leave something open, fails")
    ] = False,
    json: Json = False,
) -> None:
    """Run the test files beside the agreements through the engine's own plan, without any server. Exit status 1 if one fails.

    A file NAME.test.yaml says which events go in and which deliveries come out, or why nothing does.

    Example: [bold]bus agreement test[/]   or   [bold]bus agreement test tax.taxpayers --json[/]
    """
    from bus.trial import testing

    report = testing.run(frame.settings(context), ids or [])
    failed = report.failed(all_tested=all_tested)
    if json:
        frame.as_json(report.as_json() | {"passed": not failed})
    else:
        for line in report.lines():
            frame.out().print(line, soft_wrap=True, highlight=False, markup=False)
        frame.talk(report.summary())
    raise typer.Exit(1 if failed else 0)
