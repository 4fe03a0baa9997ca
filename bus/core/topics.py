"""Topic names. A dataset is named '<domain>.<table>'; an agreement '<agency>.<name>'."""

from __future__ import annotations

AGREEMENTS = "bus.agreements"
"""Compacted, one partition: the agreements in force, key = agreement; the engine follows it."""
AGREEMENTS_INDEX = b"index"
"""The key of the record there that names every agreement; no agreement's key: those have a dot."""
AUDIT = "bus.audit"
"""One audit line for each lane of each engine transaction."""
LANES = "bus.lanes"
"""Compacted, partition = lane: the last `seq` of each agreement and the inputs' offsets, written in the same transaction."""
POSITIONS = "bus.positions"
"""Compacted, one partition, key = database: how far capture has got, written in the records' own transaction."""
SCHEMAS = "_schemas"
"""Compacted, one partition: schemas and ids in Confluent's record layout."""
REDRIVEN = "bus.redriven"
"""Compacted, one partition, key = a dead letter's place: that it was put through again, written in its copy's transaction."""
REDRIVEN_HEADER = "x-redriven"
"""On the copy of a dead letter in an input topic: '<dead topic>/<lane>/<offset>'."""
SIGNATURES = "bus.signatures"
"""Compacted, one partition: what the parties of agreements have signed, rejected and revoked."""
WEBHOOKS = "bus.webhooks"
"""Compacted, one partition, key = agreement: where its webhook stands, in places, counts and times."""
SANDBOX_PREFIX = "sandbox."


def change(dataset: str, register: bool = False) -> str:
    """Where capture publishes a dataset; the register's own topic has the dataset's bare name."""
    return dataset if register else f"change.{dataset}"


def verified(dataset: str) -> str:
    return f"verified.{dataset}"


def dead(dataset: str) -> str:
    return f"dead.{dataset}"


def agency(agreement: str) -> str:
    return f"agency.{agreement}"
