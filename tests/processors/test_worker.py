"""Laws of the Faust worker on a real broker: committed events only, each once, nothing shown to anybody but Prometheus."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported without saying so

from bus import access
from tests.processors.trial import LANES, SOURCE, Trial, until
from tests.slower import SEVERAL

MATCH = [("holder", "MATCH", ())]
MISMATCH = [("holder", "MISMATCH", ("full_name", "sex")), ("other", "MISMATCH", ("full_name",))]
NOT_FOUND = [("holder", "MATCH", ()), ("other", "NOT_FOUND", ())]
COUNTS = {
    f'bus_verified_windowed{{dataset="{SOURCE}",status="MATCH"}}': 6.0,
    f'bus_verified_windowed{{dataset="{SOURCE}",status="MISMATCH"}}': 5.0,
    f'bus_verified_windowed{{dataset="{SOURCE}",status="NOT_FOUND"}}': 2.0,
    f'bus_verified_windowed{{dataset="{SOURCE}",status="NO_PIN"}}': 0.0,
    f'bus_mismatches_windowed{{dataset="{SOURCE}",field="full_name"}}': 5.0,
    f'bus_mismatches_windowed{{dataset="{SOURCE}",field="sex"}}': 5.0,
}
END = "bus_window_end_timestamp_seconds"
STOP_SECONDS = 20.0
"""Far longer than a stop takes by itself on an idle machine, far shorter than what hangs would hold it up."""


def _batch(trial: Trial) -> list[bytes]:
    people = [MATCH] * 6 + [MISMATCH] * 5 + [NOT_FOUND] * 2
    return [trial.event(number, each) for number, each in enumerate(people)]


def _window_of(trial: Trial, at: float, width: float) -> dict[str, float]:
    """The gauges once the window that holds `at` is the last closed one."""
    end = at // width * width + width
    return until(lambda: (found := trial.samples()).get(END) == end and found, width * 3 + 40)  # type: ignore[no-any-return]


def _readable(trial: Trial, isolation: str) -> int:
    """How many records a consumer sees in the topic."""
    config = {"group.id": "probe", "isolation.level": isolation, "enable.partition.eof": True, "auto.offset.reset": "earliest"}
    consumer = Consumer(access.confluent(trial.settings, "admin") | config)
    consumer.assign([TopicPartition(trial.topic, lane, 0) for lane in range(LANES)])
    count, ended = 0, set[int | None]()
    while len(ended) < LANES:
        for message in consumer.consume(100, 0.5):
            if message.error():
                ended.add(message.partition())
            else:
                count += 1
    consumer.close()
    return count


def test_aborted_transactions_are_not_counted_and_bad_bytes_stop_nothing(shared_trial: Trial) -> None:
    trial, width = shared_trial, 4.0
    with trial.worker(width) as worker:
        until(lambda: END in trial.samples())
        before = _readable(trial, "read_committed"), _readable(trial, "read_uncommitted")
        producer, at = trial.producer("trial"), time.time()
        trial.send(producer, _batch(trial), at, commit=False)
        trial.send(producer, _batch(trial)[:7], at)
        trial.send(producer, [b"", b"\x00\x00\x00\x00\x01", b"\x00\x7f\xff\xff\xff\x02", b"{}"], at)
        trial.send(producer, _batch(trial), at, commit=False)
        trial.send(producer, _batch(trial)[7:], at)
        after = _readable(trial, "read_committed"), _readable(trial, "read_uncommitted")
        assert (after[0] - before[0], after[1] - before[1]) == (17, 43), (
            "the broker holds aborted records that a reader could see"
        )
        found = _window_of(trial, at, width)
        assert {key: found[key] for key in COUNTS} == COUNTS
        assert worker.poll() is None


@SEVERAL
def test_whatever_compression_a_producer_chooses_is_read(shared_trial: Trial) -> None:
    trial, width = shared_trial, 8.0
    with trial.worker(width):
        until(lambda: END in trial.samples())
        at = time.time()
        for number, codec in enumerate(("none", "gzip", "snappy", "lz4", "zstd")):
            values = [trial.event(number * 100 + n, MATCH) for n in range(20)]  # many alike: worth compressing
            trial.send(trial.producer("trial", codec), values, at)
        found = _window_of(trial, at, width)
        assert found[f'bus_verified_windowed{{dataset="{SOURCE}",status="MATCH"}}'] == 100


def test_a_killed_worker_starts_again_and_counts_each_event_of_its_window_once(shared_trial: Trial) -> None:
    trial, width = shared_trial, 24.0
    producer = trial.producer("trial")
    with trial.worker(width) as worker:
        until(lambda: END in trial.samples())
        begin = until(lambda: (now := time.time()) % width < 4 and now, width + 5)
        trial.send(producer, _batch(trial)[:9], begin)
        until(lambda: trial.samples().get("bus_processor_events_total", 0) >= 9)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    trial.send(producer, _batch(trial)[9:], begin + 0.5)
    with trial.worker(width):
        found = _window_of(trial, begin, width)
        assert {key: found[key] for key in COUNTS} == COUNTS


def test_a_plain_processor_goes_on_where_it_stopped(shared_trial: Trial, tmp_path: Path) -> None:
    """Its committed offsets pass the gaps that aborted transactions and ends of transactions leave."""
    trial, file, producer = shared_trial, tmp_path / "noted", shared_trial.producer("trial")
    file.touch()

    def noted() -> list[int]:
        return sorted(int(line) for line in file.read_text().split())

    def batch(numbers: range) -> None:
        for number in numbers:
            trial.send(producer, [trial.event(10_000 + number, MATCH)], time.time(), commit=False)
            trial.send(producer, [trial.event(number, MATCH)], time.time())

    first, second = range(1_000, 1_020), range(2_000, 2_020)
    with trial.worker(name="plain", module="plain", PLAIN_FILE=str(file)) as worker:
        batch(first)
        until(lambda: set(first) <= set(noted()))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    before = noted()
    batch(second)
    with trial.worker(name="plain", module="plain", PLAIN_FILE=str(file)):
        until(lambda: set(second) <= set(noted()))
    assert noted() == sorted([*before, *second]), "what was there before the stop does not come again, what was aborted never"


def test_the_worker_listens_for_prometheus_alone_and_stops_in_time(shared_trial: Trial) -> None:
    trial = shared_trial
    with trial.worker(4.0) as worker:
        until(lambda: END in trial.samples())
        listening = [c.laddr for c in psutil.Process(worker.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert [address.ip for address in listening] == ["127.0.0.1"], "one port, the one of /metrics, on loopback"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(STOP_SECONDS) == 0


@SEVERAL
def test_a_thread_that_does_not_end_does_not_hold_up_a_stop(shared_trial: Trial) -> None:
    trial = shared_trial
    with trial.worker(4.0, TRIAL_THREAD="1") as worker:
        until(lambda: END in trial.samples())
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(STOP_SECONDS) == 0


@SEVERAL
def test_an_agent_that_fails_ends_the_process_with_a_reason(shared_trial: Trial) -> None:
    """It must not live on with its partitions held and nobody reading them."""
    trial = shared_trial
    connection = access.confluent(trial.settings, "admin")
    admin = AdminClient(connection)
    admin.create_topics([NewTopic("processors-fault", 1)])["processors-fault"].result(20)
    with trial.worker(4.0, name="faulty", fault=True) as worker:
        producer = Producer(connection)
        producer.produce("processors-fault", b"x", timestamp=int(time.time() + 600) * 1000)  # whenever reading begins
        producer.flush(20)
        assert worker.wait(60) != 0
    told = (trial.settings.home.parent / "faulty" / "worker.log").read_text()
    assert '"event": "process_failed"' in told
    assert "RuntimeError" in told


def test_no_personal_data_in_the_workers_log(shared_trial: Trial) -> None:
    trial = shared_trial
    log = trial.settings.home.parent / "processors" / "worker.log"
    if not log.exists():
        with trial.worker(4.0):
            until(lambda: END in trial.samples())
            trial.send(trial.producer("trial"), [*_batch(trial), b"\x00Canary 012345678901"], time.time())
            until(lambda: trial.samples().get("bus_processor_events_total"))
    text = log.read_text()
    assert "process_started" in text
    assert "Canary" not in text
    assert "012345678901" not in text
    assert os.environ.get("DEVLOG") is None
