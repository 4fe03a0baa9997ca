"""Schemas that follow from a row schema: the change envelope, the verified event, the delivery, the audit line.

The order of fields is the order of bytes and part of the design: a verified event begins with the change event's own
bytes, so the engine appends and never re-encodes.
"""

from __future__ import annotations

from typing import Any

from bus.avro.dataset import Dataset, Schema
from bus.core import outcome

NAMESPACE = "vn.lienthong"
GRANT_HASH_BYTES = 32


def _fixed(name: str, size: int) -> Schema:
    return {"type": "fixed", "name": name, "namespace": NAMESPACE, "size": size}


def _enum(name: str, symbols: tuple[str, ...]) -> Schema:
    return {"type": "enum", "name": name, "namespace": NAMESPACE, "symbols": list(symbols)}


def _record(name: str, namespace: str, fields: list[tuple[str, Any, str]]) -> Schema:
    listed = [{"name": n, "type": t, "doc": doc} | ({"default": None} if _nullable(t) else {}) for n, t, doc in fields]
    return {"type": "record", "name": name, "namespace": namespace, "fields": listed}


def _nullable(avro_type: Any) -> bool:
    return isinstance(avro_type, list) and avro_type[0] == "null"


def plain(schema: Any) -> Any:
    """A schema without the bus's own annotations (they hold no meaning for other people's clients); docs stay."""
    if isinstance(schema, list):
        return [plain(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: v for k, v in schema.items() if k not in ("people", "primary_key", "register", "pii", "compare")}
    if "fields" in kept:
        kept["fields"] = [plain(f) for f in kept["fields"]]
    if isinstance(kept.get("type"), (dict, list)):
        kept["type"] = plain(kept["type"])
    return kept


SOURCE = _record(
    "Source",
    NAMESPACE,
    [
        ("db", "string", "Database the change was committed in"),
        ("schema", "string", "PostgreSQL schema"),
        ("table", "string", "Table"),
        ("system_id", "long", "PostgreSQL system identifier"),
        ("lsn", "long", "Commit LSN; for snapshot rows the consistent point"),
        ("xid", "long", "Transaction id; 0 for snapshot rows"),
        ("ordinal", "int", "Place among the events of this transaction, from 0"),
        ("ts_ms", "long", "Commit time, Unix milliseconds"),
        ("snapshot", "boolean", "Read by the initial snapshot"),
    ],
)


def _change_fields(dataset: Dataset) -> list[tuple[str, Any, str]]:
    row = plain(dataset.row) | {"namespace": f"{NAMESPACE}.{dataset.domain}"}
    return [
        ("event_id", _fixed("EventId", 16), "Derived from the position: the same after every re-read"),
        ("op", _enum("Op", outcome.CHANGE_OPS), "c create, u update, d delete, r read by the snapshot"),
        ("ts_ms", "long", "When capture made the event, Unix milliseconds"),
        ("source", SOURCE, "Where and when it was committed"),
        ("before", ["null", row], "The row before the change"),
        ("after", ["null", f"{row['namespace']}.{row['name']}"], "The row after the change"),
    ]


def change(dataset: Dataset) -> Schema:
    """The envelope capture publishes, with Debezium's field names."""
    return _record("Change", f"{NAMESPACE}.change.{dataset.domain}.{dataset.table}", _change_fields(dataset))


def verified(dataset: Dataset, register: Dataset, *, with_person: bool = True) -> Schema:
    """The change event's fields, then verdicts, the register's record of the subject, and what each agreement made of it."""
    verification = _record(
        "Verification",
        NAMESPACE,
        [
            ("role", "string", "Which person of the row"),
            ("status", _enum("Verdict", outcome.VERDICTS), "Outcome of the comparison with the register"),
            ("mismatched", {"type": "array", "items": "string"}, "Register fields that differ"),
            ("register_offset", ["null", "long"], "Version of the register record: its offset in the person's lane"),
        ],
    )
    decision = _record(
        "Decision",
        NAMESPACE,
        [
            ("agreement", "string", "'<agency>.<name>'"),
            ("outcome", _enum("Outcome", outcome.OUTCOMES), "DELIVERED, or the reason it was withheld"),
        ],
    )
    fields = [
        *_change_fields(dataset),
        ("verification", {"type": "array", "items": verification}, "One entry for each person present in the row"),
        ("decisions", {"type": "array", "items": decision}, "One entry for each agreement on this dataset"),
    ]
    if with_person:
        person = plain(register.row) | {"namespace": f"{NAMESPACE}.{register.domain}"}
        same = dataset.name == register.name
        fields.append(("person", ["null", f"{person['namespace']}.{person['name']}" if same else person], "The subject"))
    return _record("Verified", f"{NAMESPACE}.verified.{dataset.domain}.{dataset.table}", fields)


def delivery(dataset: Dataset, agreement: str, data: list[tuple[str, Any, str]]) -> Schema:
    """What one agency receives of one dataset under one agreement; `data` lists the granted fields with their masked types."""
    namespace = f"{NAMESPACE}.agency.{agreement.replace('-', '_')}.{dataset.domain}_{dataset.table}"
    fields: list[tuple[str, Any, str]] = [
        ("event_id", _fixed("EventId", 16), "Constant over repeats; use it to drop them"),
        ("seq", "long", "Counts the deliveries of this topic and partition without gaps, from 1"),
        ("agreement", "string", "The agreement this was delivered under"),
        ("grant_hash", _fixed("GrantHash", GRANT_HASH_BYTES), "SHA-256 of the agreement's canonical form"),
        ("op", _enum("DeliveryOp", outcome.DELIVERY_OPS), "c, u, d, r, or w: the row is no longer yours to see"),
        ("ts_ms", "long", "Commit time at the source, Unix milliseconds"),
        ("row_key", _fixed("RowKey", 16), "Stands for the row; the same in all deliveries of it under this agreement"),
        ("verdict", ["null", _enum("Verdict", outcome.VERDICTS)], "Null unless the agreement shares it"),
        ("data", ["null", _record("Data", namespace, data)], "The granted fields; null for d and w"),
    ]
    return _record("Delivery", namespace, fields)


def _counts(name: str, fields: list[tuple[str, Any, str]]) -> Schema:
    return {"type": "array", "items": _record(name, NAMESPACE, [*fields, ("count", "long", "Events")])}


def _listed(name: str, fields: list[tuple[str, Any, str]]) -> Schema:
    return {"type": "array", "items": _record(name, NAMESPACE, fields)}


_PLACES = _listed("Place", [("topic", "string", ""), ("next_offset", "long", "")])

_POLICY_CHANGE = _record(
    "PolicyChange",
    NAMESPACE,
    [
        ("before", "string", "SHA-256 over the grant hashes of all agreements until now; empty: the lane's first"),
        ("after", "string", "The same from now on"),
        ("version", "long", "End of bus.agreements when it said this"),
        (
            "agreements",
            _listed(
                "Agreed",
                [
                    ("agreement", "string", ""),
                    ("grant_hash", _fixed("GrantHash", GRANT_HASH_BYTES), "SHA-256 of its canonical form"),
                    ("datasets", {"type": "array", "items": "string"}, "What it opens"),
                ],
            ),
            "All agreements from now on",
        ),
        ("inputs", _PLACES, "The first offset of each input of the lane under these agreements"),
    ],
)
_PAST_SPAN = [
    ("agreement", "string", ""),
    ("topic", "string", "verified.<dataset>"),
    ("first_offset", "long", ""),
    ("next_offset", "long", "One past the last"),
    ("events", "long", "Records read"),
    ("decided", "long", "Of these, decided before when they came: not again"),
]
_CAUGHT_UP = [
    ("agreement", "string", ""),
    ("past", {"type": "array", "items": f"{NAMESPACE}.Place"}, "How far verified.* had been given to it"),
    ("inputs", {"type": "array", "items": f"{NAMESPACE}.Place"}, "The first offset of each input that it gets as it comes"),
]

AUDIT_LINE = _record(
    "AuditLine",
    NAMESPACE,
    [
        ("worker", "string", "Engine worker"),
        ("lane", "int", "Lane"),
        ("decided_at_ms", "long", "Decision time, Unix milliseconds"),
        ("policy", "string", "SHA-256 over the grant hashes in force, hexadecimal"),
        (
            "inputs",
            {
                "type": "array",
                "items": _record(
                    "Input",
                    NAMESPACE,
                    [
                        ("topic", "string", "Input topic"),
                        ("first_offset", "long", "First offset of the batch"),
                        ("next_offset", "long", "One past the last"),
                        ("events", "long", "Records read"),
                        ("dead", "long", "Of these, dead letters"),
                    ],
                ),
            },
            "What was read",
        ),
        ("verdicts", _counts("VerdictCount", [("dataset", "string", ""), ("verdict", "string", "")]), "Verdicts"),
        (
            "outcomes",
            _counts("OutcomeCount", [("agreement", "string", ""), ("dataset", "string", ""), ("outcome", "string", "")]),
            "What each agreement made of the events",
        ),
        (
            "deliveries",
            {
                "type": "array",
                "items": _record(
                    "DeliveryRange",
                    NAMESPACE,
                    [("agreement", "string", ""), ("first_seq", "long", ""), ("last_seq", "long", "")],
                ),
            },
            "The seq numbers given out",
        ),
        ("change", ["null", _POLICY_CHANGE], "Null unless other agreements take effect with this transaction, before its events"),
        ("past", _listed("PastSpan", _PAST_SPAN), "What was given to agreements of what had been verified before"),
        (
            "past_outcomes",
            {"type": "array", "items": f"{NAMESPACE}.OutcomeCount"},
            "What they made of it, apart from `outcomes`; its deliveries are among `deliveries`",
        ),
        ("caught_up", _listed("CaughtUp", _CAUGHT_UP), "Agreements that have their past with this transaction"),
    ],
)
