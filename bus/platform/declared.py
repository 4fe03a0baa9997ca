"""What a cluster must hold, as values: topics with their partitions and settings, users, and the least rights of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bus.avro.dataset import Dataset
from bus.core import topics
from bus.core.agreement import Agreement, Way
from bus.registry.log import WRITER

MAX_MESSAGE_BYTES = 8_388_608
ENGINE_GROUP = "bus-engine"
_DAY_MS = 86_400_000
_REGISTER_LAG_MS = 365 * _DAY_MS
"""How long the register's old versions stay readable for replays."""
_KEEP = {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": str(MAX_MESSAGE_BYTES)}
_COMPACT = {"cleanup.policy": "compact", "max.message.bytes": str(MAX_MESSAGE_BYTES)}
_STATE = _COMPACT | {"segment.bytes": "4194304", "min.cleanable.dirty.ratio": "0.1"}
"""Small records written in every transaction: small segments, so that a reader from the start has little to skip."""

_AGREEMENTS = _COMPACT | {"min.compaction.lag.ms": str(3_650 * _DAY_MS)}
"""Earlier texts stay readable: what was delivered under one is told by what it opened, and a worker that starts while the newest
publication cannot be used takes the one before."""

Resource = Literal["topic", "group", "transactional_id", "cluster"]
Pattern = Literal["literal", "prefixed"]


@dataclass(frozen=True, slots=True)
class Topic:
    """`about` says what it carries, for people."""

    partitions: int
    about: str
    configs: Mapping[str, str] = field(default_factory=lambda: dict(_KEEP))


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One ALLOW rule. `operation` in Kafka's words: READ, WRITE, CREATE, DESCRIBE, DESCRIBE_CONFIGS."""

    principal: str
    resource: Resource
    name: str
    pattern: Pattern
    operation: str


def topics_of(datasets: Mapping[str, Dataset], agreements: Mapping[str, Agreement], lanes: int) -> dict[str, Topic]:
    """Every topic of the bus, by name."""
    found: dict[str, Topic] = {}
    for dataset in datasets.values():
        found[dataset.topic] = _source(dataset, lanes)
        found[topics.verified(dataset.name)] = Topic(
            lanes, f"verified events of {dataset.name}, each with verdicts and decisions"
        )
        found[topics.dead(dataset.name)] = Topic(lanes, f"events of {dataset.name} that could not be processed, bytes untouched")
    for agreement in agreements.values():
        found[topics.agency(agreement.id)] = Topic(lanes, f"deliveries to {agreement.agency} under {agreement.id}")
    found[topics.AGREEMENTS] = Topic(1, "the agreements in force, in their canonical form; the engine follows it", _AGREEMENTS)
    found[topics.SIGNATURES] = Topic(1, "what the parties of agreements have signed, rejected and revoked", _COMPACT)
    found[topics.AUDIT] = Topic(lanes, "one audit line a lane and transaction of the engine")
    found[topics.LANES] = Topic(lanes, "how far each lane has come: last seqs, offsets of the inputs, policy", _STATE)
    found[topics.POSITIONS] = Topic(1, "how far capture has come in each database", _STATE)
    found[topics.REDRIVEN] = Topic(1, "which dead letters were put through again, each written with its copy", _STATE)
    found[topics.WEBHOOKS] = Topic(1, "where each webhook stands, in places, counts and times", _STATE)
    found[topics.SCHEMAS] = Topic(1, "schemas and their ids, in Confluent's record layout", _COMPACT)
    return found


def _source(dataset: Dataset, lanes: int) -> Topic:
    if dataset.register:
        configs = _COMPACT | {"min.compaction.lag.ms": str(_REGISTER_LAG_MS)}
        return Topic(lanes, "the population register: the latest record of each person", configs)
    return Topic(lanes, f"committed row changes of {dataset.name}")


def principals(datasets: Mapping[str, Dataset], agreements: Mapping[str, Agreement]) -> list[str]:
    """Everybody with a user of their own, but the administrator."""
    captures = sorted({f"capture-{d.domain}" for d in datasets.values()})
    agencies = sorted({f"agency-{a.agency}" for a in agreements.values()})
    return [
        "operator",
        "developer",
        "register",
        "registry",
        "engine",
        "processors",
        "redrive",
        "ledger",
        "feed",
        "webhooks",
        *captures,
        *agencies,
    ]


def rights(datasets: Mapping[str, Dataset], agreements: Mapping[str, Agreement]) -> set[Right]:
    """All rules together. Whatever is not here is forbidden."""
    found = {
        *_engine(datasets),
        *_register(datasets),
        *_registry(),
        *_operator(),
        *_developer(),
        *_processors(),
        *_redrive(datasets),
        *_ledger(datasets),
        *_webhooks(agreements),
        *_feed(agreements),
    }
    for dataset in datasets.values():
        found |= set(_capture(dataset))
    for agreement in agreements.values():
        found |= set(_agency(agreement))
    return found


def _allow(
    principal: str, resource: Resource, names: Iterable[str], operations: str, pattern: Pattern = "literal"
) -> Iterator[Right]:
    for name in names:
        for operation in operations.split():
            yield Right(principal, resource, name, pattern, operation)


def _capture(dataset: Dataset) -> Iterator[Right]:
    who = f"capture-{dataset.domain}"
    yield from _allow(who, "topic", [dataset.topic], "WRITE")
    yield from _allow(who, "topic", [topics.dead(f"{dataset.domain}.")], "WRITE", "prefixed")
    yield from _allow(who, "topic", [topics.POSITIONS], "READ WRITE")
    yield from _allow(who, "topic", [topics.SCHEMAS], "READ")
    yield from _allow(who, "transactional_id", [who], "WRITE")
    yield from _allow(who, "group", [who], "READ")


def _register(datasets: Mapping[str, Dataset]) -> Iterator[Right]:
    sources = [d.topic for d in datasets.values() if d.register]
    yield from _allow("register", "topic", [*sources, topics.POSITIONS, topics.SCHEMAS], "READ")
    yield from _allow("register", "group", ["register"], "READ")


def _registry() -> Iterator[Right]:
    yield from _allow("registry", "topic", [topics.SCHEMAS], "READ WRITE")
    yield from _allow("registry", "topic", [topics.AGREEMENTS], "READ")
    yield from _allow("registry", "transactional_id", [WRITER], "WRITE")
    yield from _allow("registry", "group", ["registry"], "READ")


def _engine(datasets: Mapping[str, Dataset]) -> Iterator[Right]:
    inputs = [d.topic for d in datasets.values()]
    told = [topics.AGREEMENTS, topics.SIGNATURES, topics.LANES, topics.SCHEMAS, topics.POSITIONS]
    yield from _allow("engine", "topic", [*inputs, *told], "READ")
    yield from _allow("engine", "topic", [topics.verified("")], "READ", "prefixed")
    yield from _allow("engine", "topic", [topics.AUDIT, topics.LANES], "WRITE")
    yield from _allow("engine", "topic", [topics.verified(""), topics.agency(""), topics.dead("")], "WRITE", "prefixed")
    yield from _allow("engine", "group", [ENGINE_GROUP], "READ")
    yield from _allow("engine", "transactional_id", ["engine-"], "WRITE", "prefixed")


def _operator() -> Iterator[Right]:
    yield from _allow("operator", "topic", ["*"], "READ DESCRIBE_CONFIGS")
    yield from _allow("operator", "group", ["*"], "DESCRIBE")
    yield from _allow("operator", "transactional_id", ["*"], "DESCRIBE")
    yield from _allow("operator", "cluster", ["kafka-cluster"], "DESCRIBE DESCRIBE_CONFIGS")
    yield from _allow("operator", "group", ["operator"], "READ")


def _developer() -> Iterator[Right]:
    yield from _allow("developer", "topic", [topics.verified(""), topics.change(""), topics.agency("")], "READ", "prefixed")
    yield from _allow("developer", "topic", [topics.SCHEMAS], "READ")
    yield from _allow("developer", "topic", [topics.SANDBOX_PREFIX], "READ WRITE CREATE DESCRIBE_CONFIGS", "prefixed")
    yield from _allow("developer", "group", ["developer"], "READ", "prefixed")
    yield from _allow("developer", "transactional_id", [topics.SANDBOX_PREFIX], "WRITE", "prefixed")


def _processors() -> Iterator[Right]:
    yield from _allow("processors", "topic", [topics.verified("")], "READ", "prefixed")
    yield from _allow("processors", "topic", [topics.SCHEMAS], "READ")
    yield from _allow("processors", "topic", ["processors"], "READ WRITE CREATE DESCRIBE_CONFIGS", "prefixed")
    yield from _allow("processors", "group", ["processors"], "READ", "prefixed")


def _redrive(datasets: Mapping[str, Dataset]) -> Iterator[Right]:
    """The one user beside capture that writes to inputs: what it writes there are copies of dead letters."""
    inputs = [d.topic for d in datasets.values()]
    yield from _allow("redrive", "topic", [*inputs, topics.REDRIVEN], "READ WRITE")
    yield from _allow("redrive", "topic", [topics.dead("")], "READ", "prefixed")
    yield from _allow("redrive", "topic", [topics.AGREEMENTS, topics.SCHEMAS], "READ")
    yield from _allow("redrive", "group", ["redrive"], "READ")
    yield from _allow("redrive", "group", [ENGINE_GROUP], "DESCRIBE")  # in whose name the agreements are read
    yield from _allow("redrive", "transactional_id", ["redrive"], "WRITE")


def _ledger(datasets: Mapping[str, Dataset]) -> Iterator[Right]:
    """Reads all that is accounted for, and writes nothing."""
    inputs = [d.topic for d in datasets.values()]
    yield from _allow("ledger", "topic", [*inputs, topics.AUDIT, topics.LANES, topics.SCHEMAS], "READ")
    yield from _allow("ledger", "topic", [topics.verified(""), topics.agency(""), topics.dead("")], "READ", "prefixed")
    yield from _allow("ledger", "group", ["ledger"], "READ")


def _webhooks(agreements: Mapping[str, Agreement]) -> Iterator[Right]:
    """Topics of agreements in force that are delivered this way, and no others."""
    sent = [topics.agency(a.id) for a in agreements.values() if a.delivery.way is Way.WEBHOOK]
    told = [topics.AGREEMENTS, topics.SIGNATURES, topics.SCHEMAS]
    yield from _allow("webhooks", "topic", [*sent, *told, topics.WEBHOOKS], "READ")
    yield from _allow("webhooks", "topic", [topics.WEBHOOKS], "WRITE")
    yield from _allow("webhooks", "group", ["webhooks"], "READ")
    yield from _allow("webhooks", "transactional_id", ["webhooks"], "WRITE")


def _feed(agreements: Mapping[str, Agreement]) -> Iterator[Right]:
    """Reads what it serves and what decides on it, from offsets that its askers name: no group, and writes nothing."""
    served = [topics.agency(one.id) for one in agreements.values() if one.delivery.way is Way.FEED]
    yield from _allow("feed", "topic", [topics.AGREEMENTS, topics.SIGNATURES, topics.SCHEMAS, *served], "READ")


def _agency(agreement: Agreement) -> Iterator[Right]:
    """The topic of an agreement in force and no other, so that one that ends takes its right along. Groups: 'agency-tax' and what
    begins with 'agency-tax.', so that 'tax' cannot pass for 'tax-office'.
    """
    if agreement.delivery.way is not Way.TOPIC:
        return
    who = f"agency-{agreement.agency}"
    yield from _allow(who, "topic", [topics.agency(agreement.id)], "READ")
    yield from _allow(who, "group", [who], "READ")
    yield from _allow(who, "group", [f"{who}."], "READ", "prefixed")
