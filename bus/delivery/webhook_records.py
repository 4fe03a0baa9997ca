"""An agreement's deliveries as they are read from its topic for its webhook, and as events in JSON."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from bus.avro import frame
from bus.avro.catalogue import Catalogue, CatalogueError
from bus.core import topics
from bus.core.agreement import Agreement
from bus.delivery import cloudevents
from bus.delivery.journal import GROUP
from bus.engine import client
from bus.ledger.decoding import Decoder
from bus.registry import log as registry

_MOST_RECORDS = 200
_QUEUE_KBYTES = 1_024
"""What an endpoint's client holds ready; one large record can come on top."""
_AGAIN_SECONDS = 30.0
_POLL_SECONDS = 0.1
_NEAR_OFFSETS = 200


class Unreadable(RuntimeError):
    """A delivery cannot be read; the message says where, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Record:
    lane: int
    offset: int
    key: bytes = field(repr=False)
    event: bytes = field(repr=False)
    """As JSON."""


class Shaper:
    """Framed deliveries to events in JSON. Schemas are read when one is met that is not known yet."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._use(Catalogue())

    def _use(self, found: Catalogue) -> None:
        self._catalogue, self._decoder = found, Decoder(found)
        self._datasets: dict[int, str] = {}

    def event(self, value: bytes, key: bytes, lane: int) -> bytes:
        """Raises frame.Malformed, CatalogueError."""
        try:
            delivery = self._decoder.decode(value)
        except CatalogueError:
            self._use(registry.read(self._config))
            delivery = self._decoder.decode(value)
        made = cloudevents.event(delivery, self._dataset(frame.schema_id(value)), key, lane)
        return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()

    def _dataset(self, schema_id: int) -> str:
        """By the schema's namespace, which ends with '<domain>_<table>'; no domain has an underscore."""
        if schema_id not in self._datasets:
            namespace = str(json.loads(self._catalogue.schema(schema_id))["namespace"])
            self._datasets[schema_id] = namespace.rsplit(".", 1)[-1].replace("_", ".", 1)
        return self._datasets[schema_id]


class Deliveries:
    """The topic of one agreement: read on (`poll`), and single records once more (`again`). Not for several threads at once."""

    def __init__(self, config: Mapping[str, Any], agreement: Agreement) -> None:
        self._config = {
            **config,
            **client.READER,
            "enable.partition.eof": False,
            "group.id": GROUP,
            "error_cb": client.ignore,
            "queued.max.messages.kbytes": _QUEUE_KBYTES,
            "fetch.message.max.bytes": 262_144,
        }
        self.topic = topics.agency(agreement.id)
        self._shaper = Shaper(config)
        self._consumer = Consumer(self._config)
        self._other: Consumer | None = None

    def lanes(self) -> list[int]:
        """Raises KafkaException, client.HumanNeeded."""
        found = self._consumer.list_topics(self.topic, timeout=10).topics[self.topic]
        if found.error is not None:
            client.check(found.error)
        return sorted(found.partitions)

    def begin(self, nexts: Mapping[int, int]) -> None:
        self._consumer.assign([TopicPartition(self.topic, lane, offset) for lane, offset in nexts.items()])

    def poll(self, seconds: float) -> list[Record]:
        """What is there, waiting so long for the first. Raises Unreadable, KafkaException, client.HumanNeeded."""
        first = self._consumer.poll(seconds)
        rest = self._consumer.consume(_MOST_RECORDS - 1, 0) if first is not None else []
        return [made for message in [first, *rest] if message is not None and (made := self._record(message))]

    def again(self, lane: int, offsets: Iterable[int]) -> dict[int, Record]:
        """These records of a lane. Raises Unreadable when one is not there (any more), KafkaException, client.HumanNeeded."""
        found: dict[int, Record] = {}
        for near in _near(sorted(offsets)):
            found |= self._again(lane, near)
        return found

    def _again(self, lane: int, wanted: list[int]) -> dict[int, Record]:
        found: dict[int, Record] = {}
        if self._other is None:
            self._other = Consumer(self._config)
        self._other.assign([TopicPartition(self.topic, lane, wanted[0])])
        deadline = time.monotonic() + _AGAIN_SECONDS
        while len(found) < len(wanted):
            message = self._other.poll(_POLL_SECONDS)
            offset = -1 if message is None or message.error() is not None else message.offset() or 0
            if message is not None and message.error() is not None:
                self._check(message)
            elif offset in wanted and (made := self._record(message)):
                found[offset] = made
            if offset > wanted[-1] or time.monotonic() > deadline:
                missing = next(one for one in wanted if one not in found)
                raise Unreadable(f"{self.topic}, lane {lane}: there is no record at offset {missing}, or not in time")
        self._other.unassign()
        return found

    def _check(self, message: Any) -> None:
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            client.check(error)

    def _record(self, message: Any) -> Record | None:
        if message.error() is not None:
            self._check(message)
            return None
        lane, offset, key = message.partition(), message.offset(), message.key() or b""
        try:
            return Record(lane, offset, key, self._shaper.event(message.value() or b"", key, lane))
        except (frame.Malformed, CatalogueError, ValueError, KeyError, TypeError) as error:
            raise Unreadable(f"{self.topic}, lane {lane}, offset {offset}: {type(error).__name__}") from None

    def close(self) -> None:
        self._consumer.close()
        if self._other is not None:
            self._other.close()


def _near(offsets: list[int]) -> Iterator[list[int]]:
    """Groups that are read in one go: whatever lies between them is read along."""
    group: list[int] = []
    for offset in offsets:
        if group and offset - group[-1] > _NEAR_OFFSETS:
            yield group
            group = []
        group.append(offset)
    if group:
        yield group


def body(records: Iterable[Record]) -> bytes:
    """A CloudEvents batch."""
    return b"[" + b",".join(record.event for record in records) + b"]"


def message_id(topic: str, records: list[Record]) -> str:
    """The same for the same records, whenever and by whomever they are sent: of their places, and of the first one's contents, by
    which a cluster that was made anew has ids of its own. Letters and digits only, for a dot would end it in what is signed."""
    places = f"{topic}/{records[0].lane}/{','.join(str(record.offset) for record in records)}/"
    return "msg_" + hashlib.sha256(places.encode() + records[0].event).hexdigest()[:32]
