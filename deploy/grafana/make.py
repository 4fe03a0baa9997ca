"""Writes bus.json, the dashboard: `python deploy/grafana/make.py`. Import it in Grafana and choose the Prometheus data source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("bus.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
Query = tuple[str, str]
"""(PromQL, legend)."""


def _targets(queries: list[Query], instant: bool) -> list[dict[str, Any]]:
    return [
        {
            "datasource": SOURCE,
            "expr": expr,
            "legendFormat": legend,
            "refId": chr(ord("A") + n),
            "instant": instant,
            "range": not instant,
        }
        for n, (expr, legend) in enumerate(queries)
    ]


def _panel(kind: str, title: str, about: str, unit: str, queries: list[Query], width: int, height: int) -> dict[str, Any]:
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "targets": _targets(queries, kind == "stat"),
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "gridPos": {"w": width, "h": height, "x": 0, "y": 0},
    }


def stat(
    title: str, about: str, unit: str, expr: str, limits: tuple[float, float] | None = None, low_is_bad: bool = False
) -> dict[str, Any]:
    """One number; `limits` are where it turns yellow and red."""
    made = _panel("stat", title, about, unit, [(expr, "")], 4, 4)
    if limits:
        colours = ("red", "yellow", "green") if low_is_bad else ("green", "yellow", "red")
        steps = [
            {"color": colours[0], "value": None},
            *({"color": c, "value": v} for c, v in zip(colours[1:], limits, strict=True)),
        ]
        made["fieldConfig"]["defaults"]["thresholds"] = {"mode": "absolute", "steps": steps}
    made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
    return made


def graph(title: str, about: str, unit: str, *queries: Query, width: int = 12, stacked: bool = False) -> dict[str, Any]:
    made = _panel("timeseries", title, about, unit, list(queries), width, 8)
    made["fieldConfig"]["defaults"]["custom"] = {
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return made


def row(title: str) -> dict[str, Any]:
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1, "x": 0, "y": 0}}


OF_DATASET = '{dataset=~"$dataset"}'

PANELS = [
    row("Is it well?"),
    stat(
        "Processes down", "Supervised processes that are not running", "none", "count(bus_process_up == 0) or vector(0)", (1, 1)
    ),
    stat("Lanes with an owner", "Partitions that an engine worker reads", "none", "sum(bus_engine_lanes)"),
    stat(
        "Register ready",
        "1: the replica is complete, verification runs",
        "none",
        "min(bus_register_ready)",
        (1, 1),
        low_is_bad=True,
    ),
    stat(
        "Longest capture lag",
        "Age of the newest captured commit of the slowest database",
        "s",
        "max(bus_capture_lag_seconds)",
        (10, 60),
    ),
    stat(
        "Waiting for the engine", "Events captured and not yet processed", "short", "sum(bus_engine_lag_records)", (1000, 10000)
    ),
    stat(
        "Dead letters, 10 min",
        "Events that could not be processed",
        "short",
        "sum(dataset:bus_dead_letters:increase10m)",
        (1, 10),
    ),
    row("Flow"),
    graph(
        "Captured",
        "Change events committed to Kafka, by dataset",
        "cps",
        (f"sum by (dataset) (rate(bus_captured_events_total{OF_DATASET}[$__rate_interval]))", "{{dataset}}"),
        stacked=True,
    ),
    graph(
        "Processed",
        "Events verified and fanned out, by dataset",
        "cps",
        (f"sum by (dataset) (rate(bus_engine_events_total{OF_DATASET}[$__rate_interval]))", "{{dataset}}"),
        stacked=True,
    ),
    graph(
        "Delivered, by agreement",
        "Deliveries to each agency",
        "cps",
        (
            'sum by (agreement) (rate(bus_outcomes_total{outcome="DELIVERED",dataset=~"$dataset"}[$__rate_interval]))',
            "{{agreement}}",
        ),
    ),
    graph(
        "Outcomes",
        "What agreements made of the events: delivered, or the reason for withholding",
        "cps",
        (f"sum by (outcome) (rate(bus_outcomes_total{OF_DATASET}[$__rate_interval]))", "{{outcome}}"),
        stacked=True,
    ),
    row("Quality"),
    graph(
        "Verdicts",
        "Outcome of the comparison with the population register",
        "cps",
        (f"sum by (verdict) (rate(bus_verdicts_total{OF_DATASET}[$__rate_interval]))", "{{verdict}}"),
        stacked=True,
        width=8,
    ),
    graph(
        "Share of mismatches",
        "Of the events of ten minutes",
        "percentunit",
        (f"dataset:bus_mismatches:ratio10m{OF_DATASET}", "{{dataset}}"),
        width=8,
    ),
    graph(
        "Mismatches by field",
        "In the last closed minute, by dataset and field of the register",
        "short",
        (f"sum by (dataset, field) (bus_mismatches_windowed{OF_DATASET})", "{{dataset}} {{field}}"),
        width=8,
    ),
    row("Time"),
    graph(
        "End to end",
        "From the commit at the source to the commit of the deliveries",
        "s",
        ("bus:end_to_end_seconds:p50_5m", "p50"),
        ("bus:end_to_end_seconds:p99_5m", "p99"),
        width=8,
    ),
    graph(
        "Capture lag",
        "Age of the newest captured commit; 0 when caught up",
        "s",
        ("max by (database) (bus_capture_lag_seconds)", "{{database}}"),
        width=8,
    ),
    graph(
        "Waiting for the engine",
        "Events captured and not yet processed",
        "short",
        (f"dataset:bus_engine_lag_records:sum{OF_DATASET}", "{{dataset}}"),
        width=8,
    ),
    graph(
        "WAL kept by slots",
        "On the agencies' disks until capture acknowledges it",
        "bytes",
        ("max by (database) (bus_replication_slot_retained_bytes)", "{{database}}"),
        width=8,
    ),
    graph(
        "Engine transactions",
        "Committed and aborted; and the time of one batch",
        "cps",
        ("sum by (result) (rate(bus_engine_transactions_total[$__rate_interval]))", "{{result}}"),
        width=8,
    ),
    graph(
        "Batch time",
        "From a batch's first record read to its commit",
        "s",
        ("histogram_quantile(0.5, sum by (le) (rate(bus_engine_batch_seconds_bucket[5m])))", "p50"),
        ("histogram_quantile(0.99, sum by (le) (rate(bus_engine_batch_seconds_bucket[5m])))", "p99"),
        width=8,
    ),
    row("Parts"),
    graph(
        "Register",
        "People in the replica, and records not in it yet",
        "short",
        ("max(bus_register_people)", "people"),
        ("max(bus_register_lag_records)", "waiting"),
        width=6,
    ),
    graph(
        "Snapshots",
        "Rows read of the estimate",
        "percentunit",
        ("max by (database) (bus_snapshot_progress_ratio)", "{{database}}"),
        width=6,
    ),
    graph("Memory", "Resident, by process", "bytes", ('process_resident_memory_bytes{job="bus"}', "{{instance}}"), width=6),
    graph("Restarts, 10 min", "By the supervisor", "short", ("process:bus_process_restarts:increase10m", "{{process}}"), width=6),
]


def place(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers the panels and lays them out from left to right, top to bottom."""
    x = y = height = 0
    for number, panel in enumerate(panels, 1):
        at = panel["gridPos"]
        if x + at["w"] > COLUMNS:
            x, y, height = 0, y + height, 0
        panel["id"], at["x"], at["y"] = number, x, y
        x, height = x + at["w"], max(height, at["h"])
    return panels


def dashboard() -> dict[str, Any]:
    dataset = {
        "name": "dataset",
        "label": "Dataset",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(bus_engine_events_total, dataset)", "refId": "dataset"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": "lien-thong-bus",
        "title": "Liên Thông",
        "description": "One bus: is it well, what flows, does it agree with the register, how long does it take",
        "tags": ["lien-thong"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}, dataset]
        },
        "annotations": {"list": []},
        "panels": place(PANELS),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
