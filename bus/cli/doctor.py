"""`bus doctor`: find what is wrong, and say what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bus.cli import frame

_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]"}


def doctor(context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False) -> None:
    """Check this bus from Java to replication slots; each line says what was found and what to do. Exit status 1 if one failed.

    Example: [bold]bus doctor[/]   or   [bold]bus doctor --json[/]
    """
    from rich.markup import escape

    from bus.platform import checks

    found = []
    console = frame.out()
    for check in checks.run(frame.settings(context)):
        found.append(check)
        if not json:
            found_text = check.found.replace("\n", "\n    ")
            console.print(f"{_MARKS[check.grade]} {escape(check.name)}: {escape(found_text)}", soft_wrap=True, highlight=False)
            if check.todo:
                console.print(f"    → {escape(check.todo)}", soft_wrap=True, highlight=False)
    if json:
        frame.as_json([asdict(check) for check in found])
    raise typer.Exit(1 if any(check.grade == "failed" for check in found) else 0)
