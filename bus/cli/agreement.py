"""`bus agreement`: change what is shared while the bus runs."""

from __future__ import annotations

from typing import Annotated

import typer

from bus.cli import agreement_plan, agreement_state, agreement_trial, frame

app = typer.Typer(no_args_is_help=True)
for part in (agreement_plan, agreement_state, agreement_trial):
    part.add_to(app)


@app.callback()
def agreement() -> None:
    """Agreements of a running bus."""


@app.command()
def apply(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False) -> None:
    """Put the agreement files as they are now into force, all of them or, when anything in them is wrong, none.

    New ones get their topic, schemas, user and rights. Every worker takes the change over between two transactions and records
    at which offsets. What ended gets nothing more. Nothing is restarted.

    Example: [bold]bus agreement apply[/]   or   [bold]bus agreement apply --json[/]
    """
    from bus.platform import declaration

    done = declaration.apply(frame.settings(context))
    told = {"on": done.change.on, "off": done.change.off, "changed": done.change.changed}
    if json:
        frame.as_json(told | {"topics": done.created_topics, "users": done.changed_users, "waits": done.agreed.others()})
        return
    for name, party in done.agreed.signed:
        frame.talk(f"signed   {name} for {party}, a mock party of this home")
    for name, why in done.agreed.others().items():
        frame.talk(f"waits    {name}: {why}")
    for what, names in told.items():
        for name in names:
            frame.out().print(f"{what:8} {name}")
    if done.change:
        frame.talk("Every worker takes the change over between two transactions; bus.audit has the offsets.")
    else:
        frame.talk("Nothing to change.")
