"""Which processes make up the bus of a home, in the order in which they start."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.platform import sources

SUPERVISOR, KAFKA, POSTGRES, REGISTRY, FEED = "supervisor", "kafka", "postgres", "registry", "feed"
CONTROLLER = "kafka-controller"
"""Kafka's controller alone, which runs for a moment before the broker starts again."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process of the bus itself: `name` is its log's, its metrics' and its record's; SIGTERM stops it."""

    name: str
    command: tuple[str, ...]


def servers(settings: Settings) -> list[str]:
    """The embedded servers this home needs; none where clusters and databases exist already."""
    found = [] if settings.kafka.bootstrap else [KAFKA]
    return found + ([POSTGRES] if sources.domains(settings) else [])


def workers(settings: Settings, datasets: Mapping[str, Dataset]) -> list[Worker]:
    domains = sorted({dataset.domain for dataset in datasets.values()})
    found = [_bus(settings, f"capture-{domain}", "capture", domain) for domain in domains]
    found.append(_bus(settings, "register", "register"))
    if not settings.registry.url:
        found.append(Worker(REGISTRY, (sys.executable, "-m", "bus.registry")))  # is up in half the time that the command takes
    found += [_bus(settings, f"engine-{index}", "engine", str(index)) for index in range(settings.engine.workers)]
    found.append(Worker(FEED, (sys.executable, "-m", "bus.delivery.feed")))
    if settings.ledger.every_seconds > 0:
        found.append(_bus(settings, "ledger", "ledger"))
    if settings.webhooks.allowed_hosts:
        found.append(_bus(settings, "webhooks", "webhooks"))
    faust = (sys.executable, "-m", "faust", "-A", "bus.processors", "worker", "--without-web", "-l", settings.log_level)
    return [*found, Worker("processors", faust)]


def _bus(settings: Settings, name: str, *words: str) -> Worker:
    return Worker(name, (sys.executable, "-m", "bus.cli.main", "--home", str(settings.home), "run", *words))
