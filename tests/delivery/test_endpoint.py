"""Laws of an endpoint as a whole, with a receiver of real sockets and a clock that the test turns: the schedule, order, ids."""

from __future__ import annotations

import itertools
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import structlog

from bus.core.agreement import Agreement, Delivery, Way
from bus.delivery import outbox
from bus.delivery.deliveries import Unreadable
from bus.delivery.entitled import Entitlement
from bus.delivery.outbox import SCHEDULE_SECONDS
from bus.delivery.sender import Sender
from bus.delivery.served import Outlet
from bus.delivery.signing import ED25519, HMAC, Key
from bus.delivery.target import Forbidden, Rules, Target, target
from bus.delivery.webhook_endpoint import Endpoint, Parts
from bus.delivery.webhook_records import Record
from bus.signatures.statement import Standing, State
from tests.delivery.receiver import PATIENCE_SECONDS, Receiver, Request, receiving
from tests.delivery.test_signing import verify_ed25519

LANES = 2
KEYS = (Key(ED25519, bytes(range(32))), Key(HMAC, bytes(32)))
NAME = "tax.births"


class Topic:
    """Deliveries in memory. `seen`: how often records were read once more."""

    name = f"agency.{NAME}"

    def __init__(self) -> None:
        self.lanes_: dict[int, list[Record]] = {lane: [] for lane in range(LANES)}
        self._next: dict[int, int] = {}
        self.low: dict[int, int] = {}

    def add(self, lane: int, key: int, text: str = "") -> None:
        offset = len(self.lanes_[lane])
        event = json.dumps({"id": f"{lane}-{offset}", "partitionkey": f"{key:02x}", "sequence": str(offset), "text": text})
        self.lanes_[lane].append(Record(lane, offset, offset + 1, bytes([key]), event.encode()))

    def lanes(self) -> list[int]:
        return list(self.lanes_)

    def begin(self, nexts: Mapping[int, int]) -> None:
        self._next = dict(nexts)

    def poll(self, seconds: float) -> list[Record]:
        found = [record for lane, at in self._next.items() for record in self.lanes_[lane][at : at + 60]]
        for record in found:
            self._next[record.lane] = record.offset + 1
        if not found:
            time.sleep(min(seconds, 0.005))
        return found

    def lows(self, lanes: Iterable[int]) -> dict[int, int]:
        return {lane: self.low.get(lane, 0) for lane in lanes}

    def delete(self, lane: int, low: int) -> None:
        self.low[lane] = low

    def again(self, lane: int, offsets: Iterable[int], _: Any = None) -> dict[int, Record]:
        if any(offset < self.low.get(lane, 0) for offset in offsets):
            raise Unreadable("deleted")
        return {offset: self.lanes_[lane][offset] for offset in offsets}

    def close(self) -> None: ...


def outlet(agreement: Agreement) -> Outlet:
    return Outlet(agreement, Standing(State.AGREED, (), ()), Entitlement(agreement, {}, (), {}))


class Journal:
    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = {}

    def write(self, agreement: str, state: Mapping[str, Any]) -> None:
        self.states[agreement] = json.loads(json.dumps(state))


class Bench:
    """An endpoint of its own, its receiver, and a clock that jumps to the next attempt whenever nothing else is to be done."""

    def __init__(self, receiver: Receiver, sender: Sender, most: int = outbox.MAX_WAITING) -> None:
        self.receiver, self.topic, self.journal = receiver, Topic(), Journal()
        self.now = 1_790_000_000.0
        self.forbidden = ""
        rules = Rules(frozenset({"127.0.0.1"}), frozenset({receiver.port}), loopback=True)

        def allowed(url: str) -> Target:
            if self.forbidden:
                raise Forbidden(self.forbidden)
            return target(url, rules)

        def topic(_: Outlet) -> Any:
            return self.topic

        log = structlog.get_logger()
        self.parts = Parts(
            sender, self.journal, log, topic, lambda _: KEYS, allowed, lambda: self.now, lambda: 0.0, max_waiting=most
        )
        agreement = Agreement(NAME, "tax", "", "", (), 0, None, bytes(32), delivery=Delivery(Way.WEBHOOK, receiver.url))
        self.outlet = outlet(agreement)
        self.endpoint = self._made()

    def _made(self, **words: int) -> Endpoint:
        made = Endpoint(self.outlet, self.parts, self.journal.states.get(NAME), words)
        made.start()
        return made

    def again(self) -> None:
        """As after kill -9: a new one from what is on record."""
        self.close()
        self.endpoint = self._made()

    def close(self) -> None:
        self.endpoint.stop()
        assert self.endpoint.join(PATIENCE_SECONDS)

    def at_rest(self) -> bool:
        """On record: everything that can be sent now has been."""
        told = self.journal.states.get(NAME)
        if told is None or self.endpoint._outbox.told() != {name: told[name] for name in self.endpoint._outbox.told()}:
            return False
        box = self.endpoint._outbox
        quiet = box.stopped or box.not_before_ms > self.now * 1000
        read = all(box.nexts.get(lane, 0) == len(found) for lane, found in self.topic.lanes_.items())
        due = box.next_attempt_ms()
        full = box.waiting() >= box.max_waiting
        return bool(quiet or ((read or full) and not box.runs and (due is None or due > self.now * 1000)))

    def rest(self) -> None:
        self.receiver.until("the endpoint to rest", self.at_rest)

    def jump(self) -> bool:
        """To the next attempt; False when there is none."""
        due = self.endpoint._outbox.next_attempt_ms()
        if due is None:
            return False
        self.now = max(self.now, due / 1000)
        return True


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    made = Sender(Rules(frozenset({"127.0.0.1"}), frozenset(), loopback=True), timeout_seconds=0.5)
    yield made
    made.close()


@pytest.fixture
def bench(sender: Sender) -> Iterator[Bench]:
    with receiving() as receiver:
        made = Bench(receiver, sender)
        yield made
        made.close()


def sequences(events: Iterable[dict[str, Any]], key: int) -> list[int]:
    return [int(event["sequence"]) for event in events if event["partitionkey"] == f"{key:02x}"]


def test_batches_are_signed_below_20_kb_and_of_the_type_of_cloudevents(bench: Bench) -> None:
    for number in range(300):
        bench.topic.add(number % 2, number % 7, "x" * (number * 10))
    bench.topic.add(0, 1, "y" * 60_000)
    bench.rest()
    for request in bench.receiver.requests:
        assert len(request.body) < 20_000 or len(request.events()) == 1
        assert len(request.events()) <= outbox.MAX_RUN_EVENTS
        assert request.headers["content-type"] == "application/cloudevents-batch+json"
        assert verify_ed25519(KEYS[0].public(), request.headers, request.body)
    assert len(bench.receiver.requests) > 301 / outbox.MAX_RUN_EVENTS
    assert len(bench.receiver.events()) == 301
    for key in range(7):
        for lane in range(LANES):
            found = sequences((e for e in bench.receiver.events() if e["id"].startswith(f"{lane}-")), key)
            assert found == sorted(found)


@pytest.mark.parametrize("answer", ["500", "301:http://127.0.0.1:1/", "404", "close", "reset", "garbage", "503"])
def test_an_event_that_is_always_refused_keeps_its_schedule_and_its_id_and_others_pass(bench: Bench, answer: str) -> None:
    bench.receiver.script = lambda request: answer if any(e["id"] == "0-3" for e in request.events()) else "200"
    for number in range(20):
        bench.topic.add(0, number % 5)
    times: list[float] = []
    bench.rest()
    times.append(bench.now)
    assert len(bench.receiver.events()) == 16, "all but the refused one and those of its key behind it"
    while bench.jump():
        before = len(bench.receiver.requests)
        bench.receiver.until("an attempt", lambda before=before: len(bench.receiver.requests) > before)  # type: ignore[misc]
        bench.rest()
        times.append(bench.now)
    pauses = [later - at for at, later in itertools.pairwise(times)]
    assert [round(pause) for pause in pauses] == list(SCHEDULE_SECONDS[1:])
    alone = [r for r in bench.receiver.requests if [e["id"] for e in r.events()] == ["0-3"]]
    assert len({r.id for r in alone}) == 1
    assert len({r.body for r in alone}) == 1
    assert len({r.headers["webhook-timestamp"] for r in alone}) == len(alone)
    assert bench.endpoint._outbox.given_up() == 1
    bench.receiver.script = lambda _: "200"
    bench.endpoint.say({"retry": 1})
    bench.receiver.until("what was given up", lambda: len(bench.receiver.events()) == 20)
    assert sequences(bench.receiver.events(), 3) == [3, 8, 13, 18]


def test_a_receiver_that_is_down_for_76_hours_loses_nothing_and_is_not_flooded(bench: Bench) -> None:
    began, hours = bench.now, 76
    bench.receiver.script = lambda _: "500" if bench.now - began < hours * 3_600 else "200"
    for number in range(100):
        bench.topic.add(number % 2, number % 11)
    while True:
        bench.rest()
        if not bench.jump():
            break
    bench.receiver.until("all of them", lambda: len({e["id"] for e in bench.receiver.events()}) == 100)
    down = [r for r in bench.receiver.requests if r not in bench.receiver.taken]
    assert len(down) < 40
    for lane, key in itertools.product(range(LANES), range(11)):
        found = sequences((e for e in bench.receiver.events() if e["id"].startswith(f"{lane}-")), key)
        assert found == sorted(set(found))


@pytest.mark.parametrize("answer", ["429:60", "503:60"])
def test_retry_after_is_waited_for_with_the_whole_batch(bench: Bench, answer: str) -> None:
    bench.receiver.script = lambda _: answer if len(bench.receiver.requests) == 1 else "200"
    for number in range(10):
        bench.topic.add(0, number)
    began = bench.now
    bench.receiver.until("the first", lambda: len(bench.receiver.requests) == 1)
    bench.rest()
    assert bench.jump()
    assert bench.now - began == pytest.approx(60, abs=0.01)
    bench.receiver.until("all of them", lambda: len(bench.receiver.events()) == 10)
    first, second = bench.receiver.requests
    assert (first.id, first.body) == (second.id, second.body)


def test_410_stops_the_endpoint_until_an_operator_or_another_address_says_otherwise(bench: Bench) -> None:
    bench.receiver.script = lambda _: "410"
    bench.topic.add(0, 1)
    bench.receiver.until("the answer", lambda: bool(bench.journal.states.get(NAME, {}).get("stopped")))
    bench.now += 10**7
    bench.again()
    bench.rest()
    assert len(bench.receiver.requests) == 1
    bench.receiver.script = lambda _: "200"
    bench.endpoint.say({"resume": 7})
    bench.receiver.until("what waited", lambda: len(bench.receiver.events()) == 1)
    bench.rest()
    bench.receiver.script = lambda _: "410"
    bench.endpoint.say({"resume": 7})  # an old word is heard once
    bench.topic.add(0, 1)
    bench.receiver.until("the answer", lambda: bool(bench.journal.states[NAME]["stopped"]))
    with receiving() as elsewhere:
        bench.close()
        bench.outlet = outlet(replace(bench.outlet.agreement, delivery=Delivery(Way.WEBHOOK, elsewhere.url)))
        bench.parts = replace(
            bench.parts, target=lambda url: target(url, Rules(frozenset({"127.0.0.1"}), frozenset({elsewhere.port}), True))
        )
        bench.endpoint = bench._made(resume=7)
        elsewhere.until("what waited", lambda: len(elsewhere.events()) == 1)
        bench.close()


def test_an_address_that_is_not_allowed_is_not_sent_to_and_nothing_is_lost(bench: Bench) -> None:
    bench.forbidden = "not in the list"
    bench.topic.add(0, 1)
    bench.receiver.until("an attempt", lambda: bench.journal.states.get(NAME, {}).get("last", {}).get("code") == "not allowed")
    assert bench.receiver.connections == 0
    bench.forbidden = ""
    bench.receiver.until("it, at once", lambda: len(bench.receiver.events()) == 1)


def test_what_was_deleted_before_it_was_sent_stops_it_until_an_operator_goes_on(bench: Bench) -> None:
    """Whether it waited in a queue or was not read yet; what was all sent before it was deleted stops nobody."""
    topic, receiver = bench.topic, bench.receiver
    topic.add(0, 1)
    receiver.until("the first", lambda: len(receiver.events()) == 1)
    bench.close()
    topic.delete(0, 1)
    bench.endpoint = bench._made()
    receiver.script = lambda _: "500"
    topic.add(0, 2)
    bench.rest()
    assert bench.endpoint._outbox.waiting() == 1
    bench.close()
    topic.add(0, 3)
    topic.delete(0, 2)
    receiver.script = lambda _: "200"
    bench.endpoint = bench._made()
    receiver.until("the stop", lambda: bench.journal.states[NAME]["stopped"] == "lost")
    bench.again()
    bench.rest()
    assert len(receiver.events()) == 1
    bench.endpoint.say({"resume": 1})
    receiver.until("the next that is there", lambda: [e["id"] for e in receiver.events()] == ["0-0", "0-2"])
    bench.close()
    for key in range(4):
        topic.add(0, key)
    topic.delete(0, 5)
    bench.endpoint = bench._made(resume=1)
    receiver.until("the stop", lambda: bench.journal.states[NAME]["stopped"] == "lost")
    assert len(receiver.events()) == 2
    bench.endpoint.say({"resume": 2})
    receiver.until("the rest", lambda: [e["id"] for e in receiver.events()][2:] == ["0-5", "0-6"])


def test_a_new_address_does_not_pass_over_what_was_deleted(bench: Bench) -> None:
    bench.receiver.script = lambda _: "500"
    bench.topic.add(0, 1)
    bench.rest()
    bench.close()
    bench.topic.delete(0, 1)
    bench.receiver.script = lambda _: "200"
    bench.outlet = outlet(replace(bench.outlet.agreement, delivery=Delivery(Way.WEBHOOK, f"{bench.receiver.url}/new")))
    bench.topic.add(0, 2)
    bench.endpoint = bench._made()
    bench.receiver.until("the stop", lambda: bench.journal.states[NAME]["stopped"] == "lost")
    assert not bench.receiver.events()
    bench.endpoint.say({"resume": 1})
    bench.receiver.until("the next that is there", lambda: [e["id"] for e in bench.receiver.events()] == ["0-1"])


def test_outside_its_term_an_agreement_sends_nothing(sender: Sender) -> None:
    with receiving() as receiver:
        bench = Bench(receiver, sender)
        bench.close()
        bench.outlet = outlet(replace(bench.outlet.agreement, valid_until_ms=int(bench.now * 1000) + 60_000))
        bench.endpoint = bench._made()
        bench.topic.add(0, 1)
        receiver.until("it", lambda: len(receiver.events()) == 1)
        bench.now += 60
        bench.topic.add(0, 1)
        time.sleep(0.3)  # nothing to wait for: nothing may come
        assert len(receiver.requests) == 1
        bench.close()


def test_wherever_it_is_ended_everything_arrives_in_order_under_the_same_ids(bench: Bench) -> None:
    """Also a receiver that takes a batch and says nothing (a lie, or a crash) gets the same batch again."""
    for number in range(400):
        bench.topic.add(number % 2, number % 9, "x" * 300)
    unsure: set[str] = set()

    def script(request: Request) -> str:
        if request.id not in unsure and len(unsure) < 5:
            unsure.add(request.id)
            return "close"
        return "500" if zlib.crc32(f"{request.id} {len(bench.receiver.requests)}".encode()) % 3 == 0 else "200"

    bench.receiver.script = script
    for _ in range(10):
        before = len(bench.receiver.requests)
        bench.receiver.until("some requests", lambda before=before: len(bench.receiver.requests) > before + 1 or bench.at_rest())  # type: ignore[misc]
        bench.again()
    bench.receiver.script = lambda _: "200"
    for _ in range(40):
        bench.now += 7 * 86_400
        bench.rest()
    assert {e["id"] for e in bench.receiver.events()} == {f"{lane}-{o}" for lane in range(2) for o in range(200)}
    bodies: dict[str, set[bytes]] = {}
    for request in bench.receiver.requests:
        bodies.setdefault(request.id, set()).add(request.body)
    assert all(len(found) == 1 for found in bodies.values())
    for lane, key in itertools.product(range(LANES), range(9)):
        found = sequences((e for e in bench.receiver.events() if e["id"].startswith(f"{lane}-")), key)
        assert list(dict.fromkeys(found)) == sorted(set(found))


def test_a_full_endpoint_reads_no_further_and_goes_on_when_there_is_room(sender: Sender) -> None:
    with receiving(lambda request: "500") as receiver:
        bench = Bench(receiver, sender, most=5)
        for number in range(500):
            bench.topic.add(0, number % 200)
        for _ in range(15):
            bench.rest()
            bench.jump()
        assert bench.endpoint._outbox.nexts[0] < 500
        assert bench.endpoint._outbox.waiting() < 5 + outbox.MAX_RUN_EVENTS
        receiver.script = lambda _: "200"
        for _ in range(30):
            bench.now += 86_400
            bench.rest()
        assert len(receiver.events()) == 500
        bench.close()


def test_what_is_on_record_holds_places_counts_and_times_only(bench: Bench) -> None:
    bench.receiver.script = lambda request: "500" if any(e["id"] == "0-1" for e in request.events()) else "200"
    for number in range(6):
        bench.topic.add(0, number % 2, "Nguyễn Văn An 001085000001")
    bench.rest()
    told = json.dumps(bench.journal.states[NAME])
    assert bench.endpoint._outbox.waiting() == 3
    for secret in ("Nguy", "001085000001", "partitionkey", KEYS[0].secret.hex()):
        assert secret not in told
    assert set(json.loads(told)) == {
        "next",
        "runs",
        "waiting",
        "failures",
        "not_before_ms",
        "stopped",
        "address",
        "heard",
        "last",
        "seqs",
    }
