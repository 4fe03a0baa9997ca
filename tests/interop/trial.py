"""What every foreign client is asked to do, and what it must have seen."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bus import access
from bus.platform import cluster
from bus.platform.declared import Topic
from tests.allowing import allowed
from tests.registry.served import Served

CLIENTS = Path(__file__).parent / "clients"
CLIENT_SECONDS = 240
AGENCY = "tax"
"""An agency with an agreement in the checkout."""


def _schema(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "Person", "namespace": "interop", "fields": [{"name": "name", "type": "string"}, *fields]}


SCHEMAS = [
    _schema(),
    _schema({"name": "year", "type": ["null", "int"], "default": None}),
    _schema({"name": "must", "type": "int"}),
]
"""One, a compatible next one, and one that is refused."""


def trial(registry: Served, client: str, command: Sequence[str | Path], cwd: Path | None = None) -> dict[str, Any]:
    """Give the task to a client: `admin` writes, an agency reads with its own user, topic and subjects. What it saw."""
    settings = registry.settings
    topic = f"agency.{AGENCY}.interop-{client}-{uuid.uuid4().hex[:8]}"
    with cluster.admin(settings) as admin:
        cluster.create_topics(admin, {topic: Topic(1, "a foreign client's")}, 1)
    reader = f"agency-{AGENCY}"
    task = {
        "url": registry.url,
        "bootstrap": access.bootstrap(settings),
        "topic": topic,
        "group": f"{reader}.{client}",
        "writer": {"name": "admin", "password": access.password(settings, "admin")},
        "reader": {"name": reader, "password": access.password(settings, reader)},
        "schemas": SCHEMAS,
    }
    with allowed(settings, AGENCY, topic):
        done = subprocess.run(
            [str(word) for word in command],
            input=json.dumps(task),
            cwd=cwd,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4_000:] + done.stdout[-1_000:]
    saw: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(saw)
    judge(saw, topic)
    return saw


def judge(saw: dict[str, Any], topic: str) -> None:
    """Registered, produced, consumed, evolved, refused; and the agency neither writes nor sees other subjects."""
    assert saw["read"] in (
        [{"name": "Nguyễn"}, {"name": "Trần", "year": 1990}],
        [{"name": "Nguyễn", "year": None}, {"name": "Trần", "year": 1990}],
    )
    assert saw["versions"] == [1, 2]
    assert saw["compatible"] == [True, False]
    assert saw["refused"] == 409
    assert saw["forbidden"] == 403
    assert f"{topic}-value" in saw["subjects"]
    assert all(name.startswith(f"agency.{AGENCY}.") for name in saw["subjects"])
