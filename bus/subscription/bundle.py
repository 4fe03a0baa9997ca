"""A directory with which an agency can begin: its credentials, schemas, documents, a client and how to run it.

Made as values here (path -> file) and written by `write`; nothing of another agency is ever in it. The clients under clients/ are
the same for every agency: what differs stands in their configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from bus.avro.catalogue import Catalogue
from bus.core import topics
from bus.core.agreement import Agreement
from bus.subscription import words
from bus.subscription.catalog import SubscriptionError

CLIENTS = Path(__file__).parent / "clients"
README, RUN = "README.md.j2", "run.md"
CA = "ca.pem"
_DIRECTORY, _OPEN, _SECRET = 0o700, 0o644, 0o600


@dataclass(frozen=True, slots=True)
class Connection:
    """How one agency connects. `ca`: PEM, None where the system's authorities will do."""

    bootstrap: tuple[str, ...]
    protocol: str
    mechanism: str
    username: str
    password: str
    ca: bytes | None = None

    @property
    def tls(self) -> bool:
        return self.protocol == "SASL_SSL"


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What a bundle is made of. `schemas`: id -> text; `documents`: path -> text."""

    agency: str
    agreements: tuple[Agreement, ...]
    connection: Connection
    schemas: Mapping[int, str]
    documents: Mapping[str, str]
    now_ms: int

    @property
    def topics(self) -> list[str]:
        return [topics.agency(one.id) for one in self.agreements]


def languages() -> list[str]:
    return sorted(_CONFIGURATIONS)


def schemas_of(agreements: tuple[Agreement, ...], known: Catalogue) -> dict[int, str]:
    """Every schema, older ones included, that can stand on the agreements' topics, by id."""
    begins = tuple(f"{topics.agency(one.id)}-" for one in agreements)
    found = {e.id: e.schema for subject in known.ids() if subject.startswith(begins) for e in known.versions(subject)}
    return dict(sorted(found.items()))


def files(order: Order, language: str) -> dict[str, File]:
    """Relative path -> file."""
    made = _CONFIGURATIONS[language](order)
    for path in sorted((CLIENTS / language).rglob("*")):
        name = path.relative_to(CLIENTS / language)
        if path.is_file() and name != Path(RUN) and "__pycache__" not in name.parts:
            made[name.as_posix()] = File(path.read_bytes())
    secret = " and ".join(f"`{name}`" for name, file in made.items() if file.secret)
    made |= {f"schemas/{number}.avsc": File(_indented(text)) for number, text in order.schemas.items()}
    made |= {path: File(text.encode()) for path, text in order.documents.items()}
    if order.connection.ca is not None:
        made[CA] = File(order.connection.ca)
    return made | {"README.md": File(_readme(order, language, secret).encode())}


def write(place: Path, made: Mapping[str, File]) -> None:
    """Into a directory (0700) that does not exist or is empty; secret files 0600. Raises SubscriptionError."""
    try:
        place.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise SubscriptionError(f"{place} is not empty: name another directory with --out, or remove what is in it")
        place.chmod(_DIRECTORY)
        for name, file in made.items():
            path = place / name
            path.parent.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET if file.secret else _OPEN)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(file.content)
    except OSError as error:
        raise SubscriptionError(f"cannot write {error.filename or place}: {error.strerror}") from None


def _json(order: Order) -> dict[str, File]:
    connection = order.connection
    content = {
        "bootstrap": list(connection.bootstrap),
        "tls": connection.tls,
        "ca": CA if connection.ca is not None else None,
        "mechanism": connection.mechanism,
        "username": connection.username,
        "password": connection.password,
        "group": connection.username,
        "topics": order.topics,
    }
    return {"client.json": File(_pretty(content), secret=True)}


def _kcat(order: Order) -> dict[str, File]:
    connection = order.connection
    content = {
        "bootstrap.servers": ",".join(connection.bootstrap),
        "security.protocol": connection.protocol,
        "sasl.mechanism": connection.mechanism,
        "sasl.username": connection.username,
        "sasl.password": connection.password,
        "isolation.level": "read_committed",
    } | ({"ssl.ca.location": CA} if connection.ca is not None else {})
    lines = "".join(f"{key}={value}\n" for key, value in content.items())
    return {"kcat.conf": File(lines.encode(), secret=True), "topics": File("".join(f"{t}\n" for t in order.topics).encode())}


_LOGIN = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def _properties(order: Order) -> dict[str, File]:
    connection = order.connection
    login = _LOGIN["PLAIN" if connection.mechanism == "PLAIN" else "SCRAM"]
    content = {
        "bootstrap.servers": ",".join(connection.bootstrap),
        "security.protocol": connection.protocol,
        "sasl.mechanism": connection.mechanism,
        "sasl.jaas.config": f"{login} required username={_quoted(connection.username)} password={_quoted(connection.password)};",
        "group.id": connection.username,
        "topics": ",".join(order.topics),
    }
    if connection.ca is not None:
        content |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": CA}
    lines = "".join(f"{key}={_property(value)}\n" for key, value in content.items())
    return {"client.properties": File(lines.encode("ascii"), secret=True)}


_CONFIGURATIONS: dict[str, Callable[[Order], dict[str, File]]] = {
    "java": _properties,
    "kcat": _kcat,
    "node": _json,
    "python": _json,
}


def _quoted(text: str) -> str:
    """As JAAS reads a value."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _property(text: str) -> str:
    """As java.util.Properties reads a value."""
    made = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    units = made.encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


def _readme(order: Order, language: str, secret: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CLIENTS),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # Markdown: `cell` escapes what would break its table
    )
    environment.filters["cell"] = _cell
    return environment.get_template(README).render(
        agency=order.agency,
        lang=language,
        made=words.instant(order.now_ms - order.now_ms % 1000),
        secret=secret,
        username=order.connection.username,
        run=(CLIENTS / language / RUN).read_text(encoding="utf-8").strip(),
        bootstrap=", ".join(order.connection.bootstrap),
        loopback=all(address.startswith(("127.", "localhost")) for address in order.connection.bootstrap),
        agreements=[_agreement(one, order.now_ms) for one in order.agreements],
    )


def _agreement(one: Agreement, now_ms: int) -> dict[str, Any]:
    return {
        "id": one.id,
        "topic": topics.agency(one.id),
        "purpose": one.purpose,
        "valid_from": words.instant(one.valid_from_ms),
        "valid_until": None if one.valid_until_ms is None else words.instant(one.valid_until_ms),
        "state": words.state(one, now_ms, words.AGREED),
        "datasets": [grant.dataset for grant in one.grants],
    }


def _cell(text: str) -> str:
    """Text of an agreement as text in a Markdown table."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|&#" else letter for letter in text)
    return " ".join(escaped.split())


def _indented(text: str) -> bytes:
    return _pretty(json.loads(text))


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
