"""The topic `bus.agreements`: what it says, and how it is brought to the agreement files.

Compacted, one partition: key = agreement, value = its canonical form (bus.engine.agreements.canonical), a tombstone when it
ended. A change is a set and not single records: each publication is one transaction that ends with the record `index`, which
names every agreement and its grant hash. What differs from the newest index is not used at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from bus import access
from bus.config import ConfigError, Settings
from bus.core.agreement import Agreement
from bus.core.topics import AGREEMENTS, AGREEMENTS_INDEX
from bus.engine import agreements, client
from bus.engine.member import GROUP

INDEX = AGREEMENTS_INDEX
WRITER = "agreements"
"""Principal `admin`'s transactional id: a second writer fences the first."""
READ_SECONDS = 30.0
WRITE_SECONDS = 30.0
OPEN_MS = 10_000
"""How long a writer that died may hold its readers up."""
MOST_OLDER = 20
"""Earlier publications that are looked at when the newest cannot be used."""
_POLL_SECONDS = 0.2


class Malformed(ValueError):
    """What the topic says is not a set of agreements; the message names the agreement and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Said:
    """The topic's state at one of its offsets: `values`, canonical forms by key, and the index."""

    version: int
    """Every record before this offset counts."""
    values: Mapping[bytes, bytes]
    index: bytes | None

    def agreements(self) -> dict[str, Agreement]:
        """Raises Malformed."""
        if self.index is None:
            raise Malformed(f"{AGREEMENTS!r} holds no index: run `bus up`, which publishes the agreement files")
        found = dict(_agreement(key, value) for key, value in sorted(self.values.items()))
        if _index(found) != self.index:
            raise Malformed(f"the agreements in {AGREEMENTS!r} are not those that its index names: run `bus agreement apply`")
        return found


@dataclass(slots=True)
class Reading:
    """Records in order, as they are read. Older states are kept until `settle`."""

    _values: dict[bytes, bytes] = field(default_factory=dict)
    _index: bytes | None = None
    _records: list[tuple[int, bytes, bytes | None]] = field(default_factory=list)

    def take(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        self._records.append((offset, key or b"", value or None))

    def newest(self, end: int) -> Said:
        """All of it; `end`: the topic's end."""
        return self._said(self._records, end)

    def older(self) -> Iterator[Said]:
        """The states before the newest publication and those before it, newest first: as each index left them."""
        places = [at for at, (_, key, _) in enumerate(self._records[:-1]) if key == INDEX]
        for at in reversed(places[-MOST_OLDER:]):
            yield self._said(self._records[: at + 1], self._records[at + 1][0])

    def settle(self) -> None:
        """What was read counts: nobody will ask for earlier states."""
        said = self._said(self._records, 0)
        self._values, self._index, self._records = dict(said.values), said.index, []

    def _said(self, records: list[tuple[int, bytes, bytes | None]], end: int) -> Said:
        values, index = dict(self._values), self._index
        for _, key, value in records:
            if key == INDEX:
                index = value
            elif value is None:
                values.pop(key, None)
            else:
                values[key] = value
        return Said(end, values, index)


@dataclass(frozen=True, slots=True)
class Change:
    """What a publication did: ids in order."""

    on: tuple[str, ...]
    off: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.on or self.off or self.changed)


def _agreement(key: bytes, value: bytes) -> tuple[str, Agreement]:
    name = key.decode("ascii", "replace")[:130]
    try:
        made = agreements.parse(value)
    except ValueError as error:
        raise Malformed(f"agreement {name!r}: {error}") from None
    if made.id.encode() != key:
        raise Malformed(f"agreement {name!r} stands under a key that is not its own")
    return made.id, made


def _index(listed: Mapping[str, Agreement]) -> bytes:
    return json.dumps({name: listed[name].grant_hash.hex() for name in sorted(listed)}, separators=(",", ":")).encode()


def reader(config: Mapping[str, Any], wait_ms: int = 100) -> Consumer:
    """A consumer of the topic's committed records from its beginning; it tells when it has been at the end for `wait_ms`."""
    made = {"group.id": GROUP, "error_cb": client.ignore, "fetch.wait.max.ms": wait_ms}
    consumer = Consumer(dict(config) | client.READER | access.READ_WHOLE | made)
    consumer.assign([TopicPartition(AGREEMENTS, 0, access.FIRST_OFFSET)])
    return consumer


def read(config: Mapping[str, Any], seconds: float = READ_SECONDS) -> Said:
    """What the topic says now. `config`: of a principal that may read it. Raises ConfigError, client.HumanNeeded."""
    consumer, found = reader(config, wait_ms=10), Reading()
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            message: Any = consumer.poll(_POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.take(message.offset(), message.key(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                return found.newest(message.offset())
            else:
                client.check(error)
    except KafkaException as error:
        raise ConfigError(f"cannot read {AGREEMENTS!r}: {client.text(error)}") from error
    finally:
        consumer.close()
    raise ConfigError(f"the end of {AGREEMENTS!r} was not reached in time: is the broker up? (`bus doctor`)")


def publish(settings: Settings, listed: Mapping[str, Agreement]) -> Change:
    """Make the topic say exactly these agreements, in one transaction; nothing is written where it says so already.

    Principal `admin`. Topics, schemas and users of the agreements must be there. Raises ConfigError, client.HumanNeeded.
    """
    config = access.confluent(settings, "admin")
    wanted = {name.encode(): agreements.canonical(one) for name, one in listed.items()} | {INDEX: _index(listed)}
    if not _differing(read(config), wanted):
        return Change((), (), ())
    producer = Producer(
        config | {"transactional.id": WRITER, "acks": "all", "partitioner": "murmur2_random", "transaction.timeout.ms": OPEN_MS}
    )
    try:
        producer.init_transactions(WRITE_SECONDS)
        said = read(config)  # now that nobody else can write
        differing = _differing(said, wanted)
        producer.begin_transaction()
        for key in [*sorted(differing - {INDEX}), INDEX]:
            producer.produce(AGREEMENTS, wanted.get(key), key, partition=0)
        producer.commit_transaction(WRITE_SECONDS)
    except KafkaException as error:
        raise ConfigError(f"cannot write {AGREEMENTS!r}: {client.text(error)}") from error
    return _change(said, differing - {INDEX}, wanted)


def _differing(said: Said, wanted: Mapping[bytes, bytes]) -> set[bytes]:
    there = dict(said.values) | ({INDEX: said.index} if said.index is not None else {})
    return {key for key in {*there, *wanted} if there.get(key) != wanted.get(key)}


def _change(said: Said, differing: set[bytes], wanted: Mapping[bytes, bytes]) -> Change:
    def names(keys: set[bytes]) -> tuple[str, ...]:
        return tuple(sorted(key.decode("ascii", "replace") for key in keys))

    there = said.values.keys()
    off = {key for key in differing if key not in wanted}
    return Change(names(differing - there), names(off), names((differing & there) - off))
