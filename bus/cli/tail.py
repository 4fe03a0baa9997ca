"""`bus tail`: the newest records of a topic, decoded, personal fields masked."""

from __future__ import annotations

from typing import Annotated

import typer

from bus.cli import frame

_MAX_LAST = 10_000


def tail(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(help="A topic, such as verified.civil.birth; `bus topics` lists them")],
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, max=_MAX_LAST, help="How many of the newest records, over all lanes")
    ] = 5,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line")] = False,
) -> None:
    """Show the newest committed records of a topic. Personal fields are masked, keys shortened; no group's place is moved.

    Example: [bold]bus tail verified.civil.birth --last 2[/]   or   [bold]bus tail bus.audit -f --json[/]
    """
    from json import dumps

    from bus.cli import newest

    shown = 0
    for record in newest.tail(frame.settings(context), topic, last, follow):
        print(dumps(record, ensure_ascii=False) if json else newest.as_text(record), flush=True)
        shown += 1
    if not shown:
        frame.talk(f"{topic} is empty." if last else "Nothing asked for: --last 0 without --follow.")
