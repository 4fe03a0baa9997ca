"""`bus catalog`: what there is to subscribe to, whose it is, who gets it already, and who may ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli import frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from bus.config import Settings
    from bus.subscription.catalog import Entry, Shared

_NOT_RUNNING = "not running"


def _known_datasets(incomplete: str) -> list[str]:
    """For the shell's completion: nothing, rather than an error, where there is nothing to read."""
    from bus import config
    from bus.avro import dataset

    try:
        return [name for name in dataset.load(config.load().schemas) if name.startswith(incomplete)]
    except (ValueError, OSError):
        return []


def catalog(
    context: typer.Context,
    dataset: Annotated[
        str | None, typer.Argument(help="One dataset, such as civil.birth; left out: all", autocompletion=_known_datasets)
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="DIR", help="Write the catalogue as web pages into this directory")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False,
) -> None:
    """Show datasets: owner, fields with type, tag and meaning, freshness, the agreements on them, who may ask for them.

    Example: [bold]bus catalog[/]   or   [bold]bus catalog civil.birth[/]   or   [bold]bus catalog --html pages[/]
    """
    import time
    from dataclasses import asdict

    from bus.subscription import catalog as catalogue
    from bus.subscription import files, freshness

    settings = frame.settings(context)
    read, now_ms = files.read_with_standings(settings), int(time.time() * 1000)
    found = catalogue.entries(read.datasets, read.agreements, lambda one: read.state(one, now_ms))
    if dataset is not None:
        catalogue.find("dataset", dataset, found)
    if html is not None:
        _write_pages(settings, read, html, now_ms)
        return
    newest = freshness.newest_ms(settings, read.datasets)
    if json:
        listed = [asdict(entry) | {"freshness": _freshness(entry, newest, now_ms)} for entry in found.values()]
        frame.as_json(next((one for one in listed if one["dataset"] == dataset), listed))
    elif dataset is None:
        frame.out().print(_overview(found, newest, now_ms))
        frame.talk("`bus catalog DATASET` has the fields; docs/subscribing.md says how to ask for them.")
    else:
        _show(found[dataset], newest, now_ms)


def _write_pages(settings: Settings, read: Any, place: Path, now_ms: int) -> None:
    from bus.subscription import pages

    written = pages.write(settings, read, place, now_ms)
    frame.talk(f"{written} files written: open {place / 'index.html'}")


def _freshness(entry: Entry, newest: Mapping[str, int | None] | None, now_ms: int) -> dict[str, Any]:
    """{"state": "running" | "not running", "newest_event": ISO 8601 or null, "age_seconds": number or null}."""
    from bus.subscription import words

    at = newest.get(entry.dataset) if newest is not None else None
    return {
        "state": _NOT_RUNNING if newest is None else "running",
        "newest_event": None if at is None else words.instant(at),
        "age_seconds": None if at is None else max(0.0, (now_ms - at) / 1000),
    }


def _age(entry: Entry, newest: Mapping[str, int | None] | None, now_ms: int) -> str:
    from bus.subscription import words

    if newest is None:
        return _NOT_RUNNING
    at = newest.get(entry.dataset)
    return "no event yet" if at is None else words.age((now_ms - at) / 1000)


def _overview(found: Mapping[str, Entry], newest: Mapping[str, int | None] | None, now_ms: int) -> Table:
    from rich.table import Table

    from bus.subscription.catalog import SENSITIVE

    table = Table("dataset", box=None, header_style="bold", pad_edge=False)
    table.add_column("owner")
    for title in ("fields", "personal", "sensitive"):
        table.add_column(title, justify="right")
    table.add_column("newest event")
    table.add_column("agencies")
    table.add_column("what it is")
    for entry in found.values():
        personal = sum(bool(field.personal) for field in entry.fields)
        table.add_row(
            entry.dataset,
            entry.owner,
            str(len(entry.fields)),
            str(personal),
            str(entry.personal(SENSITIVE)),
            _age(entry, newest, now_ms),
            ", ".join(dict.fromkeys(shared.agency for shared in entry.agreements)) or "-",
            _plain(entry.about),
        )
    return table


def _show(entry: Entry, newest: Mapping[str, int | None] | None, now_ms: int) -> None:
    console = frame.out()
    people = ", ".join(f"{p.role} ({p.pin}{', the subject' if p.subject else ''})" for p in entry.people)
    for title, text in (
        ("what it is", entry.about),
        ("owner", entry.owner),
        ("primary key", ", ".join(entry.primary_key)),
        ("people", people or "none"),
        ("newest event", _age(entry, newest, now_ms)),
        ("who may ask", f"{entry.asking.who}, with a purpose; a legal basis: {entry.asking.legal_basis}"),
    ):
        console.print(f"[bold]{title:14}[/]{_plain(text)}", soft_wrap=True)
    console.print()
    console.print(_fields(entry))
    console.print()
    for shared in entry.agreements:
        console.print(f"[bold]{_plain(shared.agreement)}[/] ({shared.state}): {_plain(_opens(shared))}", soft_wrap=True)
    if not entry.agreements:
        console.print("No agreement opens it.")


def _fields(entry: Entry) -> Table:
    from rich.table import Table

    table = Table(
        "field", "type", "personal", "checked with the register as", "meaning", box=None, header_style="bold", pad_edge=False
    )
    for field in entry.fields:
        kind = f"{field.type}, optional" if field.optional else field.type
        table.add_row(*map(_plain, (field.name, kind, field.personal or "-", ", ".join(field.checked_as) or "-", field.meaning)))
    return table


def _opens(shared: Shared) -> str:
    fields = [name if mask == "plain" else f"{name} ({mask})" for name, mask in shared.fields.items()]
    limits = [f"{column} is {' or '.join(values)}" for column, values in shared.where.items()]
    limits += [f"the verdict is {' or '.join(shared.verdicts)}"] if shared.verdicts else []
    return ", ".join(fields) + (f"; only where {' and '.join(limits)}" if limits else "")


def _plain(text: str) -> str:
    """Text of a file as text: nothing in it is a style."""
    from rich.markup import escape

    return escape(text)
