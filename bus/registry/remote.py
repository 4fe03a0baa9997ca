"""A registry over its REST interface: what `bus up` and `bus doctor` ask of one, be it external or our own."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bus import access
from bus.avro import catalogue
from bus.config import Settings
from bus.registry.log import RegistryError

ANSWER_SECONDS = 10.0
_MOST_ANSWER_BYTES = 16_000_000
_MOST_REASON = 2_000


@dataclass(frozen=True, slots=True, repr=False)
class Registry:
    """`headers` hold the password."""

    url: str
    headers: Mapping[str, str]

    @staticmethod
    def of(settings: Settings) -> Registry:
        """The one that the settings name, asked as its user, else the bus's own, asked as operator. Raises ConfigError."""
        login = access.registry_user(settings, "operator")
        headers = {"Accept": "application/vnd.schemaregistry.v1+json", "Content-Type": "application/vnd.schemaregistry.v1+json"}
        if login:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        return Registry(access.registry_url(settings), headers)

    def subjects(self) -> list[str]:
        """Raises RegistryError."""
        return [str(name) for name in self._ask("GET", "/subjects")]

    def register(self, subject: str, schema: Any) -> int:
        """The id of a schema (parsed JSON) as a version of a subject. Raises RegistryError, with the registry's reason."""
        body = {"schema": catalogue.text_of(schema)}
        return int(self._ask("POST", f"/subjects/{quote(subject, safe='')}/versions", body)["id"])

    def set_level(self, subject: str, level: str) -> None:
        """The compatibility level of a subject. Raises RegistryError."""
        self._ask("PUT", f"/config/{quote(subject, safe='')}", {"compatibility": level})

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, dict(self.headers), method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                return json.loads(answer.read(_MOST_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            reason = error.read(_MOST_REASON).decode(errors="replace").strip()
            raise RegistryError(f"the schema registry at {self.url} refuses {method} {path}: {error.code} {reason}") from None
        except (OSError, ValueError) as error:
            raise RegistryError(f"the schema registry at {self.url} does not answer {method} {path}: {error}") from None
