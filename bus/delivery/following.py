"""A thread that follows `bus.agreements` and `bus.signatures`: what ends there ends here, at once.

What was read counts only as long as the broker confirms that there is nothing newer: who has not heard of it for STALE_SECONDS
does not know who may read, and so lets nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import access
from bus.avro.dataset import Dataset
from bus.core.agreement import Agreement, Way
from bus.core.topics import AGREEMENTS, AGREEMENTS_INDEX, SIGNATURES
from bus.delivery.served import MOST_EARLIER, Served, served
from bus.engine import agreements as agreement_files
from bus.engine import client, lanes
from bus.engine.agreement_log import Malformed, Reading
from bus.engine.follower import Follower
from bus.signatures import statement
from bus.signatures.statement import Keys, Signed

STALE_SECONDS = 5.0
LOOK_SECONDS = 0.5
"""How often the broker is asked whether there is anything newer, beside what it sends by itself."""
_POLL_SECONDS = 0.1
_GROUP = "delivery-unused"
"""Required by the client, never joined: nobody has a right to it."""
_TOPICS = (AGREEMENTS, SIGNATURES)
NO_GROUP = (KafkaError.GROUP_AUTHORIZATION_FAILED,)
"""Told to a reader that is in no group, and of no concern to it."""


class Unknown(Exception):
    """Who may read is not known at present; the reason stands in the log."""


class Following:
    """Of the agreements delivered in this `way`, from `start` to `close`. `changed` is called in the thread.

    `keys`: the public keys of the parties of these agreements, as they are now.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        datasets: Mapping[str, Dataset],
        keys: Callable[[Collection[Agreement]], Keys],
        way: Way,
        changed: Callable[[], None],
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._datasets, self._keys = dict(config), datasets, keys
        self._way, self._changed, self._clock = way, changed, clock
        self._served: Served | None = None
        self._fresh_at = float("-inf")
        self._log = log
        self._follower = Follower(self._follow, log)

    def start(self) -> None:
        self._follower.start()

    def current(self) -> Served:
        """Raises Unknown."""
        found = self._served
        if found is None or self._clock() - self._fresh_at > STALE_SECONDS:
            raise Unknown
        return found

    def close(self) -> None:
        self._follower.close()

    def _follow(self) -> None:
        """From the topics' beginning on, until closed. Raises what makes it necessary to begin again."""
        made = {"group.id": _GROUP, "error_cb": client.ignore, "fetch.wait.max.ms": 100}
        consumer = Consumer(self._config | client.READER | access.READ_WHOLE | made)
        admin = AdminClient(self._config | {"logger": client.QUIET, "error_cb": client.ignore})
        read = _Read()
        look_at = 0.0
        try:
            consumer.assign([TopicPartition(topic, 0, access.FIRST_OFFSET) for topic in _TOPICS])
            while not self._follower.closing.is_set():
                self._take(read, consumer.poll(_POLL_SECONDS))
                if read.whole() and read.news:
                    self._use(read)
                    read.news = False
                if read.whole() and self._clock() >= look_at:
                    self._look(admin, read)
                    look_at = self._clock() + LOOK_SECONDS
        finally:
            consumer.close()

    def _take(self, read: _Read, message: Any) -> None:
        if message is None:
            return
        error = message.error()
        if error is None:
            read.take(message.topic(), message.offset(), message.key(), message.value())
        elif error.code() == KafkaError._PARTITION_EOF:
            read.ends[message.topic()] = message.offset()
        elif error.code() not in NO_GROUP:
            client.check(error)

    def _look(self, admin: AdminClient, read: _Read) -> None:
        """Confirms that what was read is all there is as of now. Raises KafkaException."""
        now = self._clock()
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        ends = lanes.offsets(admin, [(topic, 0) for topic in _TOPICS], latest, IsolationLevel.READ_COMMITTED)
        if all(read.ends[topic] >= end for (topic, _), end in ends.items()):
            self._fresh_at = now
            self._follower.failed = ""

    def _use(self, read: _Read) -> None:
        """What does not hold together changes nothing but who has signed: the set before it stays, as in the engine."""
        try:
            listed = read.agreements()
        except Malformed as error:
            self._log.error("agreements_refused", version=read.ends[AGREEMENTS], reason=str(error))
            if read.listed is None:
                return
            listed = read.listed
        read.listed = listed
        said = list(read.said.values())
        found = served(listed, read.earlier, said, self._keys(listed.values()), self._datasets, self._way)
        before = self._served
        for name, reason in found.unfit.items():
            if before is None or before.unfit.get(name) != reason:
                self._log.error("agreement_unfit", agreement=name, reason=reason)
        if before is not None:  # who is served as before is the same object as before
            kept = {name: old for name, old in before.outlets.items() if found.outlets.get(name) == old}
            found = replace(found, outlets={**found.outlets, **kept})
        if found != before:
            self._served = found
            self._changed()


class _Read:
    """What stands in the two topics."""

    def __init__(self) -> None:
        self.ends: dict[str, int] = {}
        self.said: dict[bytes, Signed] = {}
        self.earlier: dict[str, dict[bytes, Agreement]] = {}
        self.listed: dict[str, Agreement] | None = None
        self.news = True
        self._reading = Reading()

    def whole(self) -> bool:
        return len(self.ends) == len(_TOPICS)

    def take(self, topic: str, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Then the topic is not read to its end until that is told again: publications are seen whole."""
        self.news = True
        self.ends.pop(topic, None)
        if topic == SIGNATURES:
            self._sign(key or b"", value or b"")
        else:
            self._reading.take(offset, key, value)
            if value and key != AGREEMENTS_INDEX:
                self._remember(value)

    def agreements(self) -> dict[str, Agreement]:
        """Raises Malformed."""
        found = self._reading.newest(self.ends[AGREEMENTS]).agreements()
        self._reading.settle()
        return found

    def _sign(self, key: bytes, value: bytes) -> None:
        """As bus.signatures.log reads them."""
        self.said.pop(key, None)
        try:
            signed = statement.decode(value)
        except ValueError:
            return
        if statement.key_of(signed.statement) == key:
            self.said[key] = signed

    def _remember(self, value: bytes) -> None:
        try:
            one = agreement_files.parse(value)
        except ValueError:
            return
        texts = self.earlier.setdefault(one.id, {})
        texts[one.grant_hash] = one
        while len(texts) > MOST_EARLIER:
            del texts[next(iter(texts))]
