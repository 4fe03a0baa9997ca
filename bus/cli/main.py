"""The command `bus`. Data goes to stdout, talk to stderr; errors that a person can mend are one line, not a traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bus.cli import (
    agreement,
    bench,
    catalog,
    dead,
    demo,
    doctor,
    down,
    explain,
    frame,
    ledger,
    replay,
    run,
    schema,
    simulate,
    status,
    subscriber,
    tail,
    topics,
    up,
    verify_feed,
    webhook,
)

app = typer.Typer(
    name="bus",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Liên Thông: delivers to each agency exactly the rows and fields that its agreement allows.",
    epilog="Begin with: [bold]bus up[/], then [bold]bus status[/]. Where data lies: .bus/ here, or --home.",
)


@app.callback()
def common(
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="Where this bus keeps everything (default: $BUS_HOME, or .bus)"),
    ] = None,
) -> None:
    """Options of every command."""
    if home is not None:
        os.environ["BUS_HOME"] = str(home.absolute())  # for what a command starts


app.command()(demo.demo)
app.command()(up.up)
app.command()(down.down)
app.command()(status.status)
app.command()(doctor.doctor)
app.command()(topics.topics)
app.command()(catalog.catalog)
app.command()(tail.tail)
app.command()(verify_feed.verify_feed)
app.command()(ledger.ledger)
app.command()(explain.explain)
app.command()(replay.replay)
app.command()(simulate.simulate)
app.add_typer(bench.app, name="bench")
app.add_typer(dead.app, name="dead", help="What could not be processed: look at it, and put it through again.")
app.add_typer(agreement.app, name="agreement", help="Change what is shared while the bus runs.")
app.add_typer(schema.app, name="schema", help="Schemas as contracts: check them, and know what a change does before it is made.")
app.add_typer(subscriber.app, name="subscriber", help="What an agency needs to subscribe: interface, contracts, a client.")
app.add_typer(webhook.app, name="webhook", help="Deliveries to an agency's own address: where they stand, keys, sending again.")
app.add_typer(run.app, name="run", help="Run one process of the bus in the foreground; `bus up` runs them all.")


def main() -> None:
    """The entry point. Exit status: 0 done, 1 not well, 2 wrong use of a command, 64 something to mend, 130 interrupted."""
    os.umask(0o077)  # what a bus writes is nobody else's business
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _is_for_people(error):
            raise
        frame.talk(f"bus: {error}")
        sys.exit(frame.USAGE)


def _is_for_people(error: Exception) -> bool:
    """Errors of our own classes say what, where and what to do; any other is a fault of ours and shows where."""
    return type(error).__module__.split(".")[0] in ("bus", "connectors")


if __name__ == "__main__":
    main()
