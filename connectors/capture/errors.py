"""Why capture cannot go on: a human must mend it, or time will."""

from __future__ import annotations


class Refusal(Exception):
    """A condition that a human must mend. The message says what is wrong and what to do; it never carries a row's values."""


class Misfit(Refusal):
    """A table is not as its schema says. The others need not wait for it.

    `logged`: the log shows by itself from which row on, so that what stands before that can be read. `gone`: it is not the table
    that was captured, or there is none.
    """

    def __init__(self, reason: str, *, logged: bool = False, gone: bool = False) -> None:
        super().__init__(reason)
        self.logged = logged
        self.gone = gone


class KafkaRefusal(Refusal):
    """Kafka is who refuses. An event may be counted that Kafka never took, so the open transaction must not be committed."""


class Interrupted(Exception):
    """A connection was lost, or what we need is not ready yet: everything is opened again after a pause."""


class ProtocolError(Interrupted):
    """The server sent bytes that are not what its protocol says."""


class Unconvertible(ValueError):
    """A column's value does not fit its Avro type. Never carries the value."""
