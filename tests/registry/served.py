"""A registry that runs as a process of a home, and a plain way to ask it."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from bus import access
from bus.config import Settings
from bus.platform import processes, roster, stopping

START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    content_type: str


@dataclass(frozen=True, slots=True)
class Served:
    """`user`, `password`: who asks; no user: nobody in particular."""

    settings: Settings
    url: str
    user: str = ""
    password: str = ""

    def of(self, principal: str, password: str | None = None) -> Served:
        given = access.password(self.settings, principal) if password is None else password
        return Served(self.settings, self.url, principal, given)

    def ask(
        self, method: str, path: str, body: Any = None, content_type: str = "application/vnd.schemaregistry.v1+json"
    ) -> Answer:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        headers = {"Content-Type": content_type}
        if self.user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
            return Answer(answer.status, json.loads(text) if text else None, answer.headers.get("content-type", ""))
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The body of an answer that must be right."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.body

    def register(self, subject: str, schema: Any, query: str = "", **more: Any) -> Answer:
        body = {"schema": schema if isinstance(schema, str) else json.dumps(schema), **more}
        return self.ask("POST", f"/subjects/{quote(subject, safe='')}/versions{query}", body)

    def id(self, subject: str, schema: Any, **more: Any) -> int:
        answer = self.register(subject, schema, **more)
        assert answer.status == 200, answer
        assert set(answer.body) == {"id"}
        return int(answer.body["id"])

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, int, str]:
        """Status, error code, message."""
        answer = self.ask(method, path, body)
        assert set(answer.body) == {"error_code", "message"}, answer
        return answer.status, answer.body["error_code"], answer.body["message"]


@contextmanager
def serving(settings: Settings, answers: Callable[[], object] | None = None) -> Iterator[Served]:
    """The home's registry, started if it does not run; the address is for its administrator. `answers`: how to see that."""
    began = time.monotonic()
    (worker,) = [w for w in roster.workers(settings, {}) if w.name == roster.REGISTRY]
    process = processes.spawn(settings, worker.name, worker.command, env={"BUS_HOME": str(settings.home)})
    try:
        while True:
            try:
                served = Served(settings, access.registry_url(settings)).of("admin")
                assert answers() if answers else served.ask("GET", "/").body == {}
                break
            except (OSError, ValueError):
                assert process.poll() is None, processes.last_lines(settings, worker.name)
                assert time.monotonic() < began + START_SECONDS
                time.sleep(0.01)
        print(f"the registry answered {time.monotonic() - began:.2f} s after it was started")
        yield served
    finally:
        stopping.end(settings, [worker.name], 5.0)
