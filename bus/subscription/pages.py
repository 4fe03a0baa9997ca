"""The catalogue as web pages: an index, a page a dataset, a page an agency, with its AsyncAPI document and contracts beside it.

Plain HTML without scripts and without anything from elsewhere. All text is escaped and in Unicode's composed form (NFC).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from bus.config import Settings
from bus.core import topics
from bus.core.agreement import Agreement, Mask
from bus.subscription import asyncapi, catalog, contract, freshness, place, words
from bus.subscription.asyncapi import Server
from bus.subscription.catalog import Entry, SubscriptionError
from bus.subscription.files import Files

MARKER = "pages.json"
"""Lists what was written, so that the next time what is no more goes away, and nothing else does."""
_TEMPLATES = Path(__file__).parent / "templates"


def write(settings: Settings, files: Files, directory: Path, now_ms: int) -> int:
    """How many files. Into a new or empty directory, or one that was written so before. Raises SubscriptionError."""
    newest = freshness.newest_ms(settings, files.datasets)
    made = pages(files, place.server(settings), newest, now_ms)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in _written_before(directory) - made.keys():
            (directory / name).unlink(missing_ok=True)
        for name, text in made.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (directory / MARKER).write_text(json.dumps(sorted(made), ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise SubscriptionError(f"cannot write {error.filename or directory}: {error.strerror}") from None
    return len(made)


def _written_before(directory: Path) -> set[str]:
    marker = directory / MARKER
    if marker.exists():
        try:
            listed = [Path(str(name)) for name in json.loads(marker.read_text(encoding="utf-8"))]
        except (ValueError, TypeError):
            raise SubscriptionError(f"{marker} is damaged: remove {directory}, and the pages are written anew") from None
        return {name.as_posix() for name in listed if ".." not in name.parts and not name.is_absolute()}
    if any(directory.iterdir()):
        raise SubscriptionError(f"{directory} holds other things: name an empty directory, or a new one")
    return set()


def pages(files: Files, server: Server, newest: Mapping[str, int | None] | None, now_ms: int) -> dict[str, str]:
    """Relative path -> text. `newest` as freshness.newest_ms gives it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    entries = catalog.entries(files.datasets, files.agreements, lambda one: files.state(one, now_ms))
    agencies = [_agency(files, name, entries, server, now_ms) for name in files.agencies()]
    common = {
        "made": words.instant(now_ms - now_ms % 1000),
        "newest": {name: _newest(name, newest) for name in entries},
        "masked": lambda text: words.mask(Mask.of(text)),
    }
    made = {"index.html": environment.get_template("index.html.j2").render(common, entries=entries.values(), agencies=agencies)}
    for name, entry in entries.items():
        checked = any(field.checked_as for field in entry.fields)
        made[f"dataset/{name}.html"] = environment.get_template("dataset.html.j2").render(common, entry=entry, checked=checked)
    for agency in agencies:
        name = agency["name"]
        made[f"agency/{name}.html"] = environment.get_template("agency.html.j2").render(common, agency=agency)
        made[f"agency/{name}.asyncapi.yaml"] = place.as_yaml(asyncapi.document(files, name, server, now_ms))
        for one in agency["agreements"]:
            made[f"agency/{one['id']}.odcs.yaml"] = place.as_yaml(one["contract"])
    return {name: unicodedata.normalize("NFC", text) for name, text in made.items()}


def _newest(name: str, newest: Mapping[str, int | None] | None) -> str:
    if newest is None:
        return "no bus runs"
    at = newest.get(name)
    return "none yet" if at is None else words.instant(at - at % 1000)


def _agency(files: Files, name: str, entries: Mapping[str, Entry], server: Server, now_ms: int) -> dict[str, Any]:
    agreements = [_agreement(files, one, entries, server, now_ms) for one in files.of(name)]
    return {
        "name": name,
        "agreements": agreements,
        "datasets": {delivered["dataset"] for one in agreements for delivered in one["datasets"]},
    }


def _agreement(files: Files, one: Agreement, entries: Mapping[str, Entry], server: Server, now_ms: int) -> dict[str, Any]:
    document = contract.document(files, one, server, now_ms)
    datasets = [
        {
            "dataset": delivered.dataset.name,
            "shared": next(s for s in entries[delivered.dataset.name].agreements if s.agreement == one.id),
            "key": asyncapi.key_words(delivered),
            "fields": contract.data_fields(described),
        }
        for delivered, described in zip(files.delivered(one), document["schema"], strict=True)
    ]
    return {
        "id": one.id,
        "topic": topics.agency(one.id),
        "purpose": one.purpose,
        "legal_basis": one.legal_basis,
        "valid_from": words.instant(one.valid_from_ms),
        "valid_until": None if one.valid_until_ms is None else words.instant(one.valid_until_ms),
        "state": files.state(one, now_ms),
        "contract": document,
        "datasets": datasets,
    }
