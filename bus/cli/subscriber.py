"""`bus subscriber`: what an agency needs to subscribe, its own part only: interface, contracts, a client that works."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli import frame

if TYPE_CHECKING:
    from bus.subscription.files import Files

app = typer.Typer(no_args_is_help=True)


class Language(StrEnum):
    PYTHON = "python"
    JAVA = "java"
    NODE = "node"
    KCAT = "kcat"


def _read() -> Files | None:
    """For the shell's completion: nothing, rather than an error, where there is nothing to read."""
    from bus import config
    from bus.subscription import files

    try:
        return files.read(config.load())
    except (ValueError, OSError):
        return None


def _known_agencies(incomplete: str) -> list[str]:
    found = _read()
    return [name for name in found.agencies() if name.startswith(incomplete)] if found else []


def _known_agreements(incomplete: str) -> list[str]:
    found = _read()
    return [name for name in found.agreements if name.startswith(incomplete)] if found else []


Agency = Annotated[str, typer.Argument(help="An agency with an agreement, such as tax", autocompletion=_known_agencies)]
Json = Annotated[bool, typer.Option("--json", help="One JSON document; else YAML")]


@app.callback()
def subscriber() -> None:
    """One agency's view of the bus."""


@app.command()
def describe(context: typer.Context, agency: Agency, json: Json = False) -> None:
    """Print an agency's interface as an AsyncAPI 3.0 document: its topics, login, message schemas and keys, nothing of others.

    Example: [bold]bus subscriber describe tax > tax.asyncapi.yaml[/]
    """
    from bus.subscription import asyncapi, files, place

    settings = frame.settings(context)
    _print(asyncapi.document(files.read_with_standings(settings), agency, place.server(settings), _now_ms()), json)


@app.command()
def contract(
    context: typer.Context,
    agreement: Annotated[str, typer.Argument(help="An agreement, such as tax.taxpayers", autocompletion=_known_agreements)],
    json: Json = False,
) -> None:
    """Print an agreement as a data contract in the Open Data Contract Standard (ODCS) v3.1.

    Example: [bold]bus subscriber contract tax.taxpayers > tax.taxpayers.odcs.yaml[/]
    """
    from bus.subscription import contract as odcs
    from bus.subscription import files, place

    settings = frame.settings(context)
    read = files.read_with_standings(settings)
    _print(odcs.document(read, read.agreement(agreement), place.server(settings), _now_ms()), json)


@app.command()
def bundle(
    context: typer.Context,
    agency: Agency,
    lang: Annotated[Language, typer.Option("--lang", help="What the client is written in")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="An empty directory or a new one (default: AGENCY-LANG here)")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document about what was written")] = False,
) -> None:
    """Write an agency's credentials, schemas, interface, contracts and a consumer that works, with how to run it.

    The directory is yours alone (0700), files with the password 0600. Give it to that agency and to nobody else. Needs a bus that
    runs, whose schemas it takes.

    Example: [bold]bus subscriber bundle tax --lang python --out tax-client[/]
    """
    from bus.subscription import order
    from bus.subscription.bundle import write

    place = out or Path(f"{agency}-{lang.value}")
    made = order.files_of(frame.settings(context), agency, lang.value, _now_ms())
    write(place, made)
    if json:
        files = {name: {"bytes": len(file.content), "secret": file.secret} for name, file in sorted(made.items())}
        frame.as_json({"agency": agency, "language": lang.value, "directory": str(place.absolute()), "files": files})
        return
    for name in sorted(made):
        print(place / name)
    frame.talk(f"The password is in {', '.join(n for n, f in made.items() if f.secret)}. How to run it: {place / 'README.md'}")


def _now_ms() -> int:
    return int(time.time() * 1000)


def _print(document: dict[str, Any], json: bool) -> None:
    if json:
        frame.as_json(document)
        return
    from bus.subscription import place

    print(place.as_yaml(document), end="")
