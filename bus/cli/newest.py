"""The newest records of a topic, and those that come, described for an operator; outside any group."""

from __future__ import annotations

import difflib
import json
import time
from collections import deque
from collections.abc import Generator, Iterator
from datetime import datetime
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from bus import access
from bus.cli.describe import Describer, Record
from bus.config import Settings
from bus.registry import log

PRINCIPAL = "operator"
_ANSWER_SECONDS = 10.0
_READ_SECONDS = 30.0
_POLL_SECONDS = 0.2
_SPARE_OFFSETS = 16
"""Offsets are not consecutive: ends of transactions and aborted records take some."""
_WIDEN = 8
_PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE, KafkaError.GROUP_AUTHORIZATION_FAILED)


class TailError(ValueError):
    """A topic cannot be shown; the message says why and what to do."""


def tail(settings: Settings, topic: str, last: int = 5, follow: bool = False) -> Generator[Record, None, None]:
    """The last records of all lanes, oldest first, then with `follow` whatever comes, until interrupted.

    Raises TailError for an unknown topic or a broker that does not answer, ConfigError when there is no bus.
    """
    connection = access.confluent(settings, PRINCIPAL)
    describer = Describer(settings, partial(log.read, connection))
    reader = TopicReader(connection, topic)
    try:
        for message in reader.last(last):
            yield describer.describe(message)
        while follow:
            for message in reader.further():
                yield describer.describe(message)
    finally:
        reader.close()


def as_text(record: Record) -> str:
    """A record for people: one line that says where it stands, then a line for each value, `null` and empty lists included."""
    at = datetime.fromtimestamp(record["timestamp_ms"] / 1000).astimezone().isoformat(sep=" ", timespec="milliseconds")
    lines = [f"{record['topic']}  lane {record['lane']}  offset {record['offset']}  {at}  key {record['key']}"]
    lines += [f"  {name}: {value}" for name, value in record["headers"].items()]
    if record["value"] is None:
        return "\n".join([*lines, "  (no value)"])
    found = list(flat("", record["value"]))
    width = max((len(path) for path, _ in found), default=0)
    return "\n".join([*lines, *(f"  {path:<{width}}  {value}" for path, value in found)])


def flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from flat(f"{path}.{name}" if path else str(name), item)
    elif isinstance(value, list) and value:
        for place, item in enumerate(value):
            yield from flat(f"{path}[{place}]", item)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


class TopicReader:
    """Reads one topic by assignment; committed records only."""

    def __init__(self, connection: dict[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            connection
            | {
                "group.id": PRINCIPAL,  # librdkafka wants one; it is not joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 16_384,
                "fetch.wait.max.ms": 100,
                "log_level": 0,  # what matters comes as an error
            }
        )
        try:
            self._edges = self._ask()
        except KafkaException as error:
            self.close()
            raise TailError(f"cannot read {topic!r}: {error.args[0].str()}; is the broker up? (`bus status`)") from None
        except TailError:
            self.close()
            raise

    def close(self) -> None:
        self._consumer.close()

    def _ask(self) -> dict[int, tuple[int, int]]:
        """Per lane the earliest offset and the end."""
        known = self._consumer.list_topics(timeout=_ANSWER_SECONDS).topics
        if self._topic not in known:
            near = difflib.get_close_matches(self._topic, known, 3, 0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`bus topics` lists them"
            raise TailError(f"no topic {self._topic!r}: {hint}")
        lanes = known[self._topic].partitions
        return {p: self._consumer.get_watermark_offsets(TopicPartition(self._topic, p), _ANSWER_SECONDS) for p in lanes}

    def last(self, count: int) -> list[Message]:
        """The newest `count` records of all lanes, oldest first; reading goes on behind them."""
        window = count + _SPARE_OFFSETS
        while True:
            begins = {p: max(begin, end - window) for p, (begin, end) in self._edges.items()}
            found = self._read(begins, count)
            if len(found) >= count or all(begins[p] == self._edges[p][0] for p in begins):
                return sorted(found, key=_order)[-count:] if count else []
            window *= _WIDEN

    def _read(self, begins: dict[int, int], count: int) -> list[Message]:
        """Each lane's newest `count` records from `begins` to the present end."""
        self._consumer.assign([TopicPartition(self._topic, p, begin) for p, begin in begins.items()])
        found = {p: deque[Message](maxlen=count) for p in begins}
        waiting, deadline = set(begins), time.monotonic() + _READ_SECONDS
        while waiting:
            if time.monotonic() > deadline:
                raise TailError(f"{self._topic!r}: its end was not reached in {_READ_SECONDS:.0f} s: is a transaction left open?")
            for message in self._consumer.consume(1_000, _POLL_SECONDS):
                if self._is_record(message):
                    found[message.partition() or 0].append(message)
                elif message.partition() is not None:
                    waiting.discard(message.partition() or 0)
        return [message for lane in found.values() for message in lane]

    def further(self) -> list[Message]:
        """What has come since."""
        return [message for message in self._consumer.consume(1_000, _POLL_SECONDS) if self._is_record(message)]

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF or error.code() in _PASSING:
            return error is None
        raise TailError(f"cannot read {self._topic!r}: {error.str()}")


def _order(message: Message) -> tuple[int, int, int]:
    return message.timestamp()[1], message.partition() or 0, message.offset() or 0
