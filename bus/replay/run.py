"""The replay itself: key, value, headers, timestamp and lane go over unchanged; only the header `x-replay-id` is added."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from bus.replay.extent import Extent, ReplayError
from bus.replay.pace import Merge, Pacer
from bus.replay.reader import Reader

REPLAY_HEADER = "x-replay-id"
MAX_MESSAGE_BYTES = 33_554_432
"""Far above what a topic takes: the broker says what is too long, not the client's default of a megabyte."""
QUEUE_KBYTES = 36_864
"""What may wait to be written; one record of the greatest size must find room."""
_POLL_SECONDS = 0.2
_FLUSH_SECONDS = 30.0
_BALANCE_RECORDS = 100


@dataclass(slots=True)
class Progress:
    """How far a run has come. `next_offsets`: per lane, one past the last record handed to the producer."""

    records: int = 0
    bytes: int = 0
    next_offsets: dict[int, int] = field(default_factory=dict)
    last_timestamp_ms: int = 0
    complete: bool = False


def producer_config(connection: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **connection,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        "linger.ms": 5,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "queue.buffering.max.kbytes": QUEUE_KBYTES,
        "queue.buffering.max.messages": 100_000,
    }


class Replay:
    """One run. prepare: called before the first record is written; clock: monotonic seconds; wait: sleeps for the seconds
    it is called with, at most 0.2.

    `progress` counts what was handed to the producer; it is what the sandbox holds once `run` or `finish` has returned.
    """

    def __init__(
        self,
        consumer: Consumer,
        producer: Producer,
        extent: Extent,
        target: str,
        replay_id: str,
        prepare: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._producer, self._target, self._clock, self._wait = producer, target, clock, wait
        self._extent, self._prepare = extent, prepare
        self._reader = Reader(consumer, extent, clock)
        self._header = (REPLAY_HEADER, replay_id.encode())
        self._failed: KafkaError | None = None
        self.progress = Progress()

    def run(self, speed: float | None, tick: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Replay the whole extent; `speed` None: as fast as it goes. Raises ReplayError; an interrupt passes through."""
        for message in self._straight() if speed is None else self._paced(Pacer(speed, self._clock)):
            self._write(message)
            tick(self.progress)
        self.finish()
        self.progress.complete = True
        return self.progress

    def finish(self) -> None:
        """Wait until everything handed over is acknowledged. Raises ReplayError when it cannot be."""
        left = self._producer.flush(_FLUSH_SECONDS)
        self._raise_failure()
        if left:
            raise ReplayError(f"writing to {self._target} failed: {left} records were not acknowledged in {_FLUSH_SECONDS:.0f} s")

    def _straight(self) -> Iterator[Message]:
        while self._reader.open:
            yield from self._reader.poll(_POLL_SECONDS)

    def _paced(self, pacer: Pacer) -> Iterator[Message]:
        merge: Merge[Message] = Merge(self._extent.ranges)
        since_balance = 0
        while not merge.done:
            at_ms = merge.peek_ms()
            delay = 0.0 if at_ms is None else pacer.wait_seconds(at_ms)
            if at_ms is not None and delay <= 0:
                yield merge.take()
                since_balance += 1
            if at_ms is None or delay > 0 or since_balance >= _BALANCE_RECORDS:
                self._fill(merge, _POLL_SECONDS if at_ms is None else 0.0)
                since_balance = 0
            if delay > 0:
                self._wait(min(delay, _POLL_SECONDS))

    def _fill(self, merge: Merge[Message], timeout_seconds: float) -> None:
        for message in self._reader.poll(timeout_seconds):
            merge.put(message.partition() or 0, message.timestamp()[1], message)
        for lane in self._extent.ranges.keys() - self._reader.open.keys():
            merge.close(lane)
        self._reader.hold(merge.full(), merge.starved())

    def _write(self, message: Message) -> None:
        if not self.progress.records:
            self._prepare()
        headers = [*(message.headers() or ()), self._header]
        key, value, lane, at_ms = message.key(), message.value(), message.partition() or 0, message.timestamp()[1]
        while True:
            try:
                self._producer.produce(
                    self._target, value, key, lane, on_delivery=self._delivered, timestamp=at_ms, headers=headers
                )
                break
            except BufferError:
                self._producer.poll(_POLL_SECONDS)
                self._raise_failure()
            except KafkaException as error:
                raise ReplayError(
                    f"cannot write lane {lane} offset {message.offset()} to {self._target}: {error.args[0].str()}; "
                    "the sandbox holds a part of the range"
                ) from None
        self._producer.poll(0)
        self._raise_failure()
        done = self.progress
        done.records += 1
        done.bytes += len(value or b"") + len(key or b"")
        done.next_offsets[lane] = (message.offset() or 0) + 1
        done.last_timestamp_ms = at_ms

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed = self._failed or error

    def _raise_failure(self) -> None:
        if self._failed:
            raise ReplayError(f"writing to {self._target} failed: {self._failed.str()}; the sandbox holds a part of the range")
