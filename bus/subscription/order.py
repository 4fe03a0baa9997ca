"""What a bundle needs from a bus that runs: the agency's password, the address, the schemas as they are registered."""

from __future__ import annotations

from pathlib import Path

from bus import access
from bus.config import Settings
from bus.core.agreement import Way
from bus.registry import log
from bus.subscription import asyncapi, bundle, contract, files, place
from bus.subscription.bundle import Connection, File, Order
from bus.subscription.catalog import SubscriptionError

PRINCIPAL = "operator"
"""Who reads `_schemas`."""


def files_of(settings: Settings, agency: str, language: str, now_ms: int) -> dict[str, File]:
    """The bundle's files by path: of the agreements that the agency may read by topic now, for one topic that is refused ends a
    consumer of several. Raises SubscriptionError, ConfigError without a bus, CatalogueError without schemas.
    """
    files.read(settings).of(agency)  # whom nobody knows is told so, with the nearest name
    read = files.in_force(settings)
    agreements = tuple(one for one in read.agreements.values() if one.agency == agency and one.delivery.way is Way.TOPIC)
    if not agreements:
        raise SubscriptionError(f"{agency!r} has no agreement in force that is delivered by topic: `bus agreement list` says why")
    connection = _connection(settings, agency)
    where = place.server(settings)
    documents = {"asyncapi.yaml": place.as_yaml(asyncapi.document(read, agency, where, now_ms))}
    for one in agreements:
        documents[f"contracts/{one.id}.odcs.yaml"] = place.as_yaml(contract.document(read, one, where, now_ms))
    known = log.read(access.confluent(settings, PRINCIPAL))
    schemas = bundle.schemas_of(agreements, known)
    for one in agreements:
        for delivered in read.delivered(one):
            known.id_among(delivered.subject, delivered.schema)  # what its records will name is there
    return bundle.files(Order(agency, agreements, connection, schemas, documents, now_ms), language)


def _connection(settings: Settings, agency: str) -> Connection:
    principal = f"agency-{agency}"
    bootstrap = access.bootstrap(settings)
    if not settings.secret_file(f"kafka-{principal}").exists():
        raise SubscriptionError(f"the bus has no user for {agency!r} yet: run `bus agreement apply`, which makes it")
    config = access.confluent(settings, principal)
    ca = settings.kafka.ssl_ca
    return Connection(
        bootstrap=tuple(bootstrap.split(",")),
        protocol=config["security.protocol"],
        mechanism=config["sasl.mechanism"],
        username=config["sasl.username"],
        password=config["sasl.password"],
        ca=_read(Path(ca)) if ca else None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SubscriptionError(f"cannot read the CA {path} (setting kafka.ssl_ca): {error.strerror}") from None
