"""`bus replay`: recorded events, a fixed range of them, once more into a sandbox."""

from __future__ import annotations

from typing import Annotated

import typer

from bus.cli import frame

INTERRUPTED = 130
_POINT = "an offset (of every lane), a time as 2025-07-01T08:00+07:00, how long ago as 15m"


def replay(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="What to replay, such as verified.civil.birth")],
    begin: Annotated[str, typer.Option("--from", metavar="TIME|OFFSET", help=f"First: {_POINT}, or beginning")],
    into: Annotated[
        str, typer.Option("--into", metavar="sandbox.NAME", help="Where to; made with the same lanes when it is not there")
    ],
    end: Annotated[str, typer.Option("--to", metavar="TIME|OFFSET", help=f"End, itself not included: {_POINT}, or now")] = "now",
    speed: Annotated[str, typer.Option("--speed", help="1x: as it was; 10x; max: as fast as it goes")] = "max",
    append: Annotated[bool, typer.Option("--append", help="Write also into a sandbox that holds records")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document about what was done")] = False,
) -> None:
    """Write a range of committed records into a sandbox once more: bytes, keys, headers, times and lanes unchanged.

    The range is fixed when the command starts, and no group's place is moved. Records get the header x-replay-id.
    A sandbox holds what its source holds, personal data included, and for that reason for a week only: docs/replay.md.
    `bus topics` lists sandboxes.

    Example: [bold]bus replay verified.civil.birth --from 15m --into sandbox.births --speed 10x[/]
    """
    from uuid import uuid4

    from bus.replay import job

    order = job.Order(topic, begin, end, into, speed, append)
    report = job.replay(frame.settings(context), order, uuid4().hex)
    if json:
        frame.as_json(report)
    else:
        print(job.as_text(report))
    if not report["complete"]:
        raise typer.Exit(INTERRUPTED)
