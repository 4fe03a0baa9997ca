"""Bringing a registry to the schemas that the bus writes with: our own by its topic, an external one by its REST interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from bus import access
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.config import Settings
from bus.registry import log
from bus.registry.log import RegistryError
from bus.registry.remote import Registry

VISIBLE_SECONDS = 15.0


def ensure(settings: Settings, subjects: Mapping[str, Any], levels: Mapping[str, str] = MappingProxyType({})) -> dict[str, int]:
    """Make each schema (parsed JSON) its subject's latest version, give subjects these compatibility levels, and give the ids, by
    subject. Raises RegistryError.

    Whoever asks has looked at compatibility already: what both parties of an agreement have signed may break its level.
    """
    if settings.registry.url:
        config = access.confluent(settings, "admin")
        return _through(Registry.of(settings), lambda: log.read(config), subjects, levels)
    return log.ensure(settings, subjects, levels)


def _through(
    registry: Registry, read: Callable[[], Catalogue], subjects: Mapping[str, Any], levels: Mapping[str, str]
) -> dict[str, int]:
    """Register through the REST interface what is not there. All processes of the bus read ids from this cluster's `_schemas`,
    so they must stand there, too, with the ids that the registry answers.
    """
    found = read()
    wanted = {subject: schema for subject, schema in subjects.items() if found.propose(subject, schema)}
    opened = [subject for subject in wanted if subject in levels and found.level(subject)]
    for subject in opened:
        registry.set_level(subject, "NONE")
    given = {subject: registry.register(subject, schema) for subject, schema in wanted.items()}
    for subject in sorted({*opened, *log.differing(found, levels)}):
        registry.set_level(subject, levels[subject])
    deadline = time.monotonic() + VISIBLE_SECONDS
    while True:
        found = read()
        try:
            ids = {subject: found.id_for(subject, schema) for subject, schema in subjects.items()}
        except CatalogueError as error:
            if time.monotonic() > deadline:
                raise RegistryError(
                    f"the schema registry at {registry.url} has taken the schemas, but they do not stand as the latest in this "
                    f"cluster's topic _schemas ({error}): it must keep its state there, in Confluent's record layout"
                ) from None
            continue
        if wrong := {subject: number for subject, number in given.items() if ids[subject] != number}:
            raise RegistryError(
                f"the schema registry at {registry.url} and this cluster's _schemas give other ids: {sorted(wrong)[:3]}"
            )
        return ids
