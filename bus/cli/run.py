"""`bus run`: one process of the bus in the foreground. `bus up` runs them all this way."""

from __future__ import annotations

from typing import Annotated

import typer

from bus.cli import frame

app = typer.Typer(no_args_is_help=True)


@app.command()
def capture(context: typer.Context, domain: Annotated[str, typer.Argument(help="The agency's database, such as civil")]) -> None:
    """Capture one agency's database: snapshot, then every committed change.

    Example: [bold]bus run capture civil[/]
    """
    from connectors.capture import process

    process.run(frame.settings(context), domain)


@app.command()
def register(context: typer.Context) -> None:
    """Keep the register's replica up to date.

    Example: [bold]bus run register[/]
    """
    from bus.engine import register as process

    process.run(frame.settings(context))


@app.command()
def engine(context: typer.Context, index: Annotated[int, typer.Argument(min=0, help="This worker's number, from 0")]) -> None:
    """Verify events and deliver them: one worker of the engine.

    Example: [bold]bus run engine 0[/]
    """
    from bus.engine import worker

    worker.run(frame.settings(context), index)


@app.command()
def ledger(context: typer.Context) -> None:
    """Account for every event, again and again, and tell the differences as metrics and log events.

    Example: [bold]bus run ledger[/]
    """
    from bus.ledger import watch

    watch.run(frame.settings(context))


@app.command()
def feed(context: typer.Context) -> None:
    """Serve the HTTP feed: deliveries for agencies that poll.

    Example: [bold]bus run feed[/]
    """
    from bus.delivery.feed import server

    server.run(frame.settings(context))


@app.command()
def registry(context: typer.Context) -> None:
    """Serve the schema registry: Confluent's REST interface over the topic `_schemas`.

    Example: [bold]bus run registry[/]
    """
    from bus.registry import server

    server.run(frame.settings(context))


@app.command()
def webhooks(context: typer.Context) -> None:
    """Send agencies their deliveries as signed webhooks.

    Example: [bold]bus run webhooks[/]
    """
    from bus.delivery import webhooks as process

    process.run(frame.settings(context))
