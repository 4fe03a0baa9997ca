"""Every metric and every log event of the bus, in one catalogue that is also the documentation.

Metrics: `counter("bus_captured_events_total").labels(dataset="civil.birth").inc()`; a name that is not in METRICS raises.
Logs: `log = logger("capture", "civil")`, `log.info("snapshot_started", table="birth")`; an event that is not in EVENTS raises.
Labels and log fields carry names, counts and positions, never a row, a PIN, a name or a key.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import prometheus_client as prometheus
import structlog

Kind = Literal["counter", "gauge", "histogram"]
_LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60)


@dataclass(frozen=True, slots=True)
class Metric:
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    help: str


METRICS: dict[str, Metric] = {
    # capture
    "bus_captured_events_total": Metric("counter", ("dataset", "op"), "events", "Change events committed to Kafka"),
    "bus_capture_transactions_total": Metric("counter", ("database",), "transactions", "Kafka transactions committed by capture"),
    "bus_capture_lag_seconds": Metric(
        "gauge",
        ("database",),
        "seconds",
        "Age of the newest commit captured, 0 when caught up; grows from the last contact on while the database is away",
    ),
    "bus_replication_slot_retained_bytes": Metric("gauge", ("database",), "bytes", "WAL the slot keeps from being recycled"),
    "bus_snapshot_rows_total": Metric("counter", ("dataset",), "rows", "Rows read by the initial snapshot"),
    "bus_snapshot_progress_ratio": Metric("gauge", ("database",), "0 to 1", "Initial snapshot: rows read of the estimate"),
    "bus_capture_streaming": Metric("gauge", ("database",), "0 or 1", "1 while streaming, 0 during the snapshot"),
    "bus_capture_table_held": Metric(
        "gauge", ("dataset",), "0 or 1", "1 while the table does not fit its schema, so that nothing of it flows"
    ),
    # register replica
    "bus_register_people": Metric("gauge", (), "people", "People in the replica"),
    "bus_register_lag_records": Metric("gauge", (), "records", "Register records not yet in the replica"),
    "bus_register_ready": Metric("gauge", (), "0 or 1", "1 once the replica is complete enough to verify against"),
    # engine
    "bus_engine_events_total": Metric("counter", ("dataset",), "events", "Events processed and committed"),
    "bus_engine_transactions_total": Metric(
        "counter", ("result",), "transactions", "Engine transactions by result (committed, aborted)"
    ),
    "bus_engine_batch_seconds": Metric("histogram", (), "seconds", "From a batch's first record read to its commit"),
    "bus_engine_lag_records": Metric(
        "gauge", ("dataset",), "records", "Input records not yet processed, over this worker's lanes"
    ),
    "bus_engine_waiting": Metric(
        "gauge", ("cause",), "0 or 1", "1 while this worker commits nothing and tries again, by what it waits for"
    ),
    "bus_engine_past_records_total": Metric(
        "counter", ("agreement",), "records", "Verified events read again to give an agreement its past, committed"
    ),
    "bus_engine_past_lanes": Metric("gauge", (), "lanes", "Lanes in which this worker is giving an agreement its past"),
    "bus_engine_agreements_refused": Metric(
        "gauge", (), "0 or 1", "1 while the newest agreements cannot be used and those before them stay in force"
    ),
    "bus_engine_agreements_version": Metric(
        "gauge", (), "offset", "The end of `bus.agreements` that this worker's policy speaks for"
    ),
    "bus_engine_register_lag_records": Metric(
        "gauge", (), "records", "Register records the replica lacked when this worker last looked, which it does at its start"
    ),
    "bus_engine_lanes": Metric("gauge", (), "lanes", "Lanes this worker owns"),
    "bus_verdicts_total": Metric("counter", ("dataset", "verdict"), "events", "Verification outcomes"),
    "bus_outcomes_total": Metric(
        "counter", ("agreement", "dataset", "outcome"), "events", "What each agreement made of the events"
    ),
    "bus_dead_letters_total": Metric("counter", ("dataset", "code"), "events", "Events that could not be processed"),
    "bus_end_to_end_seconds": Metric("histogram", ("dataset",), "seconds", "Commit at the source to commit of the deliveries"),
    # processors
    "bus_mismatches_windowed": Metric("gauge", ("dataset", "field"), "events", "Mismatches in the last closed window"),
    "bus_verified_windowed": Metric("gauge", ("dataset", "status"), "events", "Verified events in the last closed window"),
    "bus_window_end_timestamp_seconds": Metric("gauge", (), "Unix seconds", "End of the last closed window"),
    "bus_processor_events_total": Metric("counter", (), "events", "Verified events that the processor took in"),
    "bus_processor_unreadable_total": Metric("counter", (), "events", "Records that the processor could not decode"),
    "bus_processor_behind_seconds": Metric("gauge", (), "seconds", "How far windows close later than they should"),
    # schema registry
    "bus_registry_requests_total": Metric(
        "counter",
        ("route", "code"),
        "requests",
        "Requests to the schema registry by route and HTTP status; route `none`: refused before",
    ),
    "bus_registry_schemas": Metric("gauge", (), "schemas", "Schemas that the registry holds, each id once"),
    "bus_registry_subjects": Metric("gauge", (), "subjects", "Subjects that the registry holds"),
    "bus_registry_write_seconds": Metric(
        "histogram", (), "seconds", "A change of the registry, from its turn to its own record read back"
    ),
    # feed
    "bus_feed_requests_total": Metric(
        "counter",
        ("route", "code"),
        "requests",
        "Requests to the HTTP feed by route and HTTP status, a stream at its beginning; route `none`: refused before",
    ),
    "bus_feed_events_total": Metric(
        "counter", ("agreement",), "events", "Deliveries that the feed has answered with, repeats too"
    ),
    "bus_feed_streams": Metric("gauge", (), "streams", "Streams of server-sent events that are open"),
    # ledger
    "bus_ledger_difference": Metric(
        "gauge",
        ("dataset", "agreement"),
        "records",
        "Places where the conservation ledger does not come out; agreement `none`: of the dataset as such",
    ),
    "bus_ledger_checked_timestamp_seconds": Metric(
        "gauge", (), "Unix seconds", "When the ledger had last accounted for all lanes"
    ),
    # webhooks
    "bus_webhook_attempts_total": Metric(
        "counter", ("agreement", "result"), "requests", "Requests to an agency's webhook by what became of them"
    ),
    "bus_webhook_delivered_events_total": Metric("counter", ("agreement",), "events", "Events that a webhook has taken"),
    "bus_webhook_waiting_events": Metric(
        "gauge", ("agreement",), "events", "Events that a webhook has refused, and those of the same person behind them"
    ),
    "bus_webhook_given_up_events": Metric(
        "gauge", ("agreement",), "events", "Of these, those refused in every attempt: `bus webhook retry` sends them again"
    ),
    "bus_webhook_failures": Metric("gauge", ("agreement",), "requests", "Failures in a row, of everything sent there"),
    "bus_webhook_stopped": Metric(
        "gauge", ("agreement",), "0 or 1", "1 when nothing is sent: the webhook has said 410, or its deliveries cannot be read"
    ),
    # platform
    "bus_process_up": Metric("gauge", ("process",), "0 or 1", "1 while the supervisor sees the process alive"),
    "bus_process_restarts_total": Metric("counter", ("process",), "restarts", "Restarts by the supervisor"),
}

EVENTS: dict[str, str] = {
    "process_started": "a process of the bus has started",
    "process_stopping": "a process was asked to stop",
    "process_failed": "a process gives up; `reason` says why and what to do",
    "snapshot_started": "the initial snapshot begins or resumes",
    "snapshot_finished": "all tables are read; streaming follows",
    "streaming_started": "logical replication runs",
    "heartbeat": "a heartbeat passed through the slot",
    "capture_waiting": "the database or Kafka is not reachable or not ready; capture tries again after a pause",
    "slot_created": "a replication slot was made; the snapshot follows",
    "columns_ignored": "a table has columns that its schema does not name; they never flow",
    "table_held": "a table does not fit its schema: its changes wait in the database's log, the other tables go on",
    "table_resumed": "a table that was held has published all that waited",
    "position_forgotten": "capture of this database begins anew with a snapshot",
    "register_ready": "the replica is complete",
    "register_read_anew": "the replica is filled from the register's topic: its first time, another schema, or it was damaged",
    "register_awaited": "a worker waits for the replica; `reason` says whether it is not complete or too far behind",
    "agreements_compiled": "`bus.agreements` says something new, and it is ready to take effect after `seconds`",
    "agreements_in_force": "from the next transaction on this worker works by these agreements",
    "agreements_refused": "the newest agreements cannot be used, so those before stay in force; `reason` says which and why",
    "agreement_unfit": "an agreement names what this process's schemas do not have: nothing is told under it by webhook or feed",
    "agreements_unreadable": "the agreements' topic cannot be followed; what is in force stays and it is tried again",
    "past_begun": "an agreement is given its past in these lanes, or goes on being given it",
    "past_caught_up": "an agreement has its past in this lane and gets what comes from now on",
    "past_stopped": "an agreement's past cannot be given, so it gets nothing; `reason` says at which record and why",
    "lanes_assigned": "this worker now owns these lanes",
    "lanes_revoked": "these lanes go to another worker",
    "producer_awaited": "no transactional producer could be made, so it is tried again; `reason` says why",
    "lanes_awaited": "where lanes stand could not be read, so they wait and it is tried again; `reason` says why",
    "transaction_aborted": "a Kafka transaction was aborted; the batch is read again",
    "consumer_replaced": "the group's coordinator shut this member out, or does not answer it; it joins anew; `reason` tells",
    "producer_replaced": "the producer was thrown away after an indefinite error, or because another writer took its place",
    "schema_registered": "a schema became a subject's next version",
    "schema_deleted": "versions of a subject were hidden, or removed for good (`permanent`)",
    "registry_configured": "a compatibility level or a mode was set or cleared; `subject` null: the default of all",
    "request_failed": "the registry or the feed could not answer a request; `reason` is the kind of error",
    "stream_ended": "a stream of the feed: `reason` ended, left by its reader, slow (cut off), or failed",
    "dead_letter": "an event could not be processed; topic, partition, offset and code only",
    "ledger_difference": "an event or a delivery is not accounted for; the fields say what, in which topic, lane and offset",
    "ledger_awaited": "the ledger could not be taken and is tried again; `reason` says why",
    "webhook_started": "deliveries under this agreement are sent to its webhook from now on",
    "webhook_stopped": "nothing more is sent under this agreement",
    "webhook_awaited": "a webhook waits and it is tried again; `reason` says why",
    "webhook_given_up": "an event was refused in every attempt; it and what comes after it of that person wait for an operator",
    "webhook_gone": "a webhook has said 410: nothing more is sent there until an operator says so",
    "webhook_lost": "deliveries of this lane were deleted before they were sent: nothing more is sent until an operator says so",
    "webhook_circuit_open": "a webhook refuses everything: one probe at a time by the schedule",
    "webhook_circuit_closed": "a webhook that has refused everything takes events again",
    "webhook_told": "an operator's word was heard",
    "library": "a line of a library that we run, such as Faust; `library` says which",
    "child_started": "the supervisor started a process",
    "child_exited": "a process ended; it is started again after a pause; `status`: its exit status, or the signal that ended it",
}

_registry = prometheus.CollectorRegistry()
_made: dict[str, Any] = {}


def counter(name: str) -> prometheus.Counter:
    made: prometheus.Counter = _instrument(name, "counter")
    return made


def gauge(name: str) -> prometheus.Gauge:
    made: prometheus.Gauge = _instrument(name, "gauge")
    return made


def histogram(name: str) -> prometheus.Histogram:
    made: prometheus.Histogram = _instrument(name, "histogram")
    return made


def _instrument(name: str, kind: Kind) -> Any:
    spec = METRICS[name]
    if spec.kind != kind:
        raise TypeError(f"{name} is a {spec.kind}")
    if name not in _made:
        made: dict[Kind, Any] = {"counter": prometheus.Counter, "gauge": prometheus.Gauge, "histogram": prometheus.Histogram}
        extra = {"buckets": _LATENCY_BUCKETS} if kind == "histogram" else {}
        _made[name] = made[kind](name, spec.help, spec.labels, registry=_registry, **extra)
    return _made[name]


def serve(port: int = 0) -> int:
    """Expose /metrics on loopback; returns the port (0 picks a free one). Process metrics (RSS, CPU) included."""
    prometheus.ProcessCollector(registry=_registry)
    server, _ = prometheus.start_http_server(port, addr="127.0.0.1", registry=_registry)
    return int(server.server_port)


def start(home: Path, process: str, level: str = "info") -> None:
    """What every process of the bus does first: logging, /metrics on a free loopback port, and run/<process>.json
    ({"pid", "metrics_port", "started_at"}), by which the supervisor and Prometheus find it."""
    configure_logging(level)
    run = home / "run"
    run.mkdir(parents=True, exist_ok=True)
    about = {"pid": os.getpid(), "metrics_port": serve(), "started_at": time.time()}
    part = run / f"{process}.json.part"
    part.write_text(json.dumps(about), encoding="utf-8")
    part.replace(run / f"{process}.json")


def _known_event(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if event["event"] not in EVENTS:
        raise KeyError(f"log event {event['event']!r} is not in the catalogue")
    return event


def _tracebacks(human: bool) -> Any:
    """Tracebacks without local variables, which can be a person's data. On a terminal the renderer writes them."""
    if human:
        return lambda _, __, event: event
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure_logging(level: str = "info") -> None:
    """JSON lines on stderr, or coloured text on a terminal. Called once, by the composition root."""
    human = sys.stderr.isatty()
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = plain if human else structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            _known_event,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _tracebacks(human),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def logger(process: str, instance: str = "") -> structlog.typing.FilteringBoundLogger:
    """A logger bound to its process, e.g. ("capture", "civil")."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(process=process, instance=instance)
    return bound


def document() -> str:
    """The catalogue as Markdown: docs/telemetry.md."""
    lines = [
        "# Metrics and log events",
        "",
        "Made by `python -m bus.telemetry > docs/telemetry.md` from the catalogue in `bus/telemetry.py`; a test compares them.",
        "A name that is not in the catalogue cannot be used. Labels and log fields carry names, counts and positions only,",
        "never a row, a PIN, a name or a key; a label's values are a closed list, or as many as datasets or agreements.",
        "",
        "## Metrics",
        "Every process serves `/metrics` on a port of 127.0.0.1 of its own; `run/targets.json` of the home lists the ports",
        "for Prometheus. Beside these each process tells its memory and CPU time as `process_*`, as usual.",
        "",
        "| metric | kind | labels | unit | what it says |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| `{n}` | {m.kind} | {', '.join(m.labels)} | {m.unit} | {m.help} |" for n, m in METRICS.items()]
    lines += [
        "",
        "## Log events",
        "Logs go to stderr: JSON lines, or coloured text on a terminal; under `bus up` they go to the home's `log/`.",
        "Each line has `event`, `level`, `timestamp`, `process` and `instance`, and the fields of its event.",
        "",
        "| event | what happened |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {text} |" for name, text in EVENTS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
