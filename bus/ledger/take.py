"""Taking the account of a home: who reads what, and with whose rights. Topics as operator, tables as the capture role,
and, where a mock agency keeps a journal of its own commits, that journal as the agency itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import psycopg
from psycopg import sql

from bus import access
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core.agreement import Agreement
from bus.ledger import reading, rest
from bus.ledger.account import Account, DatasetInput, settle
from bus.ledger.decoding import Decoder
from bus.registry import log as registry

PRINCIPAL = "operator"
_XID_BITS = 0xFFFFFFFF
"""The log carries 32 bits of a transaction id, the journal all 64."""


def await_rest(
    settings: Settings, datasets: Mapping[str, Dataset], timeout_seconds: float, tick: Callable[[str], None] = lambda _: None
) -> None:
    """Block until everything committed so far is processed. Raises rest.NotAtRest."""
    domains = sorted({d.domain for d in datasets.values()})
    dsns = {domain: access.capture_dsn(settings, domain) for domain in domains}
    rest.wait(dsns, access.confluent(settings, PRINCIPAL), [d.topic for d in datasets.values()], timeout_seconds, tick)


def take(
    settings: Settings,
    datasets: Mapping[str, Dataset],
    agreements: Mapping[str, Agreement],
    progress: Callable[[str], None] = lambda _: None,
) -> Account:
    """The whole account of a bus at rest. Reads every topic once, from its beginning."""
    config = access.confluent(settings, PRINCIPAL)
    inputs = [
        DatasetInput(
            dataset=one,
            agreements=tuple(a.id for a in agreements.values() if any(g.dataset == one.name for g in a.grants)),
            dsn=access.capture_dsn(settings, one.domain),
            committed=None if one.domain in settings.postgres.dsn else _journal(access.owner_dsn(settings, one.domain), one),
        )
        for one in datasets.values()
    ]
    return settle(inputs, lambda topic: reading.read(config, topic), Decoder(registry.read(config)), progress)


def _journal(dsn: str, dataset: Dataset) -> dict[int, int] | None:
    """xid -> change events its commits must have led to; None where the database keeps no journal."""
    with psycopg.connect(dsn) as connection:
        if connection.execute("SELECT to_regclass('truth.journal')").fetchone() == (None,):
            return None
        events = sql.SQL("sum(CASE WHEN op = 'u' AND {} THEN 2 ELSE 1 END)").format(_moves(dataset))
        query = sql.SQL("SELECT xid, {} FROM truth.journal WHERE table_name = %s GROUP BY xid").format(events)
        return {xid & _XID_BITS: int(count) for xid, count in connection.execute(query, (dataset.table,))}


def _moves(dataset: Dataset) -> sql.Composable:
    """Whether an update changes the row's primary key or its subject's PIN, so that it is published as d and c."""
    names = {*dataset.primary_key, *(role.pin for role in dataset.people[:1])}
    return sql.SQL("({})").format(sql.SQL(" OR ").join(_differs(column) for column in sorted(names)))


def _differs(column: str) -> sql.Composable:
    return sql.SQL("coalesce(before->>{0}, '') <> coalesce(after->>{0}, '')").format(sql.Literal(column))
