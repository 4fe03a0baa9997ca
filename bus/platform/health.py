"""What runs and how far it has come, gathered from the records, the processes' own /metrics, and nothing else."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import psutil
from prometheus_client.parser import text_string_to_metric_families

from bus.config import ConfigError, Settings
from bus.platform import ports, presence, processes, roster, targets

_ANSWER_SECONDS = 2.0

Sample = tuple[str, dict[str, str], float]


@dataclass(frozen=True, slots=True)
class ProcessState:
    """`state` is 'up' or 'down'; uptime in seconds and memory (RSS) in bytes are 0 when it is down."""

    name: str
    state: str
    pid: int
    uptime_seconds: float
    memory_bytes: int
    restarts: int
    metrics_port: int | None


@dataclass(slots=True)
class Flow:
    """One dataset: how many events capture has committed and the engine has processed, by the running processes' count.

    None: the process that counts it has not told yet, which is not the same as 0.
    """

    captured: int | None = None
    processed: int | None = None
    lag_records: int | None = None
    dead_letters: int | None = None
    verdicts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    home: str
    supervisor: str
    """'up', 'starting', 'down', or 'lost': it was killed, and what it started may live on."""
    processes: list[ProcessState]
    ports: dict[str, int]
    datasets: dict[str, Flow]
    capture_lag_seconds: dict[str, float]
    register_people: int
    held: list[str]
    """Datasets of which nothing is captured, for the table does not fit its schema."""
    waiting: list[str]
    """What engine workers wait for that commit nothing and try again (bus.core.outcome.Cause); empty when none does."""


def gather(settings: Settings) -> Status:
    found = samples(settings)
    return Status(
        home=str(settings.home),
        supervisor=supervisor_state(settings),
        processes=[_state(record, found, targets.endpoints(settings)) for record in processes.records(settings)],
        ports=_ports(settings),
        datasets=flows(found),
        capture_lag_seconds={labels["database"]: value for name, labels, value in found if name == "bus_capture_lag_seconds"},
        register_people=max((int(value) for name, _, value in found if name == "bus_register_people"), default=0),
        held=sorted(labels["dataset"] for name, labels, value in found if name == "bus_capture_table_held" and value),
        waiting=waiting(found),
    )


def supervisor_state(settings: Settings) -> str:
    start = presence.read_start(settings)
    if presence.is_up(settings):
        return "up" if start and start["ready"] else "starting"
    return "lost" if start and not start["error"] else "down"


def samples(settings: Settings) -> list[Sample]:
    """Every sample of every process that answers."""
    found: list[Sample] = []
    for port in targets.endpoints(settings).values():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_ANSWER_SECONDS) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            continue  # it has just ended, or is not yet listening
        found += [(s.name, s.labels, s.value) for family in text_string_to_metric_families(text) for s in family.samples]
    return found


def waiting(found: list[Sample]) -> list[str]:
    """What engine workers wait for (values of Cause), whichever of them."""
    return sorted({labels["cause"] for name, labels, value in found if name == "bus_engine_waiting" and value})


def flows(found: list[Sample]) -> dict[str, Flow]:
    """Dataset -> flow, in name order, summed over processes."""
    made: dict[str, Flow] = {}
    for name, labels, value in found:
        if "dataset" not in labels:
            continue
        flow = made.setdefault(labels["dataset"], Flow())
        match name:
            case "bus_captured_events_total":
                flow.captured = (flow.captured or 0) + int(value)
            case "bus_engine_events_total":
                flow.processed = (flow.processed or 0) + int(value)
            case "bus_engine_lag_records":
                flow.lag_records = (flow.lag_records or 0) + int(value)
            case "bus_dead_letters_total":
                flow.dead_letters = (flow.dead_letters or 0) + int(value)
            case "bus_verdicts_total":
                flow.verdicts[labels["verdict"]] = flow.verdicts.get(labels["verdict"], 0) + int(value)
    return dict(sorted(made.items()))


def _state(record: processes.Record, found: list[Sample], listening: dict[str, int]) -> ProcessState:
    restarts = sum(int(v) for n, labels, v in found if n == "bus_process_restarts_total" and labels["process"] == record.name)
    process = record.process()
    try:
        memory = process.memory_info().rss if process else 0
    except psutil.Error:
        process, memory = None, 0
    uptime = max(0.0, time.time() - record.created) if process else 0.0
    state = "up" if process else "down"
    return ProcessState(record.name, state, record.pid, uptime, memory, restarts, listening.get(record.name))


def _ports(settings: Settings) -> dict[str, int]:
    servers: list[str] = [*roster.servers(settings), *([] if settings.registry.url else [roster.REGISTRY]), roster.FEED]
    try:
        found = ports.read(settings)
    except ConfigError:
        return {}
    if found is None:
        return {}
    listed = {"kafka": found.kafka, "postgres": found.postgres, "registry": found.registry, "feed": found.feed}
    return {name: port for name, port in listed.items() if name in servers and port}
