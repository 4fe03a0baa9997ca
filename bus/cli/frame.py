"""What all commands share: the home they work on, data on stdout and talk on stderr, and errors as one line.

A command is a module bus/cli/<noun>.py with a function for typer that takes `context: typer.Context`, asks
`frame.settings(context)` for the settings, prints data with `frame.out` or `frame.as_json` and talk with `frame.talk`;
main.py imports the module and adds one line. What takes long to import is imported inside the function.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from bus import config
from bus.config import Settings

USAGE = 64
"""Exit status (EX_USAGE) for anything that the caller can mend: settings, agreements, schemas, a bus that is not up."""


def settings(context: typer.Context) -> Settings:
    """Settings of the home that --home, BUS_HOME or the working directory names. Raises ConfigError."""
    home: Path | None = context.find_root().params.get("home")
    return config.load(home)


def out() -> Console:
    """For data. On a terminal as wide as that; in a pipe without limit, so that no table loses text."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def as_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def talk(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
