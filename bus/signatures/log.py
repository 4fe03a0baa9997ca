"""The topic `bus.signatures`: every act of every party on every text of an agreement.

Compacted, one partition: key = agreement, grant hash, party and act; value = the signed statement. Nobody needs to trust who
writes there: what does not verify counts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from bus import access
from bus.config import ConfigError, Settings
from bus.core.topics import SIGNATURES
from bus.signatures import statement
from bus.signatures.statement import Signed

READ_SECONDS = 30.0
WRITE_SECONDS = 30.0
_POLL_SECONDS = 0.2
_GROUP = "signatures-unused"
"""Required, never joined."""


def read(config: Mapping[str, Any], group: str = _GROUP, seconds: float = READ_SECONDS) -> list[Signed]:
    """All statements up to the topic's present end. `config`: of a principal that may read it. Raises ConfigError."""
    reading = {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 10,
        "log_level": 0,  # errors come as messages
    }
    consumer = Consumer(dict(config) | reading | access.READ_WHOLE)
    found: dict[bytes, Signed] = {}
    try:
        consumer.assign([TopicPartition(SIGNATURES, 0, access.FIRST_OFFSET)])
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            message: Any = consumer.poll(_POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is None:
                _take(found, message.key() or b"", message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                return list(found.values())
            elif error.code() not in (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                raise ConfigError(f"cannot read {SIGNATURES!r}: {error.str()}")
    except KafkaException as error:
        raise ConfigError(f"cannot read {SIGNATURES!r}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    raise ConfigError(f"the end of {SIGNATURES!r} was not reached in time: is the broker up? (`bus doctor`)")


def _take(found: dict[bytes, Signed], key: bytes, value: bytes | None) -> None:
    """What is no statement, or stands under another one's key, is passed over: it says nothing of any agreement."""
    found.pop(key, None)
    try:
        signed = statement.decode(value or b"")
    except ValueError:
        return
    if statement.key_of(signed.statement) == key:
        found[key] = signed


def write(settings: Settings, acts: Iterable[Signed]) -> None:
    """All of them, acknowledged by every replica. Principal `admin`. Raises ConfigError when one was not taken.

    One that is sent twice says the same twice; an idempotent producer would need half a second to begin.
    """
    refused: list[str] = []

    def told(error: KafkaError | None, _: object) -> None:
        if error is not None:
            refused.append(error.str())

    made = {
        "acks": "all",
        "max.in.flight": 1,
        "partitioner": "murmur2_random",
        "message.timeout.ms": int(WRITE_SECONDS * 1000),
    }
    producer = Producer(access.confluent(settings, "admin") | made)
    for signed in acts:
        producer.produce(SIGNATURES, statement.encode(signed), statement.key_of(signed.statement), on_delivery=told)
    left = producer.flush(WRITE_SECONDS)
    if refused or left:
        raise ConfigError(f"{SIGNATURES!r} did not take a statement: {refused[0] if refused else 'no answer in time'}; try again")
