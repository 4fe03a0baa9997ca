"""The closed lists: what can happen to an event, for one person and for one agreement. Order is wire order; append only."""

from __future__ import annotations

from enum import Enum


class Op(Enum):
    """What happened to a row, in Debezium's letters; W is ours, and only in deliveries."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    WITHDRAWN = "w"


CHANGE_OPS = ("c", "u", "d", "r")
DELIVERY_OPS = ("c", "u", "d", "r", "w")


class Verdict(Enum):
    """The outcome of verification against the population register. Of several roles the gravest counts for the event."""

    MATCH = "MATCH"
    NO_PIN = "NO_PIN"
    NOT_FOUND = "NOT_FOUND"
    MISMATCH = "MISMATCH"


VERDICTS = tuple(v.value for v in Verdict)


class Outcome(Enum):
    """What one agreement made of one event; everything but DELIVERED is a reason for withholding."""

    DELIVERED = "DELIVERED"
    ROW_FILTER = "ROW_FILTER"
    """The row filter does not hold, neither before nor after the change."""
    VERDICT = "VERDICT"
    """The agreement asks for another verdict than the event has."""
    INVISIBLE = "INVISIBLE"
    """An update that changes nothing the agreement can see: the notice itself would leak."""
    NOT_IN_FORCE = "NOT_IN_FORCE"
    """The agreement's validity has not begun or is over; or it is being given its past in this lane, and gets this with it."""


OUTCOMES = tuple(o.value for o in Outcome)


class DeadCode(Enum):
    """Why an event could not be processed. The text never says more than this code: it could carry a person's data."""

    BAD_FRAME = "BAD_FRAME"
    """No magic byte or shorter than the five-byte frame."""
    UNKNOWN_SCHEMA = "UNKNOWN_SCHEMA"
    """The schema id is none of this topic's."""
    MALFORMED = "MALFORMED"
    """The bytes do not fit the schema: truncated, trailing, or an index or length out of bounds."""
    TOO_LARGE = "TOO_LARGE"
    """Larger than the engine's bound for one record."""
    TRUNCATE = "TRUNCATE"
    """The agency truncated the table: the rows are gone and no row event says which."""
    UNCONVERTIBLE = "UNCONVERTIBLE"
    """A column's value does not fit its Avro type (infinity dates, NaN numerics, out of range)."""
    OLD_SCHEMA = "OLD_SCHEMA"
    """Written under an earlier schema of this topic, which today's cannot read."""


class Cause(Enum):
    """What a worker waits for that commits nothing and tries again."""

    REGISTER = "register"
    """The replica is not complete, or too far behind to begin."""
    PRODUCER = "producer"
    """The broker gives no producer."""
    AGREEMENTS = "agreements"
    """There are none that can be used, or a lane stands under newer ones than this worker has."""
    LANES = "lanes"
    """Where the lanes stand cannot be read."""
    TRANSACTION = "transaction"
    """The last one could not be committed."""
