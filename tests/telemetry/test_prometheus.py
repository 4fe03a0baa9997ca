"""A real Prometheus scrapes a whole bus in life; whatever rules, alerts and the dashboard ask for has an answer."""

from __future__ import annotations

import http
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import telemetry
from tests.pipeline.bus import Bus
from tests.telemetry.test_dashboard import panels
from tests.telemetry.test_rules import RULES, rules

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="install the Debian package prometheus")

LIFE_SECONDS = 40
PATIENCE_SECONDS = 120.0
ELSEWHERE = ("bus_webhook_", "bus_feed_")
"""No agreement of this bus is delivered by webhook or feed, so nothing tells these; test_webhooks.py scrapes its own."""


class Prometheus:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1/"

    def get(self, path: str, **words: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(words)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant answer that have a number."""
        return [s for s in self.get("query", query=expr)["result"] if math.isfinite(float(s["value"][1]))]


def _configuration(bus: Bus, into: Path) -> Path:
    """The configuration as delivered, but for its bus and its haste."""
    shutil.copytree(RULES, into)
    for name, changes in {
        "prometheus.yml": [
            ("../../.bus/run/targets.json", str(bus.settings.home / "run" / "targets.json")),
            (r"(\w+_interval): \d+s", r"\1: 1s"),
        ],
        "recording.rules.yml": [(r"interval: \d+s", "interval: 1s")],
    }.items():
        text = (into / name).read_text(encoding="utf-8")
        for old, new in changes:
            text, count = re.subn(old, new, text)
            assert count, old
        (into / name).write_text(text, encoding="utf-8")
    return into / "prometheus.yml"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def prometheus(running_bus: Bus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    place, port = tmp_path_factory.mktemp("prometheus"), _free_port()
    words = [f"--config.file={_configuration(running_bus, place / 'rules')}", f"--storage.tsdb.path={place / 'data'}"]
    simulate = ["--home", str(running_bus.settings.home), "simulate", "--rate", "40", "--seconds", str(LIFE_SECONDS)]
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(["prometheus", *words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        life = subprocess.Popen([sys.executable, "-m", "bus.cli.main", *simulate], stdout=log, stderr=log)
        try:
            yield Prometheus(port)
        finally:
            for process in (life, server):
                process.terminate()
                process.wait(30)
    running_bus.rest()


def _until_answered(prometheus: Prometheus, asked: dict[str, str]) -> list[str]:
    """Names of questions that had no answer all the time."""
    open_, deadline = dict(asked), time.monotonic() + PATIENCE_SECONDS
    while open_ and time.monotonic() < deadline:
        time.sleep(0.5)
        try:
            open_ = {name: expr for name, expr in open_.items() if not prometheus.query(expr)}
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:  # that one says that it is not ready yet
                raise  # a query that Prometheus does not understand
        except OSError:
            continue  # it is not up yet
    return [f"{name}: {expr}" for name, expr in open_.items()]


def operands(expr: str) -> list[str]:
    """What an alert compares, so that an answer is due also when all is well."""
    inner = re.fullmatch(r"absent\((.*)\)", expr)
    parts = re.split(r"\s(?:and on \(\w+\)|==|<|>)\s", inner[1] if inner else expr)
    return [part for part in parts if not re.fullmatch(r"[\d.e]+", part)]


def test_operands_of_alerts() -> None:
    assert operands('absent(up{job="bus"} == 1)') == ['up{job="bus"}']
    assert operands("a:b:sum > 100 and on (dataset) c:d:rate1m == 0") == ["a:b:sum", "c:d:rate1m"]
    assert operands("x < max_over_time(x[1h])") == ["x", "max_over_time(x[1h])"]


def test_every_process_is_scraped(prometheus: Prometheus, running_bus: Bus) -> None:
    wanted = {*running_bus.workers(), "supervisor"}
    assert not _until_answered(prometheus, {name: f'up{{job="bus",instance="{name}"}} == 1' for name in wanted})
    assert {s["metric"]["instance"] for s in prometheus.query('up{job="bus"}')} == wanted


def test_every_metric_of_the_catalogue_arrives(prometheus: Prometheus) -> None:
    asked = {name: f"{name}_bucket" if metric.kind == "histogram" else name for name, metric in telemetry.METRICS.items()}
    assert not _until_answered(prometheus, {name: expr for name, expr in asked.items() if not name.startswith(ELSEWHERE)})


def test_every_metric_has_the_labels_of_the_catalogue_and_no_others(prometheus: Prometheus) -> None:
    _until_answered(prometheus, {"windows": "bus_mismatches_windowed", "life": "bus:end_to_end_seconds:p99_5m"})
    for name, metric in telemetry.METRICS.items():
        for series in prometheus.query(name):
            assert set(series["metric"]) == {"__name__", "job", "instance", "role", *metric.labels}, name


def test_every_recording_rule_has_an_answer(prometheus: Prometheus) -> None:
    assert not _until_answered(prometheus, {rule["record"]: rule["expr"] for rule in rules("recording.rules.yml")})
    assert not _until_answered(prometheus, {rule["record"]: rule["record"] for rule in rules("recording.rules.yml")})


def test_every_alert_has_something_to_compare(prometheus: Prometheus) -> None:
    asked = {f"{rule['alert']} {n}": expr for rule in rules("alerts.rules.yml") for n, expr in enumerate(operands(rule["expr"]))}
    here = {name: expr for name, expr in asked.items() if not any(one in expr for one in ELSEWHERE)}
    assert not _until_answered(prometheus, here)


def test_every_panel_shows_something(prometheus: Prometheus) -> None:
    asked = {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$dataset", ".*").replace("$__rate_interval", "30s")
        for panel in panels()
        for target in panel["targets"]
    }
    assert not _until_answered(prometheus, asked)


def test_no_rule_fails_and_no_critical_alert_fires_when_all_is_well(prometheus: Prometheus) -> None:
    _until_answered(prometheus, {"life": "bus:end_to_end_seconds:p99_5m"})
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] != "err", rule
            if rule["type"] == "alerting" and rule["labels"]["severity"] == "critical":
                assert rule["state"] != "firing", rule
