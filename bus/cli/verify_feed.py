"""`bus verify-feed`: whether an agency's topic lost, repeats or reorders anything, by what its subscriber can see alone."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bus.cli import frame

NOT_WELL = 1


def verify_feed(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="An agency's topic, such as agency.tax.taxpayers; `bus topics` lists them")],
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="TIME|OFFSET", help="Begin later: an offset (of every lane), a time, how long ago as 15m"
        ),
    ] = "beginning",
    json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False,
) -> None:
    """Check that a feed is whole: in every lane `seq` goes up by one, and no event comes twice. Exit status 0 only if so.

    It reads as the agency does, with the agency's user, up to the present end, and looks at no person's data.
    What is missing at the very end of a lane shows when the next delivery comes.

    Example: [bold]bus verify-feed agency.tax.taxpayers[/]   or   [bold]bus verify-feed agency.tax.taxpayers --since 1d --json[/]
    """
    from bus.ledger import subscriber

    def progress(records: int, about: int) -> None:
        frame.talk(f"{records:,} of about {about:,} records read")

    report = subscriber.verify(frame.settings(context), topic, since, progress)
    if json:
        frame.as_json(report)
    else:
        _show(report)
    if not report["ok"]:
        raise typer.Exit(NOT_WELL)


_COLUMNS = ("records", "first_seq", "last_seq", "missing", "late", "repeated", "repeated_events", "foreign")


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("lane", box=None, header_style="bold", pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name.replace("_", " "), justify="right")
    for lane, found in report["lanes"].items():
        table.add_row(lane, *("" if found[name] is None else f"{found[name]:,}" for name in _COLUMNS))
    if report["lanes"]:
        frame.out().print(table)
    for lane, found in report["lanes"].items():
        for line in _findings(found):
            print(f"lane {lane}: {line}")
    about = f"{report['records']:,} records in {report['seconds']:.1f} s, read as {report['principal']}"
    if report["ok"] and not report["records"]:
        print(f"{report['topic']} has no records from {report['since']} on, so nothing was checked: {about}")
    else:
        print(f"{report['topic']} is {'whole' if report['ok'] else 'not whole'}: {about}")


def _findings(found: dict[str, Any]) -> list[str]:
    """In words, the first of each kind."""
    lines = [
        f"seq {first} to {last} are missing" if first < last else f"seq {first} is missing"
        for first, last in found["missing_ranges"]
    ]
    lines += [f"seq {at['seq']} comes late, at offset {at['offset']}" for at in found["late_at"]]
    lines += [f"seq {at['seq']} comes again at offset {at['offset']}" for at in found["repeated_at"]]
    lines += [
        f"the event at offset {at['offset']} was delivered before, in lane {at['first_lane']} at offset {at['first_offset']}"
        for at in found["repeated_events_at"]
    ]
    return lines + [f"the record at offset {at['offset']} is no delivery of this agreement" for at in found["foreign_at"]]
