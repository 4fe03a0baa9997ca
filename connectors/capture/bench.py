"""How fast capture is: python -m connectors.capture.bench [--rows N] [--updates N] [--seconds S] [--home HOME] [--json]

Fills civil.birth of a bus's embedded database, then measures the snapshot, a backlog of inserts, a backlog of updates, and
the latency of single-row transactions at a steady rate; CPU seconds and memory are those of the capture process alone.
Without --home it starts a Kafka and a PostgreSQL of its own and removes them afterwards. With --home, that bus's table
civil.birth must be empty and its capture of `civil` must not run.
"""

from __future__ import annotations

import argparse
import io
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import psutil
import psycopg
from confluent_kafka import Consumer, TopicPartition

from bus import access, config
from bus.avro import dataset, derive
from bus.config import Settings

DOMAIN, TABLE = "civil", "birth"
TRANSACTION_ROWS = 1000
WAIT_SECONDS = 600.0
POLL_SECONDS = 0.1
LATENCY_PER_SECOND = 500
WARM_UP = 0.2
"""Part of the latency run that is not counted."""

_ROWS = """
INSERT INTO birth (birth_id, register_number, registered_on, child_pin, child_name, child_sex, child_birth_date,
                   child_weight_grams, birth_place, mother_pin, mother_name, mother_birth_year, father_pin, father_name,
                   father_birth_year, province_code)
SELECT gen_random_uuid(), %(run)s || '-' || i, date '2026-01-01' + (i %% 300),
       lpad((i::bigint * 7919 %% 1000000000000)::text, 12, '0'), 'Nguyễn Thị Minh ' || i,
       CASE WHEN i %% 2 = 0 THEN 'Nam' ELSE 'Nữ' END::gioi_tinh, date '2026-01-01' + (i %% 300), 2500 + i %% 1500,
       'Bệnh viện Phụ sản Trung ương',
       lpad((i::bigint * 104729 %% 1000000000000)::text, 12, '0'), 'Trần Thị Hồng ' || i %% 1000, 1985 + i %% 20,
       CASE WHEN i %% 10 > 0 THEN lpad((i::bigint * 1299709 %% 1000000000000)::text, 12, '0') END,
       'Nguyễn Văn Đức ' || i %% 1000, CASE WHEN i %% 10 > 0 THEN 1980 + i %% 20 END, lpad((i %% 34 + 1)::text, 2, '0')
FROM generate_series(%(first)s::int, %(last)s::int) AS i"""
_PLATFORM = """
import sys
from pathlib import Path
from bus import config, platform
settings = config.load(Path(sys.argv[1]), env={})
if sys.argv[2] == "start":
    platform.start_kafka(settings), platform.start_postgres(settings), platform.declare(settings)
else:
    platform.stop(settings)
"""
_CAPTURE = """
import sys
from pathlib import Path
from bus import config
from connectors.capture.process import run
run(config.load(Path(sys.argv[1]), env={}), sys.argv[2])
"""


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    changes: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float

    def figures(self) -> dict[str, Any]:
        return {
            "phase": self.name,
            "changes": self.changes,
            "per_second": round(self.changes / self.seconds),
            "cpu_us_per_change": round(self.cpu_seconds / self.changes * 1e6, 1),
            "peak_rss_mb": round(self.peak_rss_mb),
        }


class Capture:
    """The capture process, seen from outside: its log, its metrics, its CPU time."""

    def __init__(self, settings: Settings) -> None:
        self._run_file = settings.home / "run" / f"capture-{DOMAIN}.json"
        self._run_file.unlink(missing_ok=True)
        command = [sys.executable, "-c", _CAPTURE, str(settings.home), DOMAIN]
        self._child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._process = psutil.Process(self._child.pid)
        self._log: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        for line in self._child.stderr or ():
            if line.startswith("{"):
                self._log.put(json.loads(line))

    def until(self, event: str) -> None:
        """Waits for a log event. Raises RuntimeError when the process fails instead."""
        while (line := self._log.get(timeout=WAIT_SECONDS))["event"] != event:
            if line["event"] == "process_failed":
                raise RuntimeError(line["reason"])

    def captured(self, op: str) -> int:
        """Change events of one kind that it has committed."""
        port = json.loads(self._run_file.read_text())["metrics_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        wanted = f'bus_captured_events_total{{dataset="{DOMAIN}.{TABLE}",op="{op}"}} '
        return next((int(float(line[len(wanted) :])) for line in text.splitlines() if line.startswith(wanted)), 0)

    def cpu_seconds(self) -> float:
        used = self._process.cpu_times()
        return float(used.user + used.system)

    def peak_rss_mb(self) -> float:
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024

    def measure(self, name: str, op: str, changes: int) -> Phase:
        """Until `changes` events of kind `op` are committed, from now on."""
        began, cpu = time.monotonic(), self.cpu_seconds()
        while (count := self.captured(op)) < changes:
            if time.monotonic() - began > WAIT_SECONDS:
                raise RuntimeError(f"{name}: {count} of {changes} after {WAIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        return Phase(name, changes, time.monotonic() - began, self.cpu_seconds() - cpu, self.peak_rss_mb())

    def stop(self) -> None:
        self._child.send_signal(signal.SIGTERM)
        self._child.wait(10)


@contextmanager
def running(settings: Settings) -> Iterator[Capture]:
    capture = Capture(settings)
    try:
        yield capture
    finally:
        capture.stop()


@contextmanager
def own_home() -> Iterator[Path]:
    """A bus of our own: Kafka, PostgreSQL, and everything declared."""
    with tempfile.TemporaryDirectory(prefix="bus-bench-") as directory:
        home = Path(directory) / ".bus"
        try:
            subprocess.run([sys.executable, "-c", _PLATFORM, str(home), "start"], check=True)
            yield home
        finally:
            subprocess.run([sys.executable, "-c", _PLATFORM, str(home), "stop"], check=True)


def fill(db: psycopg.Connection[Any], run: str, rows: int) -> None:
    """Inserts `rows`, TRANSACTION_ROWS a transaction."""
    for first in range(1, rows + 1, TRANSACTION_ROWS):
        db.execute(_ROWS, {"run": run, "first": first, "last": min(rows, first + TRANSACTION_ROWS - 1)})


def update(db: psycopg.Connection[Any], rows: int) -> None:
    """Updates rows of the first run, TRANSACTION_ROWS a transaction."""
    db.execute("CREATE TEMP TABLE chosen AS SELECT row_number() OVER () AS n, birth_id FROM birth LIMIT %s", (rows,))
    db.execute("CREATE INDEX ON chosen (n)")
    for first in range(1, rows + 1, TRANSACTION_ROWS):
        db.execute(
            "UPDATE birth b SET birth_place = 'Trạm y tế xã ' || c.n, updated_at = now() FROM chosen c "
            "WHERE c.birth_id = b.birth_id AND c.n BETWEEN %s AND %s",
            (first, first + TRANSACTION_ROWS - 1),
        )


def latency_ms(settings: Settings, db: psycopg.Connection[Any], seconds: float) -> dict[str, Any]:
    """Commit at the source to a read_committed consumer, at LATENCY_PER_SECOND single-row transactions a second."""
    found: list[float] = []
    stop = threading.Event()
    reader = threading.Thread(target=_read_latencies, args=(settings, found, stop))
    reader.start()
    count = int(LATENCY_PER_SECOND * seconds)
    began = time.monotonic()
    for i in range(1, count + 1):
        db.execute(_ROWS, {"run": "latency", "first": i, "last": i})
        time.sleep(max(0.0, began + i / LATENCY_PER_SECOND - time.monotonic()))
    _wait(lambda: len(found) >= count, 30.0)
    stop.set()
    reader.join()
    kept = sorted(found[int(len(found) * WARM_UP) :])
    place: Callable[[float], float] = lambda q: round(kept[int(q * (len(kept) - 1))], 1)  # noqa: E731
    return {"phase": "latency_ms", "changes": len(kept), "p50": place(0.5), "p99": place(0.99), "max": place(1.0)}


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _read_latencies(settings: Settings, found: list[float], stop: threading.Event) -> None:
    chosen = dataset.load(settings.schemas)[f"{DOMAIN}.{TABLE}"]
    schema = fastavro.parse_schema(derive.change(chosen))
    place = {"group.id": "developer", "enable.auto.commit": False, "isolation.level": "read_committed", "fetch.wait.max.ms": 5}
    consumer = Consumer({**access.confluent(settings, "developer"), **place})
    lanes = consumer.list_topics(chosen.topic, 10.0).topics[chosen.topic].partitions
    ends = [consumer.get_watermark_offsets(TopicPartition(chosen.topic, lane), 10.0)[1] for lane in lanes]
    consumer.assign([TopicPartition(chosen.topic, lane, end) for lane, end in zip(lanes, ends, strict=True)])
    while not stop.is_set():
        for message in consumer.consume(500, 0.05):
            value = message.value()
            if message.error() is None and isinstance(value, bytes):
                event: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
                found.append(time.time() * 1000 - event["source"]["ts_ms"])
    consumer.close()


def bench(home: Path, rows: int, updates: int, seconds: float) -> Iterator[dict[str, Any]]:
    """The figures of each phase as it ends."""
    settings = config.load(home, env={})
    with psycopg.connect(access.owner_dsn(settings, DOMAIN), autocommit=True) as db:
        if (found := db.execute("SELECT count(*) FROM birth").fetchone()) != (0,):
            raise RuntimeError(f"{DOMAIN}.{TABLE} has {found and found[0]} rows: the benchmark wants it empty")
        fill(db, "snapshot", rows)
        db.execute("ANALYZE birth")
        with running(settings) as capture:
            capture.until("snapshot_started")
            yield capture.measure("snapshot", "r", rows).figures()
            capture.until("streaming_started")
        fill(db, "backlog", rows)
        with running(settings) as capture:
            capture.until("streaming_started")
            yield capture.measure("inserts", "c", rows).figures()
        update(db, updates)
        with running(settings) as capture:
            capture.until("streaming_started")
            yield capture.measure("updates", "u", updates).figures()
            yield latency_ms(settings, db, seconds)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m connectors.capture.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the latency run")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON array on stdout instead of a table")
    asked = parser.parse_args(arguments)
    found = []
    with _home(asked.home) as home:
        for figures in bench(home, asked.rows, asked.updates, asked.seconds):
            found.append(figures)
            if not asked.json:
                print("  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
    if asked.json:
        print(json.dumps(found))
    return 0


@contextmanager
def _home(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
    else:
        with own_home() as home:
            yield home


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
