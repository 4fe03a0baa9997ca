"""An agreement's deliveries as they are read from its topic for its webhook, and as events in JSON."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from bus.core import topics
from bus.delivery import cloudevents
from bus.delivery.deliveries import Deliveries, Unreadable
from bus.delivery.journal import GROUP
from bus.delivery.served import Outlet
from bus.engine import client

_MOST_RECORDS = 200
_QUEUE_KBYTES = 1_024
"""What an endpoint's client holds ready; one large record can come on top."""
_AGAIN_SECONDS = 30.0
_POLL_SECONDS = 0.1
_NEAR_OFFSETS = 200


@dataclass(frozen=True, slots=True)
class Record:
    lane: int
    offset: int
    seq: int
    key: bytes = field(repr=False)
    event: bytes = field(repr=False)
    """As JSON."""


class AgencyTopic:
    """That of one agreement: read on (`poll`), and single records once more (`again`), as today's text opens them.

    Not for several threads at once.
    """

    def __init__(self, config: Mapping[str, Any], outlet: Outlet, deliveries: Deliveries) -> None:
        self._config = {
            **config,
            **client.READER,
            "enable.partition.eof": False,
            "group.id": GROUP,
            "error_cb": client.ignore,
            "queued.max.messages.kbytes": _QUEUE_KBYTES,
            "fetch.message.max.bytes": 262_144,
        }
        self.name = topics.agency(outlet.agreement.id)
        self._outlet, self._deliveries = outlet, deliveries
        self._consumer = Consumer(self._config)
        self._other: Consumer | None = None

    def lanes(self) -> list[int]:
        """Raises KafkaException, client.HumanNeeded."""
        found = self._consumer.list_topics(self.name, timeout=10).topics[self.name]
        if found.error is not None:
            client.check(found.error)
        return sorted(found.partitions)

    def lows(self, lanes: Iterable[int]) -> dict[int, int]:
        """Lane -> offset of the first record that is there. Raises Unreadable, KafkaException."""
        asked = {lane: self._consumer.get_watermark_offsets(TopicPartition(self.name, lane), timeout=10) for lane in lanes}
        found = {lane: ends[0] for lane, ends in asked.items() if ends is not None}
        if missing := sorted(asked.keys() - found.keys()):
            raise Unreadable(f"{self.name}, lane {missing[0]}: where it begins was not told in time")
        return found

    def begin(self, nexts: Mapping[int, int]) -> None:
        self._consumer.assign([TopicPartition(self.name, lane, offset) for lane, offset in nexts.items()])

    def poll(self, seconds: float) -> list[Record]:
        """What is there, waiting so long for the first. Raises Unreadable, KafkaException, client.HumanNeeded."""
        first = self._consumer.poll(seconds)
        rest = self._consumer.consume(_MOST_RECORDS - 1, 0) if first is not None else []
        return [made for message in [first, *rest] if message is not None and (made := self._record(message))]

    def again(self, lane: int, offsets: Iterable[int], stopped: Callable[[], bool]) -> dict[int, Record]:
        """These records of a lane; fewer once `stopped`.

        Raises Unreadable when one is not there (any more), KafkaException, client.HumanNeeded.
        """
        found: dict[int, Record] = {}
        for near in _near(sorted(offsets)):
            found |= self._again(lane, near, stopped)
        return found

    def _again(self, lane: int, wanted: list[int], stopped: Callable[[], bool]) -> dict[int, Record]:
        found: dict[int, Record] = {}
        if self._other is None:
            self._other = Consumer(self._config)
        self._other.assign([TopicPartition(self.name, lane, wanted[0])])
        deadline = time.monotonic() + _AGAIN_SECONDS
        while len(found) < len(wanted) and not stopped():
            message = self._other.poll(_POLL_SECONDS)
            offset = -1 if message is None or message.error() is not None else message.offset() or 0
            if message is not None and message.error() is not None:
                self._check(message)
            elif offset in wanted and (made := self._record(message)):
                found[offset] = made
            if offset > wanted[-1] or time.monotonic() > deadline:
                missing = next(one for one in wanted if one not in found)
                raise Unreadable(f"{self.name}, lane {lane}: there is no record at offset {missing}, or not in time")
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
            delivery, dataset, seen_key = self._deliveries.told(self._outlet, message.value() or b"", key, lane)
            event = cloudevents.event(delivery, dataset, seen_key, lane)
            content = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
            return Record(lane, offset, int(delivery["seq"]), key, content)
        except (Unreadable, ValueError, KeyError, TypeError) as error:
            reason = str(error) if isinstance(error, Unreadable) else type(error).__name__
            raise Unreadable(f"{self.name}, lane {lane}, offset {offset}: {reason}") from None

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
    """The same for the same records, whenever and by whomever they are sent: of their places, and of their contents, by which a
    cluster that was made anew, and a text that shows less, have ids of their own. Letters and digits only, for a dot would end it
    in what is signed."""
    places = f"{topic}/{records[0].lane}/{','.join(str(record.offset) for record in records)}/"
    return "msg_" + hashlib.sha256(places.encode() + body(records)).hexdigest()[:32]
