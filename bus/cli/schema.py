"""`bus schema`: schemas as contracts. What is wrong with them, what a change is, whom it concerns, and how to make it safe."""

from __future__ import annotations

import json as json_module
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli import frame

if TYPE_CHECKING:
    from bus.avro.dataset import Dataset
    from bus.config import Settings
    from bus.contracts.impact import Effect, World

app = typer.Typer(no_args_is_help=True)
SUNSET_DAYS = 180
"""How long the old is kept beside the new, unless --sunset says otherwise."""
_COLOURS = {"fails": "red", "silently changes": "yellow", "loses": "yellow", "nothing": "green"}

Json = Annotated[bool, typer.Option("--json", help="One JSON document")]
New = Annotated[
    Path, typer.Argument(metavar="NEW", help="The proposed schema file: …/<domain>/<table>.avsc, or --dataset names it")
]
OfDataset = Annotated[str, typer.Option("--dataset", metavar="DOMAIN.TABLE", help="Whose schema NEW is (default: from its path)")]


@app.callback()
def schema() -> None:
    """Schemas as contracts: check, compare, foresee, plan."""


@app.command()
def check(
    context: typer.Context,
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]…", help="Files or folders (default: all schemas)")] = None,
    database: Annotated[
        list[str] | None,
        typer.Option(
            "--database", metavar="DOMAIN=DSN", help="Compare the tables of this database; repeatable (default: the bus's)"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Hold every schema against the rules, and against the table behind it where a database can be asked.

    Doc and tags, names and types, people and how they are verified; missing, retyped and new columns. Exit status 1 if anything
    must be mended; a column that the schema does not name is only reported.

    Example: [bold]bus schema check[/]   or   [bold]bus schema check schemas/civil/birth.avsc --json[/]
    """
    from bus.cli.schema_check import run

    found = run(frame.settings(context), paths or [], database or [])
    if json:
        frame.as_json(found.as_json())
    else:
        for problem in found.problems:
            frame.out().print(str(problem), soft_wrap=True, highlight=False, markup=False)
        frame.talk(found.summary())
    raise typer.Exit(1 if found.must_mend else 0)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD")],
    new: Annotated[Path, typer.Argument(metavar="NEW")],
    json: Json = False,
) -> None:
    """What is different between two schema files, in words.

    Example: [bold]bus schema diff schemas/civil/birth.avsc /tmp/birth.avsc[/]
    """
    from bus.contracts.difference import differences

    found = differences(_row(old), _row(new))
    if json:
        frame.as_json([{"what": c.what.value, "field": c.field, "words": str(c)} for c in found])
        return
    for change in found:
        frame.out().print(str(change), soft_wrap=True, highlight=False, markup=False)
    if not found:
        frame.talk("No difference.")


@app.command()
def impact(context: typer.Context, new: New, dataset: OfDataset = "", json: Json = False) -> None:
    """What a proposed schema does to every agreement and every registered reader: fails, silently changes, loses, or nothing.

    Confirmed on recorded records where a bus runs, on generated values otherwise. Exit status 1 if anybody is harmed.

    Example: [bold]bus schema impact /tmp/civil/birth.avsc[/]
    """
    effects = _effects(frame.settings(context), new, dataset)[2]
    if json:
        frame.as_json([_as_json(e) for e in effects])
    else:
        _show(effects)
    raise typer.Exit(1 if any(e.verdict.value != "nothing" for e in effects) else 0)


@app.command()
def evolve(
    context: typer.Context,
    new: New,
    plan: Annotated[bool, typer.Option("--plan", help="Say the steps (the only thing this command does: people carry them out)")],
    dataset: OfDataset = "",
    sunset: Annotated[
        str, typer.Option("--sunset", metavar="DATE", help=f"Day the old ends (default: in {SUNSET_DAYS} days)")
    ] = "",
    json: Json = False,
) -> None:
    """Which steps, in which order, make a change safe: the new beside the old, new topics, a day on which the old ends.

    Example: [bold]bus schema evolve --plan /tmp/civil/birth.avsc --sunset 2027-07-01[/]
    """
    from bus.contracts import steps
    from bus.contracts.difference import differences

    if not plan:
        raise typer.BadParameter("say --plan: this command plans, people carry it out")
    old, proposed, effects = _effects(frame.settings(context), new, dataset)
    columns = {*old.fields, *proposed.fields}
    made = steps.plan(old.name, differences(old.row, proposed.row), effects, _day(sunset), columns)
    if json:
        listed = [{"change": str(p.change), "steps": [{"who": s.who, "text": s.text} for s in p.steps]} for p in made]
        frame.as_json(listed)
        return
    console = frame.out()
    for one in made:
        console.print(str(one.change), style="bold", soft_wrap=True, highlight=False, markup=False)
        for number, step in enumerate(one.steps, start=1):
            console.print(f"  {number}. {step}", soft_wrap=True, highlight=False, markup=False)
    if not made:
        frame.talk("No difference, nothing to do.")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text) if text else date.today() + timedelta(days=SUNSET_DAYS)  # noqa: DTZ011 a person's calendar
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date: write YYYY-MM-DD") from None


def _effects(settings: Settings, path: Path, name: str) -> tuple[Dataset, Dataset, list[Effect]]:
    """The dataset as it is, as proposed, and what the change does."""
    from bus.cli import schema_world
    from bus.contracts.impact import impact as foresee

    world: World = schema_world.read(settings)
    old, new = _proposed(world, path, name)
    return old, new, foresee(schema_world.with_recorded(settings, world, old), new)


def _proposed(world: World, path: Path, name: str) -> tuple[Dataset, Dataset]:
    from bus.avro.dataset import SchemaError, dataset_of

    name = name or f"{path.parent.name}.{path.stem}"
    if name not in world.datasets:
        known = ", ".join(world.datasets)
        raise SchemaError(f"{path}: {name!r} is no dataset: say --dataset, one of {known}")
    old = world.datasets[name]
    return old, dataset_of(_row(path), old.domain, old.table, str(path))


def _row(path: Path) -> dict[str, Any]:
    """A schema file that is a record, as parsed JSON. Raises SchemaError."""
    from bus.avro.dataset import SchemaError
    from bus.contracts import rules

    try:
        row = json_module.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SchemaError(f"{path}: cannot be read as JSON: {error}") from None
    if problem := rules.unsound(row):
        field, reason, remedy = problem
        raise SchemaError(f"{path}: {field + ': ' if field else ''}{reason}: {remedy}")
    found: dict[str, Any] = row
    return found


def _show(effects: list[Effect]) -> None:
    from rich.table import Table

    table = Table("effect", box=None, header_style="bold", pad_edge=False)
    for column in ("who", "agreement", "dataset", "field", "why", "confirmed on"):
        table.add_column(column, overflow="fold")
    for e in effects:
        colour = _COLOURS[e.verdict.value]
        table.add_row(f"[{colour}]{e.verdict.value}[/]", e.who, e.agreement, e.dataset, e.field, e.reason, e.confirmed)
    frame.out().print(table, highlight=False)


def _as_json(effect: Effect) -> dict[str, str]:
    return {
        "verdict": effect.verdict.value,
        "who": effect.who,
        "agreement": effect.agreement,
        "dataset": effect.dataset,
        "field": effect.field,
        "reason": effect.reason,
        "confirmed": effect.confirmed,
    }
