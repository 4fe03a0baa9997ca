"""`bus agreement lint` and `bus agreement plan`: what is wrong with the files, and what putting them into force would do."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer

from bus.cli import frame

if TYPE_CHECKING:
    from bus.platform.planning import Plan

Json = Annotated[bool, typer.Option("--json", help="One JSON document")]
TO_DO = 2
"""Exit status of `plan --exit-code` when there is something to do."""
SOON_DAYS = 30


def add_to(app: typer.Typer) -> None:
    """Make these commands of `bus agreement`."""
    for command in (lint, plan):
        app.command()(command)


def lint(context: typer.Context, json: Json = False) -> None:
    """Check the agreement files against the schemas, and say what will end; no bus is needed. Exit status 64 if one is wrong.

    Example: [bold]bus agreement lint[/]
    """
    from bus.avro import dataset
    from bus.engine import agreements

    settings = frame.settings(context)
    found = agreements.load(settings, dataset.load(settings.schemas))
    now_ms = int(time.time() * 1000)
    remarks = []
    for one in found.values():
        left_days = (one.valid_until_ms - now_ms) / 86_400_000 if one.valid_until_ms is not None else None
        if left_days is not None and left_days <= 0:
            remarks.append((one.id, "has ended", "put 'valid_until' later and have it signed, or remove the file"))
        elif left_days is not None and left_days < SOON_DAYS:
            remarks.append((one.id, f"ends in {left_days:.0f} days", "put 'valid_until' later and have it signed"))
    if json:
        frame.as_json(
            {
                "agreements": list(found),
                "remarks": [{"agreement": name, "remark": said, "remedy": remedy} for name, said, remedy in remarks],
            }
        )
        return
    for name, said, remedy in remarks:
        frame.out().print(f"{name} {said}\n    {remedy}", highlight=False)
    frame.talk(f"{len(found)} agreements, nothing wrong with them.")


def plan(
    context: typer.Context,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit status 2 when there is something to do")] = False,
    json: Json = False,
) -> None:
    """Show what `bus agreement apply` would do: what starts, stops and changes, and topics, users, rights, quotas and schemas.

    Example: [bold]bus agreement plan[/]   or   [bold]bus agreement plan --exit-code --json[/]
    """
    from bus.platform import planning

    found = planning.make(frame.settings(context))
    if json:
        frame.as_json(dataclasses.asdict(found) | {"to_do": bool(found)})
    else:
        _print(found)
    if exit_code and found:
        raise typer.Exit(TO_DO)


def _print(found: Plan) -> None:
    console = frame.out()
    for sign, what, names in (
        ("+", "starts", found.starts),
        ("-", "stops", found.stops),
        ("+", "signature of this home for a mock party:", [f"{name} as {party}" for name, party in found.signs]),
        ("+", "topic", found.topics),
        ("+", "user", found.users),
        ("-", "user (locked)", found.locked),
        ("+", "right", found.rights),
        ("-", "right", found.taken),
        ("~", "quotas of", found.quotas),
        ("+", "schema", found.schemas),
    ):
        for name in names:
            console.print(f"{sign} {what} {name}", highlight=False, markup=False)
    for name, words in found.changes.items():
        console.print(f"~ changes {name}", highlight=False, markup=False)
        for said in words:
            console.print(f"    {said}", highlight=False, markup=False)
    for name, why in found.waits.items():
        console.print(f"! {name} does not deliver: {why}", highlight=False, markup=False)
    frame.talk("Run `bus agreement apply` to do this." if found else "Nothing to do.")
