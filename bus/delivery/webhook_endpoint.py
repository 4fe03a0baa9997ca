"""One agreement's webhook: reads its deliveries and sends them, in a thread of its own, as its outbox says."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import KafkaException

from bus import telemetry
from bus.config import ConfigError
from bus.core import failpoint
from bus.core.failpoint import Point
from bus.delivery import cloudevents, outbox, signing
from bus.delivery.deliveries import Unreadable
from bus.delivery.journal import JournalLost
from bus.delivery.outbox import Item, Outbox, Outcome, Read, Run, Send, Wait
from bus.delivery.sender import Cancelled, Reply
from bus.delivery.served import Outlet
from bus.delivery.signing import Key
from bus.delivery.target import Forbidden, Target
from bus.delivery.webhook_records import AgencyTopic, Record, body, message_id
from bus.engine import client
from bus.engine.client import HumanNeeded

LOOK_SECONDS = 0.1
"""How soon a word, a stop or the end of a term is noticed while there is nothing to do."""
_AGAIN_SECONDS = 1.0
_BACKLOG_RECORDS = 400
_BACKLOG_BYTES = 4_000_000
"""With so much the endpoint reads no further; one answer of the broker can come on top."""
BODY_BYTES = 20_000
"""A body of several events that is larger is divided."""

_GAUGES = ("bus_webhook_waiting_events", "bus_webhook_given_up_events", "bus_webhook_failures", "bus_webhook_stopped")


class Sends(Protocol):
    def send(self, to: Target, headers: Mapping[str, str], body: bytes, stopped: Callable[[], bool]) -> Reply: ...


class Writes(Protocol):
    def write(self, agreement: str, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What all endpoints share. `clock`: Unix seconds; `keys` and `target` are asked before each attempt."""

    sender: Sends
    journal: Writes
    log: Any
    topic: Callable[[Outlet], AgencyTopic]
    keys: Callable[[str], tuple[Key, ...]]
    target: Callable[[str], Target]
    clock: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    max_waiting: int = outbox.MAX_WAITING


def address_of(url: str) -> str:
    """Stands for an address in a state: whether it is still the same one."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


class Endpoint:
    """`state`: what the topic says of it, None: nothing yet. `words`: an operator's last ones -> their places."""

    def __init__(self, outlet: Outlet, parts: Parts, state: Mapping[str, Any] | None, words: Mapping[str, int]) -> None:
        self.outlet, self.agreement = outlet, outlet.agreement
        self._parts = parts
        self._told = dict(state or {})
        self._heard = int(self._told.get("heard", -1))
        self._last: dict[str, Any] = self._told.get("last", {})
        self._seqs: dict[int, int] = {}
        """Lane -> number of the last delivery that was taken in."""
        self._words = dict(words)
        self._outbox = Outbox(max_waiting=parts.max_waiting)
        self._topic: AgencyTopic | None = None
        self._backlog: dict[int, deque[Record]] = {}
        self._bodies: dict[tuple[int, int], Record] = {}
        """Of what stands in runs, as far as it was read lately."""
        self._written: dict[str, Any] = {}
        self._stop = threading.Event()
        self._quick = threading.Event()
        self._reason = ""
        """Of the last wait that was told of."""
        self.failed = ""
        """Why the whole process must begin anew."""
        self._thread = threading.Thread(target=self._run, name=f"webhook {self.agreement.id}", daemon=True)

    # -- the process's side ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def say(self, words: Mapping[str, int]) -> None:
        if words != self._words:
            self._words = dict(words)
            self._quick.set()

    def state(self) -> dict[str, Any]:
        """As the topic has it. Once the endpoint has come to rest."""
        return self._written or self._told

    def stop(self) -> None:
        """Returns at once; a request under way is broken off."""
        self._stop.set()
        self._quick.set()

    def join(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- the thread's side -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        name, log = self.agreement.id, self._parts.log
        log.info("webhook_started", agreement=name)
        while not self._stop.is_set():
            try:
                self._begin()
                while not self._stop.is_set():
                    self._step()
            except Cancelled:
                pass
            except JournalLost as error:
                self.failed = str(error)
                break
            except (KafkaException, HumanNeeded, ConfigError, Unreadable) as error:
                self._awaits(client.text(error))
            except Exception as error:  # a fault of ours, whose text could quote a record
                self._awaits(client.place(error))
        if self._topic is not None:
            self._topic.close()
        for gauge in _GAUGES:
            with contextlib.suppress(KeyError):
                telemetry.gauge(gauge).remove(name)
        log.info("webhook_stopped", agreement=name)

    def _awaits(self, reason: str) -> None:
        """It begins anew after a moment; said once."""
        telemetry.gauge("bus_webhook_stopped").labels(agreement=self.agreement.id).set(1)
        if reason != self._reason:
            self._reason = reason
            self._parts.log.warning("webhook_awaited", agreement=self.agreement.id, reason=reason)
        self._quick.wait(_AGAIN_SECONDS)
        self._quick.clear()  # what an operator has said is kept, and heard in the next step

    def _begin(self) -> None:
        """From what the topic says. Whatever was read and not planned is read again."""
        if self._topic is not None:
            self._topic.close()
        self._topic = found = self._parts.topic(self.outlet)
        self._backlog, self._bodies = {}, {}
        told, lows = self.state(), found.lows(found.lanes())
        if "next" in told:
            self._restore(found, told, lows)
        if told.get("address", "") != address_of(self.agreement.delivery.url) and self._outbox.stopped != outbox.LOST:
            self._outbox.resume(self._now_ms())  # what another address has answered says nothing of this one
        for lane, low in lows.items():
            self._outbox.nexts[lane] = max(self._outbox.nexts.get(lane, 0), low)
        found.begin(self._outbox.nexts)
        self._tell_metrics()

    def _restore(self, found: AgencyTopic, told: Mapping[str, Any], lows: Mapping[int, int]) -> None:
        left = outbox.kept(told, lows)
        keys = {
            (lane, offset): record.key
            for lane, offsets in outbox.places(left).items()
            for offset, record in found.again(lane, offsets, self._stop.is_set).items()
        }
        if self._stop.is_set():
            raise Cancelled
        self._outbox = outbox.restored(left, keys, self._parts.max_waiting)
        self._seqs = {int(lane): seq for lane, seq in told.get("seqs", {}).items()}
        for lane in sorted({lane for lane, offsets in outbox.places(told).items() if any(at < lows[lane] for at in offsets)}):
            self._lost(lane)

    def _lost(self, lane: int) -> None:
        """Deliveries were deleted before they were sent. An operator has to know: nothing more is sent before he says so."""
        self._outbox.stopped = outbox.LOST
        self._parts.log.error("webhook_lost", agreement=self.agreement.id, lane=lane)

    def _now_ms(self) -> int:
        return int(self._parts.clock() * 1000)

    def _step(self) -> None:
        self._hear()
        if not self.agreement.in_force(self._now_ms()):
            self._idle(None)
            return
        action = self._outbox.next(self._now_ms())
        if isinstance(action, Read):
            if self._take():
                return
            action = action.otherwise
            if isinstance(action, Wait):
                self._write()
                self._fill(LOOK_SECONDS)
                return
        if isinstance(action, Wait):
            self._write()
            self._idle(action.until_ms)
        else:
            self._attempt(action)

    def _hear(self) -> None:
        self._quick.clear()
        new = sorted((at, word) for word, at in self._words.items() if at > self._heard)
        for at, word in new:
            self._heard = at
            (self._outbox.resume if word == "resume" else self._outbox.retry)(self._now_ms())
            self._parts.log.info("webhook_told", agreement=self.agreement.id, word=word)
        if new:
            self._write()

    def _idle(self, until_ms: int | None) -> None:
        left = LOOK_SECONDS if until_ms is None else (until_ms - self._now_ms()) / 1000
        self._quick.wait(min(max(left, 0.001), LOOK_SECONDS))

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def _fill(self, seconds: float) -> None:
        assert self._topic is not None
        held = [len(record.event) for found in self._backlog.values() for record in found]
        if len(held) < _BACKLOG_RECORDS and sum(held) < _BACKLOG_BYTES:
            for record in self._topic.poll(seconds):
                self._backlog.setdefault(record.lane, deque()).append(record)

    def _take(self) -> bool:
        """The next run, of the lane that has waited longest. Whether there was anything to take."""
        if not any(self._backlog.values()):
            self._fill(0)
        lane = next((lane for lane, found in self._backlog.items() if found), None)
        if lane is None:
            return False
        found = self._backlog.pop(lane)
        self._backlog[lane] = found  # the last in turn now
        if found[0].seq != self._seqs.get(lane, found[0].seq - 1) + 1:
            self._seqs[lane] = found[0].seq - 1
            self._lost(lane)
            self._write()
            return True
        taken = self._outbox.take(lane, [Item(record.offset, record.key, len(record.event)) for record in found])
        records = [found.popleft() for _ in range(taken)]
        self._seqs[lane] = records[-1].seq
        planned = {(run.lane, offset) for run in self._outbox.runs for offset in run.offsets()}
        self._bodies = {(r.lane, r.offset): r for r in records if (r.lane, r.offset) in planned}
        return True

    def _records(self, run: Run) -> list[Record]:
        assert self._topic is not None
        lacking = [offset for offset in run.offsets() if (run.lane, offset) not in self._bodies]
        again = self._topic.again(run.lane, lacking, self._stop.is_set) if lacking else {}
        if self._stop.is_set():
            raise Cancelled
        return [again.get(offset) or self._bodies[run.lane, offset] for offset in run.offsets()]

    # -- sending -----------------------------------------------------------------------------------------------------------------

    def _attempt(self, action: Send) -> None:
        assert self._topic is not None
        records = self._records(action.run)
        content = body(records)
        if len(content) > BODY_BYTES and len(records) > 1:
            self._outbox.halve()
            return
        try:
            to, keys = self._parts.target(self.agreement.delivery.url), self._parts.keys(self.agreement.id)
        except (Forbidden, ConfigError) as error:
            self._not_allowed(str(error))
            return
        self._reason = ""
        self._write()
        failpoint.hit(Point.WEBHOOK_PLANNED)
        reply = self._send(to, keys, message_id(self._topic.name, records), content)
        failpoint.hit(Point.WEBHOOK_ANSWERED)
        self._became(action, reply)

    def _not_allowed(self, reason: str) -> None:
        """No fault of the receiver's, so no attempt: it is looked at again in a moment, and goes out as soon as it may."""
        if self._last.get("code") != "not allowed":
            self._last = {"code": "not allowed", "at_ms": self._now_ms()}
        self._write()
        self._awaits(reason)

    def _send(self, to: Target, keys: tuple[Key, ...], identity: str, content: bytes) -> Reply:
        if self._stop.is_set():
            raise Cancelled
        headers = signing.headers(keys, identity, int(self._parts.clock()), content)
        headers["Content-Type"] = cloudevents.BATCH_CONTENT_TYPE
        return self._parts.sender.send(to, headers, content, self._stop.is_set)

    def _became(self, action: Send, reply: Reply) -> None:
        name, box, now_ms = self.agreement.id, self._outbox, self._now_ms()
        was = (box.given_up(), box.open)
        telemetry.counter("bus_webhook_attempts_total").labels(agreement=name, result=reply.outcome.value).inc()
        self._last = {"code": reply.code, "at_ms": now_ms}
        if reply.outcome is Outcome.DELIVERED:
            box.delivered(action)
            telemetry.counter("bus_webhook_delivered_events_total").labels(agreement=name).inc(len(action.run.items))
        else:
            box.failed(action, reply.outcome, now_ms, self._parts.jitter, reply.retry_after_seconds * 1000)
            self._write()
        place = {"agreement": name, "lane": action.run.lane, "offset": action.run.items[0].offset, "code": reply.code}
        if box.given_up() > was[0]:
            self._parts.log.error("webhook_given_up", **place)
        if box.open and not was[1]:
            self._parts.log.warning("webhook_circuit_open", agreement=name, code=reply.code)
        if was[1] and not box.open:
            self._parts.log.info("webhook_circuit_closed", agreement=name)
        if box.stopped:
            self._parts.log.error("webhook_gone", agreement=name, code=reply.code)
        self._tell_metrics()

    # -- where it stands ---------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """What has changed since, if anything has. Raises JournalLost."""
        told = self._outbox.told() | {
            "address": address_of(self.agreement.delivery.url),
            "heard": self._heard,
            "seqs": {str(lane): seq for lane, seq in sorted(self._seqs.items())},
            "last": self._last,
        }
        if told != self._written:
            self._parts.journal.write(self.agreement.id, told)
            self._written = told
            failpoint.hit(Point.WEBHOOK_WRITTEN)

    def _tell_metrics(self) -> None:
        name, box = self.agreement.id, self._outbox
        telemetry.gauge("bus_webhook_waiting_events").labels(agreement=name).set(box.waiting())
        telemetry.gauge("bus_webhook_given_up_events").labels(agreement=name).set(box.given_up())
        telemetry.gauge("bus_webhook_failures").labels(agreement=name).set(box.failures)
        telemetry.gauge("bus_webhook_stopped").labels(agreement=name).set(bool(box.stopped))
