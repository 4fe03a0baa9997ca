"""Laws of the catalogue: the code says what the catalogue says, no more, no less, and no label can explode or name anybody."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from bus import config, telemetry

CLOSED = {"cause", "op", "verdict", "status", "outcome", "code", "result", "field", "route"}
"""Labels whose values are closed lists in bus/core/outcome.py, in the register's schema, or in bus/registry/web.py."""
DECLARED = {"dataset", "database", "agreement", "process"}
"""Labels with one value for each thing that the checkout or the settings declare."""
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def _sources() -> Iterator[tuple[Path, ast.Module]]:
    for room in ("bus", "connectors"):
        for path in sorted((config.ROOT / room).rglob("*.py")):
            if path != Path(telemetry.__file__).resolve():
                yield path, ast.parse(path.read_text(encoding="utf-8"))


def _texts() -> set[str]:
    """Every string literal of the code."""
    return {n.value for _, tree in _sources() for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _calls() -> Iterator[tuple[str, str, str]]:
    """(where, receiver and method, literal) of every method call whose first argument that is a string is a literal."""
    for path, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                literal = next((a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), None)
                if literal is not None:
                    yield f"{path.relative_to(config.ROOT)}:{node.lineno}", ast.unparse(node.func), literal


def test_every_metric_made_is_in_the_catalogue_with_its_kind() -> None:
    made = [
        (where, name.split(".")[1], text)
        for where, name, text in _calls()
        if re.fullmatch(r"telemetry\.(counter|gauge|histogram)", name)
    ]
    assert len(made) > 10, "the search finds nothing"
    for where, kind, name in made:
        assert name in telemetry.METRICS, where
        assert telemetry.METRICS[name].kind == kind, where


def test_every_event_logged_is_in_the_catalogue() -> None:
    logged = [
        (where, text)
        for where, name, text in _calls()
        if name.rpartition(".")[2] in LEVELS and re.search(r"(\b|_)(log|logger|told)\b", name.rpartition(".")[0])
    ]
    assert len(logged) > 10, "the search finds nothing"
    for where, event in logged:
        assert event in telemetry.EVENTS, where


def test_everything_in_the_catalogue_is_used() -> None:
    texts = _texts()
    assert [name for name in (*telemetry.METRICS, *telemetry.EVENTS) if name not in texts] == []


def test_labels_have_few_values() -> None:
    for name, metric in telemetry.METRICS.items():
        assert set(metric.labels) <= CLOSED | DECLARED, name
        assert len(metric.labels) <= 3, name


def test_names_follow_prometheus() -> None:
    for name, metric in telemetry.METRICS.items():
        assert re.fullmatch(r"bus_[a-z_]+", name), name
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert metric.unit, name
        assert metric.help, name
        assert metric.kind != "histogram" or name.endswith("_seconds"), name


def test_a_name_outside_the_catalogue_raises() -> None:
    with pytest.raises(KeyError):
        telemetry.counter("bus_unknown_total")
    with pytest.raises(TypeError, match="is a gauge"):
        telemetry.counter("bus_engine_lanes")


def test_the_document_is_the_catalogue() -> None:
    assert (config.ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8") == telemetry.document(), (
        "run python -m bus.telemetry > docs/telemetry.md"
    )


def _logged(script: str) -> list[str]:
    """Lines on stderr of a process that logs."""
    head = "from bus import telemetry\ntelemetry.configure_logging()\nlog = telemetry.logger('capture', 'civil')\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, cwd=config.ROOT, check=False, timeout=60
    )
    return done.stderr.splitlines()


def test_logs_are_json_lines_off_a_terminal() -> None:
    (line,) = _logged("log.info('heartbeat', lsn='0/1')")
    found = json.loads(line)
    assert (found["event"], found["process"], found["instance"], found["level"]) == ("heartbeat", "capture", "civil", "info")
    assert found["timestamp"].endswith("Z")


def test_an_event_outside_the_catalogue_raises() -> None:
    assert "not in the catalogue" in "\n".join(_logged("log.info('something else')"))


SECRETIVE = """
def work(row):
    secret = row["name"]
    raise RuntimeError("no value here")
try:
    work({"name": "Cà Nà Rỳ"})
except RuntimeError:
    log.error("process_failed", reason="r", exc_info=True)
"""


def test_a_traceback_shows_no_local_variables() -> None:
    """They hold rows."""
    (line,) = _logged(SECRETIVE)
    assert "RuntimeError" in line
    assert "Cà Nà Rỳ" not in json.loads(line).__repr__()


def test_a_traceback_on_a_terminal_shows_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    try:
        telemetry.configure_logging()
        exec(SECRETIVE, {"log": telemetry.logger("capture", "civil")})
    finally:
        structlog.reset_defaults()
    assert "RuntimeError" in terminal.getvalue()
    assert "Cà Nà Rỳ" not in terminal.getvalue().replace('{"name": "Cà Nà Rỳ"}', "")


def test_the_level_is_obeyed() -> None:
    telemetry.configure_logging("warning")
    try:
        assert not structlog.get_logger().is_enabled_for(logging.INFO)
    finally:
        structlog.reset_defaults()
