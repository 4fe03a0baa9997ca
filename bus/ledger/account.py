"""The account: for every dataset and agreement, captured = delivered + withheld by reason + dead-lettered.

Agreements may have changed meanwhile: audit lines say at which offsets, and what one that was switched on got of its past.
Three independent witnesses are held against each other: the databases (final tables, and the journal that mock agencies
keep), the decisions on record in `verified.*`, and what really lies in the agencies' topics. Every sum that does not add
up becomes a problem in words; words carry names and counts, never a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bus.avro.dataset import Dataset
from bus.core import topics
from bus.core.outcome import Outcome
from bus.ledger.agreed import Agreed
from bus.ledger.decoding import Decoder
from bus.ledger.state import Difference, Fold

Record = Any
"""A confluent_kafka Message, or anything with its methods value, partition, offset and headers."""
Read = Callable[[str], Iterable[Record]]


@dataclass(slots=True)
class DatasetAccount:
    captured: Counter[str] = field(default_factory=Counter)
    """Change events by op."""
    dead: Counter[str] = field(default_factory=Counter)
    """Dead letters by code."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """The gravest status of each verified event; NONE where nobody stands in the row."""
    state: Difference | None = None


@dataclass(slots=True)
class AgreementAccount:
    delivered: int = 0
    """As they came."""
    withheld: Counter[str] = field(default_factory=Counter)
    past: Counter[str] = field(default_factory=Counter)
    """By outcome: of what came before it was switched on or while it was being given its past (then also NOT_IN_FORCE above)."""
    dead_lettered: int = 0


@dataclass(slots=True)
class Account:
    datasets: dict[str, DatasetAccount] = field(default_factory=dict)
    agreements: dict[str, AgreementAccount] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """As JSON-ready values, with `conservation.ok` true only when nothing was found."""
        return {
            "captured": {n: sum(d.captured.values()) for n, d in self.datasets.items()},
            "verdicts": {n: dict(d.verdicts) for n, d in self.datasets.items()},
            "dead_lettered": {n: dict(d.dead) for n, d in self.datasets.items() if d.dead},
            "agreements": {
                n: {"delivered": a.delivered, "withheld": dict(a.withheld), "dead_lettered": a.dead_lettered}
                | ({"past": dict(a.past)} if a.past else {})
                for n, a in self.agreements.items()
            },
            "conservation": {
                "ok": not self.problems,
                "events": sum(sum(d.captured.values()) for d in self.datasets.values()),
                "tables": {n: asdict(d.state) for n, d in self.datasets.items() if d.state},
                "problems": self.problems,
            },
        }


_GRAVITY = {"MATCH": 0, "NO_PIN": 1, "NOT_FOUND": 2, "MISMATCH": 3}
_ENGINE_CODES = frozenset({"BAD_FRAME", "UNKNOWN_SCHEMA", "MALFORMED", "TOO_LARGE", "OLD_SCHEMA"})


@dataclass(slots=True)
class DatasetInput:
    """One dataset, the agreements on it, and where its truth stands (None: no database to compare with)."""

    dataset: Dataset
    agreements: tuple[str, ...]
    dsn: str | None = None
    committed: Mapping[int, int] | None = None
    """xid -> change events that the agency's own journal says it committed to this table."""


def settle(
    inputs: Iterable[DatasetInput], read: Read, decoder: Decoder, progress: Callable[[str], None] = lambda _: None
) -> Account:
    """Read all topics once and add up. `read(topic)` gives a topic's committed records; run it when the bus is at rest."""
    account = Account()
    agreed = Agreed.of(read(topics.AUDIT), decoder)
    for entry in inputs:
        name = entry.dataset.name
        progress(name)
        book = account.datasets[name] = DatasetAccount()
        seen = _changes(entry, read, decoder, book, account.problems)
        _dead(entry, read, book, account, agreed)
        _verified(entry, read, decoder, book, account, seen, agreed)
    for agreement, past in agreed.past.items():
        account.agreements.setdefault(agreement, AgreementAccount()).past = past
    for agreement, party in account.agreements.items():
        progress(agreement)
        _deliveries(agreement, read, decoder, party, account.problems)
    return account


def _changes(entry: DatasetInput, read: Read, decoder: Decoder, book: DatasetAccount, problems: list[str]) -> dict[bytes, int]:
    """Count the change events, fold them into a table and compare. Returns the ids that could be decoded, with offsets."""
    fold, ids, streamed = Fold(entry.dataset), dict[bytes, int](), Counter[int]()
    repeated = unreadable = 0
    for record in read(entry.dataset.topic):
        try:
            event = decoder.decode(record.value())
        except Exception:  # whatever is wrong with the bytes, the engine's dead letter has to account for it
            unreadable += 1
            book.captured["unreadable"] += 1
            continue
        copy = any(name == topics.REDRIVEN_HEADER for name, _ in record.headers() or ())
        repeated += event["event_id"] in ids and not copy
        ids[event["event_id"]] = record.offset()
        book.captured[event["op"]] += 1
        fold.add(event)
        if not event["source"]["snapshot"] and not copy:
            streamed[event["source"]["xid"]] += 1
    if repeated:
        problems.append(f"{entry.dataset.topic}: {repeated} change events stand there more than once")
    if entry.dsn:
        book.state = fold.compare(entry.dsn)
        if not book.state.ok:
            problems.append(f"{entry.dataset.name}: table and topic differ: {asdict(book.state)}")
    if entry.committed is not None:
        problems.extend(_journal(entry.dataset.name, entry.committed, streamed))
    return ids


def _journal(name: str, committed: Mapping[int, int], streamed: Mapping[int, int]) -> list[str]:
    """Transactions older than the first streamed one are covered by the snapshot, whose effect the fold has compared."""
    first = min(streamed, default=None)
    wrong = [x for x, n in committed.items() if first is not None and x >= first and streamed.get(x, 0) != n]
    phantom = [x for x in streamed if x not in committed]
    problems = []
    if wrong:
        problems.append(f"{name}: {len(wrong)} transactions have another number of events than changes, first xid {min(wrong)}")
    if phantom:
        problems.append(f"{name}: {len(phantom)} transactions were captured that were never committed, first xid {min(phantom)}")
    return problems


def _dead(entry: DatasetInput, read: Read, book: DatasetAccount, account: Account, agreed: Agreed) -> None:
    name, topic = entry.dataset.name, entry.dataset.topic
    for agreement in entry.agreements:
        account.agreements.setdefault(agreement, AgreementAccount())
    for record in read(topics.dead(name)):
        headers = dict(record.headers() or ())
        code = (headers.get("x-dead-code") or b"?").decode()
        book.dead[code] += 1
        if code in _ENGINE_CODES:
            offset = int(headers.get("x-original-offset") or 0)
            for agreement in agreed.on(name, topic, record.partition(), offset, entry.agreements):
                account.agreements.setdefault(agreement, AgreementAccount()).dead_lettered += 1


def _verified(
    entry: DatasetInput,
    read: Read,
    decoder: Decoder,
    book: DatasetAccount,
    account: Account,
    changes: Mapping[bytes, int],
    agreed: Agreed,
) -> None:
    """Each change event must be verified once, with one decision for each agreement then on the dataset, or be a dead letter."""
    name, topic, ids = entry.dataset.name, entry.dataset.topic, set[bytes]()
    repeated = incomplete = 0
    for record in read(topics.verified(name)):
        event = decoder.decode(record.value())
        repeated += event["event_id"] in ids
        ids.add(event["event_id"])
        statuses = [v["status"] for v in event["verification"]]
        book.verdicts[max(statuses, key=_GRAVITY.__getitem__) if statuses else "NONE"] += 1
        offset = changes.get(event["event_id"], 0)
        expected = agreed.on(name, topic, record.partition(), offset, entry.agreements)
        incomplete += sorted(d["agreement"] for d in event["decisions"]) != expected
        for decision in event["decisions"]:
            party = account.agreements.setdefault(decision["agreement"], AgreementAccount())
            if decision["outcome"] == Outcome.DELIVERED.value:
                party.delivered += 1
            else:
                party.withheld[decision["outcome"]] += 1
    engine_dead = sum(n for code, n in book.dead.items() if code in _ENGINE_CODES)
    captured = sum(book.captured.values())
    if repeated:
        account.problems.append(f"verified.{name}: {repeated} events stand there more than once")
    if incomplete:
        account.problems.append(f"verified.{name}: {incomplete} events lack the decision of an agreement, or have one too many")
    if captured != len(ids) + engine_dead:
        account.problems.append(f"{name}: captured {captured}, verified {len(ids)} + dead letters {engine_dead}")
    if stray := len(ids - changes.keys()):
        account.problems.append(f"verified.{name}: {stray} events that nobody captured")


def _deliveries(agreement: str, read: Read, decoder: Decoder, book: AgreementAccount, problems: list[str]) -> None:
    """What lies in the agency's topic: as many as decided, no id twice, `seq` dense from 1 in each lane."""
    ids, lanes = set[bytes](), dict[int, int]()
    count = repeated = gaps = 0
    for record in read(topics.agency(agreement)):
        delivery = decoder.decode(record.value())
        count += 1
        repeated += delivery["event_id"] in ids
        ids.add(delivery["event_id"])
        lane = record.partition()
        gaps += delivery["seq"] != lanes.get(lane, 0) + 1
        lanes[lane] = delivery["seq"]
    decided = book.delivered + book.past[Outcome.DELIVERED.value]
    if count != decided:
        problems.append(f"agency.{agreement}: {decided} deliveries decided, {count} delivered")
    if repeated:
        problems.append(f"agency.{agreement}: {repeated} deliveries stand there more than once")
    if gaps:
        problems.append(f"agency.{agreement}: seq breaks off {gaps} times")
