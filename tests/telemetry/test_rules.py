"""Laws of the operators' rules: each alert fires and is quiet when it should, and says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from bus import config, telemetry

RULES = config.ROOT / "deploy" / "prometheus"
RUNBOOKS = (config.ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="install the Debian package prometheus")


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / name).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], cwd=RULES, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_the_files_are_valid() -> None:
    _promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_alerts_fire_and_are_quiet_as_written_down() -> None:
    assert "SUCCESS" in _promtool("test", "rules", "alerts.tests.yml")


def test_each_alert_has_a_course_at_which_it_fires_and_one_at_which_it_does_not() -> None:
    fires, quiet = set[str](), set[str]()
    for case in yaml.safe_load((RULES / "alerts.tests.yml").read_text(encoding="utf-8"))["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else quiet).add(check["alertname"])
    assert fires == quiet == {rule["alert"] for rule in rules("alerts.rules.yml")}


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE)
    alerts = rules("alerts.rules.yml")
    assert sections == [rule["alert"] for rule in alerts], "one section an alert, in the same order"
    for rule in alerts:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        section = RUNBOOKS.split(f"## {rule['alert']}\n")[1].split("\n## ")[0]
        assert all(word in section for word in ("**Means**", "**Look**", "**Do**")), rule["alert"]


def test_rules_and_dashboard_name_only_what_the_catalogue_has() -> None:
    files = (*RULES.glob("*.rules.yml"), config.ROOT / "deploy" / "grafana" / "bus.json")
    texts = [path.read_text(encoding="utf-8") for path in files]
    named = set(re.findall(r"\bbus_[a-z_]+\b", " ".join(texts)))
    recorded = {part for rule in rules("recording.rules.yml") for part in rule["record"].split(":")}
    buckets = {f"{name}_bucket" for name, metric in telemetry.METRICS.items() if metric.kind == "histogram"}
    assert named - recorded <= telemetry.METRICS.keys() | buckets
