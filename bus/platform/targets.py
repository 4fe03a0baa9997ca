"""Where Prometheus finds the bus: run/targets.json lists every process's /metrics, in the format of `file_sd_configs`."""

from __future__ import annotations

import json

from bus.config import Settings
from bus.platform import processes, roster


def endpoints(settings: Settings) -> dict[str, int]:
    """Process -> port of its /metrics on 127.0.0.1, of those that run and have told it."""
    found: dict[str, int] = {}
    for record in processes.records(settings):
        told = processes.told(settings, record.name)
        if told and told.get("pid") == record.pid and record.process() is not None:
            found[record.name] = int(told["metrics_port"])
    return found


def write(settings: Settings) -> None:
    """Rewrites the file when something in it has changed."""
    listed = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"process": name, "role": _role(name)}}
        for name, port in sorted(endpoints(settings).items())
    ]
    text = json.dumps(listed, indent=1)
    path = settings.home / "run" / "targets.json"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def _role(name: str) -> str:
    """capture-civil -> capture, engine-0 -> engine."""
    return name if name == roster.SUPERVISOR else name.partition("-")[0]
