"""The topic `bus.webhooks`: where each endpoint stands, and what operators ask of it.

Compacted, one partition. Key = agreement: its state in JSON (places, counts and times only), written by the process `webhooks`
alone, always before something is sent and once more before it waits. Key = `ask/<agreement>/<word>`: when an operator last said
this word, written by the administrator; a state says up to which record it has heard.

All writes go through one transactional id, so that a second process fences the first, which ends. A write that fails ends the
process too: it begins anew from what the topic says.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from bus import access
from bus.config import ConfigError, Settings
from bus.core.topics import WEBHOOKS
from bus.engine import client

PRINCIPAL = GROUP = WRITER = "webhooks"
READ_SECONDS = 30.0
WRITE_SECONDS = 20.0
_OPEN_MS = 10_000
"""How long a writer that died may hold its successor up."""
_POLL_SECONDS = 0.2
_ASK = b"ask/"

Word = Literal["resume", "retry"]
WORDS: tuple[Word, ...] = ("resume", "retry")


class JournalLost(RuntimeError):
    """A state could not be written; the message says why."""


@dataclass(slots=True)
class Contents:
    """`asks`: agreement -> word -> offset of the record that says it."""

    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    asks: dict[str, dict[str, int]] = field(default_factory=dict)

    def take(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        """What is neither a state nor a word is passed over: only the process and the administrator write here."""
        try:
            said = json.loads(value or b"null")
            name = (key or b"").removeprefix(_ASK).decode("ascii").partition("/")[0]
        except ValueError:
            return
        if (key or b"").startswith(_ASK):
            if isinstance(said, dict) and said.get("word") in WORDS:
                self.asks.setdefault(name, {})[said["word"]] = offset
        elif isinstance(said, dict):
            self.states[name] = said


def reader(config: Mapping[str, Any], group: str) -> Consumer:
    """A consumer of the topic's committed records from its beginning; it tells when it is at the end."""
    made = {"group.id": group, "error_cb": client.ignore, "fetch.wait.max.ms": 100}
    consumer = Consumer(dict(config) | client.READER | access.READ_WHOLE | made)
    consumer.assign([TopicPartition(WEBHOOKS, 0, access.FIRST_OFFSET)])
    return consumer


def follow(consumer: Consumer, contents: Contents, seconds: float = _POLL_SECONDS) -> bool:
    """Take in what is there, for at most so long; whether the end was reached. Raises client.HumanNeeded, KafkaException."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        message: Any = consumer.poll(left)
        if message is None:
            return False
        error = message.error()
        if error is None:
            contents.take(message.offset(), message.key(), message.value())
        elif error.code() == KafkaError._PARTITION_EOF:
            return True
        else:
            client.check(error)
    return False


def read(config: Mapping[str, Any], group: str) -> Contents:
    """All that the topic says now. Raises ConfigError, client.HumanNeeded."""
    found, consumer = Contents(), reader(config, group)
    deadline = time.monotonic() + READ_SECONDS
    try:
        while time.monotonic() < deadline:
            if follow(consumer, found):
                return found
    except KafkaException as error:
        raise ConfigError(f"cannot read {WEBHOOKS!r}: {client.text(error)}") from error
    finally:
        consumer.close()
    raise ConfigError(f"the end of {WEBHOOKS!r} was not reached in time: is the broker up? (`bus doctor`)")


def ask(settings: Settings, agreement: str, word: Word, now_ms: int) -> None:
    """An operator's word to the process. Principal `admin`. Raises ConfigError when it was not taken."""
    refused: list[str] = []
    config = {"acks": "all", "message.timeout.ms": int(WRITE_SECONDS * 1000)}
    producer = Producer(access.confluent(settings, "admin") | config)
    value = json.dumps({"word": word, "at_ms": now_ms}).encode()

    def told(error: KafkaError | None, _: object) -> None:
        if error is not None:
            refused.append(error.str())

    producer.produce(WEBHOOKS, value, _ASK + f"{agreement}/{word}".encode(), partition=0, on_delivery=told)
    left = producer.flush(WRITE_SECONDS)
    if refused or left:
        raise ConfigError(f"{WEBHOOKS!r} did not take it: {refused[0] if refused else 'no answer in time'}; try again")


class Journal:
    """Writes states, those that come together in one transaction. `failed`: why nothing can be written any more."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Whatever an earlier process has left open is ended, and that process fenced. Raises KafkaException."""
        made = {
            "transactional.id": WRITER,
            "acks": "all",
            "transaction.timeout.ms": _OPEN_MS,
            "logger": client.QUIET,
            "linger.ms": 0,
        }
        self._producer = Producer(dict(config) | made)
        self._producer.init_transactions(WRITE_SECONDS)
        self.failed = ""
        self._changed = threading.Condition()
        self._pending: dict[str, bytes] = {}
        self._asked = self._written = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, agreement: str, state: Mapping[str, Any]) -> None:
        """Returns once it is committed. Raises JournalLost."""
        value = json.dumps(state, separators=(",", ":")).encode()
        with self._changed:
            self._pending[agreement] = value
            self._asked += 1
            number = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._written >= number or self.failed, WRITE_SECONDS * 3)
            if self._written < number:
                raise JournalLost(self.failed or "no commit in time")

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(WRITE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                taken, self._pending, number = self._pending, {}, self._asked
            reason = self._commit(taken)
            with self._changed:
                self._written = self._written if reason else number
                self.failed = reason
                self._changed.notify_all()
            if reason:
                return

    def _commit(self, taken: Mapping[str, bytes]) -> str:
        try:
            self._producer.begin_transaction()
            for agreement, value in taken.items():
                self._producer.produce(WEBHOOKS, value, agreement.encode(), partition=0)
            self._producer.commit_transaction(WRITE_SECONDS)
        except (KafkaException, BufferError) as error:
            return client.text(error) or "the broker does not take it"
        return ""
