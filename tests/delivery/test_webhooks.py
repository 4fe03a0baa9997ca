"""Laws of the process on a real broker: what stands in an agency's topic arrives, in order, whatever dies; what ends stops."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import fastavro
import pytest
import yaml
from confluent_kafka import Consumer, KafkaError, Producer
from standardwebhooks import Webhook
from typer.testing import CliRunner, Result

from bus import access, config, telemetry
from bus.avro import catalogue, dataset, frame
from bus.cli.main import app
from bus.config import ConfigError, Settings, Webhooks
from bus.core import failpoint, topics
from bus.core.failpoint import WEBHOOKS
from bus.delivery import journal, signing
from bus.engine import agreement_log, agreements, plan
from bus.platform import agreed, declaration
from bus.registry import log as registry
from bus.signatures.statement import Act, Statement
from tests.delivery.receiver import Receiver, Request, receiving
from tests.delivery.test_signing import verify_ed25519
from tests.slower import SEVERAL

pytestmark = pytest.mark.timeout(300)
LANES = 4
NAMES = ("crash", "down", "well", "revoked", "moves", "less", "signed")
CANARY = "Nguyễn Thị Chim Hoàng Yến"
TEXT = """\
agency: archive
name: {name}
purpose: Archive {number}
legal_basis: Decree 1
valid_from: 2026-01-01T00:00:00+07:00
delivery: {{webhook: '{url}'}}
datasets:
  - dataset: civil.birth
    fields: [{fields}]
"""
STOP_SECONDS = 2.0
_RUN = (
    "import sys; from pathlib import Path; from bus import config; from bus.delivery import webhooks; "
    "webhooks.run(config.load(Path(sys.argv[1]), env={}))"
)


class Trial:
    """Agreements with webhooks on the home's broker, a receiver for each, and the process, in a home of its own."""

    def __init__(self, settings: Settings, place: Path, receivers: dict[str, Receiver]) -> None:
        self.place, self.receivers = place, receivers
        self.files = place / "agreements"
        self.files.mkdir()
        ports = [one.port for one in receivers.values()]
        self.settings = dataclasses.replace(
            settings, agreements=self.files, webhooks=Webhooks(("127.0.0.1",), tuple(ports), max_waiting_events=100)
        )
        self.home = place / "home"
        self.home.mkdir()
        for name in ("secrets", "parties", "run"):
            (self.home / name).symlink_to(settings.home / name)
        document = {"webhooks": {"allowed_hosts": ["127.0.0.1"], "ports": ports, "max_waiting_events": 100}}
        (self.home / config.SETTINGS_FILE).write_text(yaml.safe_dump(document), encoding="utf-8")
        self.log = self.home / "webhooks.log"
        self.process: subprocess.Popen[bytes] | None = None
        for name, one in receivers.items():
            self.write(name, one.url)
        self.apply()
        self._made: dict[str, int] = {}
        self._seqs: Counter[tuple[str, int]] = Counter()

    def write(self, name: str, url: str, fields: str = "register_number, province_code") -> None:
        text = TEXT.format(name=name, number=uuid4().hex, url=url, fields=fields)
        (self.files / f"archive.{name}.yaml").write_text(text, encoding="utf-8")

    def apply(self) -> None:
        declaration.apply(self.settings)

    def start(self, armed: str = "") -> None:
        environment = os.environ | ({failpoint.VARIABLE: armed} if armed else {})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", _RUN, str(self.home)], stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def bus(self, *words: str) -> Result:
        """`bus webhook …`, in this process; an error that a person can mend is its `exception`."""
        with mock.patch.dict(os.environ):
            return CliRunner().invoke(app, ["--home", str(self.home), "webhook", *words])

    def deliver(self, name: str, count: int, people: int = 12) -> None:
        """Puts deliveries into the agreement's topic as the engine would: one transaction, `seq` by lane."""
        agreement = agreements.load(self.settings, DATASETS)[f"archive.{name}"]
        subject, schema = next(iter(plan.delivery_schemas(DATASETS, dataset.register_of(DATASETS), agreement).items()))
        head = frame.header(registry.read(access.confluent(self.settings, "admin")).id_for(subject, schema))
        parsed = fastavro.parse_schema(json.loads(catalogue.text_of(schema)))
        made = {"transactional.id": f"trial {name}", "partitioner": "murmur2_random"}
        producer = Producer(access.confluent(self.settings, "admin") | made)
        producer.init_transactions(30)
        producer.begin_transaction()
        for number in range(self._made.get(name, 0), self._made.get(name, 0) + count):
            person = number * 7 % people
            self._seqs[name, person % LANES] += 1
            seq = self._seqs[name, person % LANES]
            data = {"register_number": f"{CANARY} {number}", "province_code": "01"}
            value = {
                "event_id": number.to_bytes(16, "big"), "seq": seq, "agreement": agreement.id, "op": "c", "verdict": None,
                "grant_hash": agreement.grant_hash, "ts_ms": 1_790_000_000_000, "row_key": bytes(16), "data": data,
            }  # fmt: skip
            out = io.BytesIO()
            fastavro.schemaless_writer(out, parsed, value)
            producer.produce(topics.agency(agreement.id), head + out.getvalue(), bytes([person]) * 16, partition=person % LANES)
        producer.commit_transaction(30)
        self._made[name] = self._made.get(name, 0) + count

    def told(self, name: str) -> dict[str, Any]:
        done = self.bus("show", f"archive.{name}", "--json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found


DATASETS = dataset.load(Settings().schemas)


@pytest.fixture(scope="module")
def trial(bus_home: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with ExitStack() as stack:
        receivers = {name: stack.enter_context(receiving()) for name in NAMES}
        made = Trial(bus_home, tmp_path_factory.mktemp("webhooks"), receivers)
        try:
            yield made
        finally:
            made.kill()
            declaration.apply(bus_home)


@pytest.fixture
def running(trial: Trial) -> Trial:
    for one in trial.receivers.values():
        one.script = lambda _: "200"
    if trial.process is None:
        trial.start()
    return trial


def whole(receiver: Receiver, count: int) -> bool:
    return len({event["id"] for event in receiver.events()}) == count


def check(trial: Trial, name: str) -> None:
    """Everything arrived; of each person in order; under the same ids with the same contents; signed."""
    receiver, agreement = trial.receivers[name], f"archive.{name}"
    assert {int(e["id"], 16) for e in receiver.events()} == set(range(trial._made[name]))
    told: dict[str, list[int]] = {}
    for event in receiver.events():
        told.setdefault(event["partitionkey"], []).append(int(event["sequence"]))
    for found in told.values():
        first = list(dict.fromkeys(found))
        assert first == sorted(first)
    contents: dict[str, set[bytes]] = {}
    (key,) = signing.keys(trial.settings, agreement)
    for request in receiver.requests:
        contents.setdefault(request.id, set()).add(request.body)
        assert verify_ed25519(key.public(), request.headers, request.body)
        assert not {"authorization", "cookie"} & request.headers.keys()
        assert CANARY not in str(request.headers)
    assert all(len(found) == 1 for found in contents.values())


def test_killed_at_any_moment_it_loses_nothing_and_keeps_each_persons_order(trial: Trial) -> None:
    """And so with a receiver that refuses some, answers nothing, and takes what it does not confirm."""
    receiver = trial.receivers["crash"]
    taken: set[str] = set()

    def script(request: Request) -> str:
        number = len(receiver.requests)
        if number % 5 == 0 and request.id not in taken:
            taken.add(request.id)
            return "close"
        return "429:1" if number % 23 == 0 else "200"

    receiver.script = script
    trial.deliver("crash", 400)
    for kills in range(2):
        trial.start()
        before = len(receiver.requests)
        receiver.until("requests", lambda before=before, kills=kills: len(receiver.requests) >= before + 2 + kills)  # type: ignore[misc]
        trial.kill()
        trial.deliver("crash", 50)
    receiver.script = lambda _: "200"
    trial.start()
    assert trial.bus("retry", "archive.crash").exit_code == 0
    receiver.until("everything", lambda: whole(receiver, 500))
    check(trial, "crash")


@pytest.mark.parametrize("point", [pytest.param(point, marks=SEVERAL, id=point.value) for point in WEBHOOKS])
def test_wherever_it_dies_nothing_is_lost(trial: Trial, point: failpoint.Point) -> None:
    receiver = trial.receivers["crash"]
    receiver.script = lambda request: "500" if len(receiver.requests) % 3 == 0 else "200"
    trial.kill()
    for count in (1, 2, 3):
        trial.deliver("crash", 60)
        trial.start(f"{point.value}:{count}")
        assert trial.process is not None
        assert trial.process.wait(60) == -9
    receiver.script = lambda _: "200"
    trial.start()
    assert trial.bus("retry", "archive.crash").exit_code == 0
    receiver.until("everything", lambda: whole(receiver, trial._made["crash"]))
    check(trial, "crash")


def test_one_that_hangs_delays_no_other_and_is_shown_with_what_waits(running: Trial) -> None:
    down, well = running.receivers["down"], running.receivers["well"]
    down.script = lambda _: "hang"
    running.deliver("down", 20)
    down.until("the first", lambda: bool(down.requests))
    delays = []
    for round_ in range(1, 5):
        running.deliver("well", 5)
        began = time.monotonic()
        well.until("its deliveries", lambda round_=round_: whole(well, 5 * round_))  # type: ignore[misc]
        delays.append(time.monotonic() - began)
    assert sorted(delays)[len(delays) // 2] < 1.0
    assert not down.taken
    check(running, "well")
    down.until(
        "all that waits to be told of", lambda: 20 <= sum(running.told("down")[part] for part in ("unread", "waiting")) < 30
    )
    well.until("that nothing does", lambda: (told := running.told("well"))["unread"] == told["waiting"] == 0)


def test_every_metric_of_webhooks_is_told_with_the_labels_of_the_catalogue(running: Trial) -> None:
    well = running.receivers["well"]
    before = len(well.taken)
    running.deliver("well", 1)
    well.until("it", lambda: len(well.taken) > before)
    port = json.loads((running.home / "run" / "webhooks.json").read_text(encoding="utf-8"))["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = answer.read().decode()
    for name, metric in telemetry.METRICS.items():
        if name.startswith("bus_webhook_"):
            series = re.findall(rf"^{name}{{(.*?)}} ", found, re.MULTILINE)
            assert any('agreement="archive.well"' in labels for labels in series), name
            assert all(set(re.findall(r"(\w+)=", labels)) == set(metric.labels) for labels in series), name


def test_410_is_shown_and_an_operator_resumes(running: Trial) -> None:
    well = running.receivers["well"]
    well.script = lambda _: "410"
    before = len(well.taken)
    running.deliver("well", 3)
    well.until("the answer", lambda: well.requests[-1:] != well.taken[-1:])
    operator = access.confluent(running.settings, "operator") | {"log_level": 0}
    well.until("that on record", lambda: bool(journal.read(operator, "operator").states["archive.well"]["stopped"]))
    told = running.told("well")
    assert told["state"] == "stopped"
    assert (told["last_code"], "bus webhook resume archive.well" in told["why"]) == ("410", True)
    well.script = lambda _: "200"
    assert running.bus("resume", "archive.well").exit_code == 0
    well.until("what waited", lambda: len(well.taken) > before)
    running.deliver("well", 1)
    well.until("the rest", lambda: whole(well, running._made["well"]))


def stops(trial: Trial) -> dict[str, float]:
    """Agreement -> when the process last said that nothing more is sent, Unix seconds."""
    lines = [json.loads(line) for line in trial.log.read_text(encoding="utf-8").splitlines() if '"webhook_stopped"' in line]
    return {one["agreement"]: dt.datetime.fromisoformat(one["timestamp"]).timestamp() for one in lines}


def published(trial: Trial, key: bytes) -> float:
    """When `bus.agreements` last said something new of an agreement, Unix seconds."""
    consumer = agreement_log.reader(access.confluent(trial.settings, "admin") | {"log_level": 0})
    at_ms = 0
    while (message := consumer.poll(20)) is not None and message.error() is None:
        at_ms = message.timestamp()[1] if message.key() == key else at_ms
    consumer.close()
    assert at_ms
    return at_ms / 1000


def test_what_is_revoked_stops_at_once_and_a_new_address_gets_the_rest(running: Trial) -> None:
    ends, moves = running.receivers["revoked"], running.receivers["moves"]
    moves.script = lambda _: "hang"
    ends.script = lambda request: "hang" if request.events()[0]["source"] == "/agreements/archive.revoked" else "200"
    running.deliver("revoked", 10)
    running.deliver("moves", 10)
    for one in (ends, moves):
        one.until("a request", lambda one=one: bool(one.requests))  # type: ignore[misc]
    (running.files / "archive.revoked.yaml").unlink()
    running.write("moves", running.receivers["revoked"].url)
    running.apply()
    ends.until("the end", lambda: {"archive.revoked", "archive.moves"} <= stops(running).keys())
    assert stops(running)["archive.revoked"] - published(running, b"archive.revoked") < STOP_SECONDS
    assert stops(running)["archive.moves"] - published(running, b"archive.moves") < STOP_SECONDS
    sent = len(moves.requests)
    ends.until("what the other address did not take", lambda: whole(ends, 10))
    assert {event["source"] for event in ends.events()} == {"/agreements/archive.moves"}
    assert len(moves.requests) == sent
    assert isinstance(running.bus("show", "archive.revoked").exception, ConfigError)


def test_what_waited_under_an_earlier_text_is_sent_as_far_as_todays_opens_it(running: Trial) -> None:
    less = running.receivers["less"]
    less.script = lambda _: "hang"
    running.deliver("less", 10)
    less.until("a request", lambda: bool(less.requests))
    running.write("less", less.url, "province_code")
    running.apply()
    less.until("the end", lambda: "archive.less" in stops(running))
    before, less.script = len(less.requests), lambda _: "200"
    less.until("what waited", lambda: whole(less, 10))
    assert all(event["data"]["row"] == {"province_code": "01"} for event in less.events())
    later = less.requests[before:]
    assert not [one for one in later if CANARY in one.body.decode()]
    assert not {one.id for one in later} & {one.id for one in less.requests[:before]}, "other contents under the same id"


def test_a_signed_revocation_ends_it_whatever_is_published_and_what_waited_says_nothing_under_a_new_text(running: Trial) -> None:
    signed = running.receivers["signed"]
    signed.script = lambda _: "hang"
    running.deliver("signed", 10)
    signed.until("a request", lambda: bool(signed.requests))
    one = agreements.load(running.settings, DATASETS)["archive.signed"]
    done = Statement(Act.REVOKE, one.id, one.grant_hash, "archive", 1_800_000_000_000, "", "the purpose has ended")
    agreed.act(running.settings, one, done)
    said = time.time()
    signed.until("the end", lambda: "archive.signed" in stops(running))
    assert stops(running)["archive.signed"] - said < STOP_SECONDS
    before, signed.script = len(signed.requests), lambda _: "200"
    running.write("signed", signed.url)
    running.apply()
    signed.until("what waited", lambda: whole(signed, 10))
    assert {event["type"] for event in signed.events()} == {"vn.lienthong.civil.birth.withdrawn"}
    assert {event["data"]["row"] for event in signed.events()} == {None}
    assert not [one for one in signed.requests[before:] if CANARY in one.body.decode()]


def test_its_user_reads_the_topics_of_its_agreements_and_no_others(trial: Trial) -> None:
    config_ = access.confluent(trial.settings, journal.PRINCIPAL) | {"log_level": 0}
    consumer = Consumer(config_ | {"group.id": journal.GROUP})
    still = (trial.files / "archive.revoked.yaml").exists()  # which another test has ended
    wanted = {"archive.well": True, "archive.revoked": still, "tax.taxpayers": False}
    for topic, may in [*((topics.agency(name), may) for name, may in wanted.items()), ("verified.civil.birth", False)]:
        error = consumer.list_topics(topic, timeout=20).topics[topic].error
        assert (error is None or error.code() != KafkaError.TOPIC_AUTHORIZATION_FAILED) == may, topic
    consumer.close()
    producer = Producer(config_)
    refused: list[Any] = []
    producer.produce("agency.archive.well", b"x", partition=0, on_delivery=lambda error, _: refused.append(error))
    producer.flush(20)
    assert [error.code() for error in refused] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]


def test_commands_show_keys_send_a_test_event_and_list(trial: Trial, tmp_path: Path) -> None:
    well = trial.receivers["well"]
    well.script = lambda _: "200"
    file = tmp_path / "well.secret"
    done = trial.bus("secret", "archive.well", "--hmac", str(file))
    assert done.exit_code == 0
    shared = file.read_text(encoding="utf-8").strip()
    assert shared not in done.stdout + done.stderr
    before = len(well.requests)
    assert trial.bus("test", "archive.well").exit_code == 0
    request = well.requests[before]
    (event,) = Webhook(shared).verify(request.body, request.headers)
    assert (event["type"], "data" in event) == ("vn.lienthong.test", False)
    public = re.search(r"whpk_\S+", done.stdout)
    assert public is not None
    assert len(base64.b64decode(public.group().removeprefix("whpk_"))) == 32
    assert verify_ed25519(public.group(), request.headers, request.body)
    well.script = lambda _: "500"
    assert trial.bus("test", "archive.well").exit_code == 1
    listed = json.loads(trial.bus("list", "--json").stdout)
    assert "archive.well" in {one["agreement"] for one in listed}
    wrong = trial.bus("show", "tax.taxpayers").exception
    assert isinstance(wrong, ConfigError)
    assert "archive.well" in str(wrong)


def test_nothing_of_a_person_is_in_logs_or_in_what_is_on_record(trial: Trial) -> None:
    """After all of the above."""
    lines = trial.log.read_text(encoding="utf-8")
    assert '"webhook_started"' in lines
    found = journal.read(access.confluent(trial.settings, "operator") | {"log_level": 0}, "operator")
    kept = json.dumps(found.states)
    assert "archive.well" in found.states
    for text in (lines, kept):
        assert CANARY not in text
        assert "Chim Ho" not in text
        for person in range(12):
            assert (bytes([person]) * 16).hex() not in text
    assert "Traceback" not in lines
