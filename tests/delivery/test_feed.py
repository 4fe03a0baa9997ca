"""Laws of the feed as a process on a real broker: everything once, in order, to whom it belongs, and never a silent loss."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import access
from bus.avro import dataset
from bus.config import ROOT, Settings
from bus.engine import agreements
from bus.platform import agreed, declaration
from bus.signatures.statement import Act, Statement
from tests.delivery.site import LANES, REQUESTS_PER_SECOND, Site, site, text, until

DOCUMENT = ROOT / "docs" / "feed.md"
MAIN, FOREIGN = "archive.births", "museum.births"
TEXTS = {
    MAIN: text(MAIN),
    FOREIGN: text(FOREIGN),
    "archive.soon": text("archive.soon"),
    "archive.stream": text("archive.stream"),
    "archive.gap": text("archive.gap"),
    "archive.state": text("archive.state"),
    "archive.ends": text("archive.ends"),
    "archive.narrow": text("archive.narrow"),
    "archive.client": text("archive.client"),
    "archive.topic": text("archive.topic", delivery="topic"),
    "archive.later": text("archive.later", begin="2999-01-01"),
}


@pytest.fixture(scope="module")
def feed(bus_home: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(bus_home, tmp_path_factory.mktemp("nguồn tin"), TEXTS) as made:
        yield made


@pytest.fixture(scope="module")
def given_events(feed: Site) -> dict[int, list[str]]:
    """Lane -> ids in order, with aborted transactions in between."""
    made: dict[int, list[str]] = {lane: [] for lane in range(LANES)}
    for turn in range(3):
        for lane in range(LANES - 1):  # the last one stays empty
            feed.deliver(MAIN, lane, [90, 91], commit=False)
            made[lane] += feed.deliver(MAIN, lane, list(range(turn * 10, turn * 10 + 2 + lane)))
    feed.deliver(MAIN, 0, [92], commit=False)
    return made


def by_lane(events: list[dict[str, Any]]) -> dict[int, list[str]]:
    return {lane: [event["id"] for event in events if event["lane"] == lane] for lane in range(LANES)}


def test_a_first_answer_is_whole(feed: Site, given_events: dict[int, list[str]]) -> None:
    answer = feed.events(MAIN)
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert by_lane(body["events"]) == given_events
    assert (body["more"], body["lost"], body["snapshot"]) == (False, [], False)
    first = next(event for event in body["events"] if event["lane"] == 2)
    assert (first["source"], first["sequence"], first["type"]) == (f"/agreements/{MAIN}", "1", "vn.lienthong.civil.birth.created")
    assert first["data"]["row"] == {"register_number": "Số 0", "province_code": "00"}


@settings(max_examples=12)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from([None, 0, 1, 2, 3]))
def test_every_committed_delivery_comes_once_and_in_its_lanes_order_whatever_the_limits(
    feed: Site, given_events: dict[int, list[str]], limits: list[int], lane: int | None
) -> None:
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {} if lane is None else {"lane": lane}
    with feed.client() as client:
        for turn in range(60):
            limit = limits[turn % len(limits)]
            body = client.get(f"/v1/agreements/{MAIN}/events", params=params | {"limit": limit}).json()
            assert len(body["events"]) <= limit
            assert body["lost"] == []
            found += body["events"]
            params = {"cursor": body["next"]}
            if not body["more"]:
                break
    assert by_lane(found) == {n: ids if lane in (None, n) else [] for n, ids in given_events.items()}
    assert [int(e["sequence"]) for e in found if e["lane"] == 1] == list(range(1, len(by_lane(found)[1]) + 1))


def test_with_small_limits_no_lane_waits_for_another_one_to_be_empty(feed: Site, given_events: dict[int, list[str]]) -> None:
    params: dict[str, Any] = {"limit": 1}
    lanes = []
    for _ in range(3):
        body = feed.events(MAIN, **params).json()
        lanes.append(body["events"][0]["lane"])
        params = {"limit": 1, "cursor": body["next"]}
    assert sorted(lanes) == [0, 1, 2]


def test_a_long_poll_returns_as_soon_as_there_is_a_delivery_and_else_when_its_time_is_over(feed: Site) -> None:
    name = "archive.soon"
    _, cursor, _ = feed.all(name)
    began = time.monotonic()
    body = feed.events(name, cursor=cursor, wait_seconds=0.5).json()
    assert body["events"] == []
    assert 0.5 <= time.monotonic() - began < 3
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(lambda: (feed.events(name, cursor=body["next"], wait_seconds=30).json(), time.monotonic()))
        time.sleep(0.3)  # it waits by now; if not, the law is only easier to keep
        ids = feed.deliver(name, 2, [1])
        delivered = time.monotonic()
        answer, at = polling.result(40)
    print(f"a long poll was answered {at - delivered:.3f} s after the commit")
    assert [event["id"] for event in answer["events"]] == ids
    assert at - delivered < 3
    assert len(feed.events(name, cursor=body["next"], wait_seconds=60).json()["events"]) == 1, "an old cursor does not wait"


OPEN: list[Reading] = []


@pytest.fixture(autouse=True)
def no_streams_left() -> Iterator[None]:
    """A test that fails leaves no stream to the next one."""
    yield
    while OPEN:
        OPEN.pop().close()


class Reading:
    """A stream that is read in a thread; `events`: (id, data) of each, `named`: events with a name."""

    def __init__(self, feed: Site, name: str, last_event_id: str = "", **params: Any) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.named: list[tuple[str, dict[str, Any]]] = []
        self.status = 0
        self.ended_at = 0.0
        self._answer: httpx.Response | None = None
        self._headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self._feed, self._name, self._params = feed, name, params
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        OPEN.append(self)

    def _run(self) -> None:
        with self._feed.client(self._name.partition(".")[0]) as client:
            path = f"/v1/agreements/{self._name}/events/stream"
            try:
                with client.stream("GET", path, headers=self._headers, params=self._params) as answer:
                    self._answer, self.status = answer, answer.status_code
                    self._read(answer)
            except httpx.TransportError:
                pass
        self.ended_at = time.monotonic()

    def _read(self, answer: httpx.Response) -> None:
        block: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                field, _, value = line.partition(": ")
                block[field] = value
            else:
                if "event" in block:
                    self.named.append((block["event"], json.loads(block["data"])))
                elif "data" in block:
                    self.events.append((block["id"], json.loads(block["data"])))
                block = {}

    def close(self) -> None:
        until("an answer", lambda: self._answer or self.ended_at)
        assert self._answer is not None
        with suppress(OSError):
            self._answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        until("the end of a stream", lambda: self.ended_at)

    def ids(self) -> list[str]:
        return [event["id"] for _, event in self.events]


def test_a_stream_goes_on_at_the_last_event_id(feed: Site) -> None:
    name = "archive.stream"
    first = feed.deliver(name, 0, [1, 2, 3]) + feed.deliver(name, 1, [4, 5])
    reading = Reading(feed, name)
    until("the deliveries that are there", lambda: len(reading.events) == 5)
    assert sorted(reading.ids()) == sorted(first)
    second = feed.deliver(name, 3, [6])
    seconds = until("a delivery that comes", lambda: len(reading.events) == 6)
    print(f"a stream had a delivery {seconds:.3f} s after it was looked for")
    for at, (cursor, _) in enumerate(reading.events):
        resumed = Reading(feed, name, last_event_id=cursor)
        until("the rest", lambda r=resumed, n=at: len(r.events) == 5 - n)
        assert sorted(resumed.ids()) == sorted(reading.ids()[at + 1 :])
        resumed.close()
    assert reading.ids()[5] == second[0]
    reading.close()


def test_one_agency_gets_no_more_streams_than_its_share_and_another_one_still_gets_its_own(feed: Site) -> None:
    name = "archive.stream"
    readings = [Reading(feed, name) for _ in range(feed.settings.feed.streams)]
    for reading in readings:
        until("a stream", lambda r=reading: r.status == 200)
    answer = feed.get("archive", f"/v1/agreements/{name}/events/stream")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    other = Reading(feed, FOREIGN)
    until("the other agency's stream", lambda: other.status == 200)
    for reading in [*readings, other]:
        reading.close()
    until("the share is free again", lambda: _streams_again(feed, name))


def _streams_again(feed: Site, name: str) -> bool:
    with feed.client() as client, client.stream("GET", f"/v1/agreements/{name}/events/stream") as answer:
        return answer.status_code == 200


def test_what_is_foreign_and_what_is_not_there_are_answered_alike_byte_for_byte(feed: Site) -> None:
    names = [MAIN, FOREIGN, "archive.topic", "archive.later", "archive.nothing", "tax.taxpayers", "x" * 100, "%00", "..", "*"]
    mine = {"archive": {MAIN}, "museum": {FOREIGN}, "tax": set[str]()}
    answers = set()
    for agency, own in mine.items():
        for name in names:
            for rest in ("", "/stream"):
                if name in own and rest:
                    continue
                answer = feed.get(agency, f"/v1/agreements/{name}/events{rest}")
                assert (answer.status_code == 200) == (name in own), (agency, name)
                if name not in own:
                    headers = {k: v for k, v in answer.headers.items() if k != "date"}
                    answers.add((answer.status_code, answer.content, tuple(sorted(headers.items()))))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 404


def test_an_agency_is_told_its_own_agreements_and_their_states(feed: Site) -> None:
    listed = {one["id"]: one["state"] for one in feed.get("archive", "/v1/agreements").json()["agreements"]}
    assert listed[MAIN] == "in force"
    assert listed["archive.later"] == "not yet in force"
    assert not {FOREIGN, "archive.topic"} & listed.keys()
    assert feed.get("tax", "/v1/agreements").json() == {"agreements": []}
    assert feed.get("archive", "/v1/openapi.json").json()["openapi"] == "3.1.0"


def test_nobody_else_is_let_in(feed: Site) -> None:
    wrong = [None, ("agency-archive", "wrong"), ("agency-nobody", "x"), ("", ""), ("agency-museum", "")]
    for auth in wrong:
        answer = httpx.get(f"{feed.url}/v1/agreements/{MAIN}/events", auth=auth, trust_env=False)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
    operator = (feed.settings.secret_file("kafka-operator").read_text(),)
    assert httpx.get(f"{feed.url}/v1/agreements", auth=("operator", *operator), trust_env=False).status_code == 403


@pytest.mark.parametrize(
    "params",
    [
        {"cursor": "x"}, {"cursor": "A" * 200}, {"limit": 0}, {"limit": 1_001}, {"limit": "ten"}, {"wait_seconds": 61},
        {"wait_seconds": "nan"}, {"lane": LANES}, {"lane": -1}, {"from": "now"}, {"curser": "x"},
        {"from": "snapshot", "cursor": "x"},
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_with_what_is_allowed(feed: Site, params: dict[str, Any]) -> None:
    answer = feed.events(MAIN, **params)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 20


def test_a_cursor_of_another_agreement_or_with_any_letter_changed_is_refused(
    feed: Site, given_events: dict[int, list[str]]
) -> None:
    _, cursor, _ = feed.all(MAIN)
    _, foreign, _ = feed.all("archive.soon")
    forged = [foreign, cursor + "A", cursor[:-1], cursor + "=", cursor[1:]]
    forged += [cursor[:at] + chr(ord(cursor[at]) ^ 1) + cursor[at + 1 :] for at in range(len(cursor))]
    with feed.client() as client:
        for one in forged:
            assert client.get(f"/v1/agreements/{MAIN}/events", params={"cursor": one}).status_code == 400, one
        assert client.get(f"/v1/agreements/{MAIN}/events", params={"cursor": cursor, "lane": 0}).status_code == 400
        assert client.get(f"/v1/agreements/{MAIN}/events", params={"cursor": cursor}).status_code == 200


def test_one_agencys_haste_is_refused_and_does_not_slow_another_one(feed: Site) -> None:
    with feed.client("museum") as hasty, feed.client("archive") as calm:
        codes = [hasty.get("/v1/agreements").status_code for _ in range(REQUESTS_PER_SECOND * 2)]
        for _ in range(10_000):
            answer = hasty.get("/v1/agreements")
            codes.append(answer.status_code)
            if answer.status_code == 429:
                break
        assert codes[-1] == 429
        assert set(codes) == {200, 429}
        assert int(answer.headers["retry-after"]) >= 1
        assert all(calm.get("/v1/agreements").status_code == 200 for _ in range(20))


def test_what_was_deleted_is_said_and_the_state_that_is_left_can_be_had(feed: Site) -> None:
    """The engine's topics keep everything; an operator may have them forget. Then 410, and in the snapshot all that is left."""
    name = "archive.gap"
    feed.deliver(name, 0, [1, 2, 3])
    feed.deliver(name, 1, [4])
    body = feed.events(name, limit=1, lane=0).json()
    stale = body["next"]
    _, everything, _ = feed.all(name)
    feed.deliver(name, 0, [2, 5])
    feed.deliver(name, 0, [1], op="d")
    feed.delete(name, {0: 2})  # numbers 1 and 2
    assert feed.events(name, cursor=everything).status_code == 200, "who had read them misses nothing"
    answer = feed.events(name, cursor=stale, wait_seconds=30)
    assert answer.status_code == 410
    assert answer.json()["lost"] == [{"lane": 0, "first_seq": 2, "last_seq": 2}]
    assert feed.get("archive", f"/v1/agreements/{name}/events/stream", {"cursor": stale}).status_code == 410
    found, cursor, lost = feed.all(name, limit=2, **{"from": "snapshot"})
    assert lost == [{"lane": 0, "first_seq": 1, "last_seq": 2}]
    assert sorted(event["data"]["row"]["register_number"] for event in found) == ["Số 2", "Số 3", "Số 4", "Số 5"]
    assert {event["data"]["op"] for event in found} == {"r"}
    assert all(event["snapshot"] and event["id"].endswith("-snapshot") for event in found)
    (new,) = feed.deliver(name, 1, [6])
    assert [event["id"] for event in feed.events(name, cursor=cursor).json()["events"]] == [new]
    again, _, lost = feed.all(name)
    assert [event["sequence"] for event in again if event["lane"] == 0] == ["3", "4", "5", "6"]
    assert lost == [{"lane": 0, "first_seq": 1, "last_seq": 2}], "who begins anew is told, too"


def test_a_lane_that_was_deleted_to_its_end_is_not_passed_over_in_silence(feed: Site) -> None:
    name = "archive.gap"
    body = feed.events(name, lane=2).json()
    feed.deliver(name, 2, [1, 2])
    feed.delete(name, {2: -1})
    answer = feed.events(name, cursor=body["next"])
    assert answer.status_code == 410
    assert answer.json()["lost"] == [{"lane": 2, "first_seq": 1, "last_seq": None}]


def test_a_snapshot_is_the_state_that_a_reader_of_everything_comes_to_and_goes_on_live(feed: Site) -> None:
    name = "archive.state"
    for lane in range(LANES):
        feed.deliver(name, lane, [lane, lane + 10, lane + 20])
        feed.deliver(name, lane, [lane + 10, lane], op="u")
        feed.deliver(name, lane, [lane + 20, lane + 30], op="w" if lane % 2 else "d")
    state: dict[tuple[str, str], dict[str, Any]] = {}
    for event in feed.all(name)[0]:
        state[event["partitionkey"], event["subject"]] = event
    wanted = {place: e["data"]["row"] for place, e in state.items() if e["data"]["row"] is not None}
    for limit in (1, 3, 100):
        found, cursor, lost = feed.all(name, limit=limit, **{"from": "snapshot"})
        assert {(e["partitionkey"], e["subject"]): e["data"]["row"] for e in found} == wanted
        assert len(found) == len(wanted) == 8
        assert lost == []
    ids = feed.deliver(name, 3, [3], op="u")
    body = feed.events(name, cursor=cursor).json()
    assert ([event["id"] for event in body["events"]], body["snapshot"]) == (ids, False)


def test_a_revocation_ends_streams_and_polls_within_two_seconds_and_every_cursor_of_before_is_refused(feed: Site) -> None:
    name = "archive.ends"
    feed.deliver(name, 0, [1])
    body = feed.events(name).json()
    reading = Reading(feed, name)
    until("the stream", lambda: len(reading.events) == 1)
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(lambda: (feed.events(name, cursor=body["next"], wait_seconds=60), time.monotonic()))
        time.sleep(0.3)
        assert not polling.done()
        one = agreements.load(feed.settings, dataset.load(feed.settings.schemas))[name]
        done = Statement(Act.REVOKE, name, one.grant_hash, "archive", 1_800_000_000_000, "", "the purpose has ended")
        agreed.act(feed.settings, one, done)
        said = time.monotonic()
        answer, at = polling.result(30)
    until("the stream's end", lambda: reading.ended_at)
    print(f"after a revocation was signed: a poll ended in {at - said:.3f} s, a stream in {reading.ended_at - said:.3f} s")
    assert at - said < 2
    assert reading.ended_at - said < 2
    assert answer.status_code == 404
    assert reading.named[-1][0] == "end"
    assert feed.events(name, cursor=body["next"]).status_code == 404
    assert feed.get("archive", f"/v1/agreements/{name}/events/stream").status_code == 404
    states = {one["id"]: one["state"] for one in feed.get("archive", "/v1/agreements").json()["agreements"]}
    assert states[name] == "revoked"
    declaration.apply(feed.settings)
    assert feed.events(name).status_code == 404


def test_an_agreement_that_is_narrowed_narrows_what_was_delivered_before(feed: Site) -> None:
    name = "archive.narrow"
    ids = feed.deliver(name, 0, [1])
    assert feed.events(name).json()["events"][0]["data"]["row"].keys() == {"register_number", "province_code"}
    reading = Reading(feed, name)
    until("the stream", lambda: len(reading.events) == 1)
    file = feed.settings.agreements / f"{name}.yaml"
    narrower = text(name, fields="register_number")
    file.write_text(narrower, encoding="utf-8")
    declaration.apply(feed.settings)
    applied = time.monotonic()
    until("the stream's end", lambda: reading.ended_at)
    assert reading.ended_at - applied < 2
    (event,) = feed.events(name).json()["events"]
    assert event["id"] == ids[0]
    assert event["data"]["row"] == {"register_number": "Số 1"}


def test_the_client_of_the_documents_gets_everything_once_and_goes_on_where_it_stopped(feed: Site, tmp_path: Path) -> None:
    name = "archive.client"
    (program,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "poll.py").write_text(program, encoding="utf-8")
    env = {
        "PATH": os.environ["PATH"], "PYTHONUTF8": "1", "FEED_URL": feed.url, "FEED_AGREEMENT": name,
        "FEED_USER": "agency-archive", "FEED_PASSWORD": access.password(feed.settings, "agency-archive"),
    }  # fmt: skip
    for turn in range(2):
        ids = [one for lane in range(LANES) for one in feed.deliver(name, lane, [turn, turn + 1, turn + 2])]
        printed, wanted = tmp_path / f"{turn}.out", len(ids)
        with printed.open("wb") as out:
            client = subprocess.Popen([sys.executable, "poll.py"], cwd=tmp_path, env=env, stdout=out, stderr=subprocess.STDOUT)
            try:
                until("the deliveries", lambda p=printed, n=wanted: len(p.read_text().splitlines()) >= n)
                (last,) = feed.deliver(name, 0, [9])
                until("a delivery that comes", lambda p=printed, n=wanted: len(p.read_text().splitlines()) > n)
                until("its note", lambda: feed.events(name, cursor=(tmp_path / "cursor").read_text()).json()["events"] == [])
            finally:
                client.kill()
                client.wait(10)
        assert sorted(json.loads(line)["id"] for line in printed.read_text().splitlines()) == sorted([*ids, last])


def test_a_process_that_is_killed_goes_on_and_its_readers_with_their_cursors(
    feed: Site, given_events: dict[int, list[str]]
) -> None:
    body = feed.events(MAIN, limit=5).json()
    reading = Reading(feed, MAIN)
    until("a stream", lambda: reading.events)
    feed.kill()
    until("its end", lambda: reading.ended_at)
    feed.start()
    rest, _, _ = feed.all(MAIN, cursor=body["next"])
    assert by_lane(body["events"] + rest) == given_events


def test_nothing_of_a_refused_request_is_in_the_log_and_no_name_or_number_of_a_delivery(
    feed: Site, given_events: dict[int, list[str]]
) -> None:
    canary, name = "CANARY012345678901", "archive.births"
    with feed.client() as client:
        client.get(f"/v1/agreements/{canary}/events")
        client.get(f"/v1/agreements/{name}/events", params={"cursor": canary, canary: canary})
        client.get(f"/v1/agreements/{name}/events/stream", headers={"Last-Event-ID": canary, "X-" + canary: canary})
        client.post(f"/v1/{canary}", content=canary)
        client.get("/v1/agreements", auth=(f"agency-{canary}", canary))
        client.get(f"/v1/agreements/{name}/events", params={"cursor": canary * 500})
        assert client.get("/v1/agreements", headers={"X-Long": canary * 2_000}).status_code in (400, 431)
    log = feed.log()
    assert canary not in log
    assert "Số " not in log
    assert "Traceback" not in log
    assert all(line.startswith("{") for line in log.splitlines())
