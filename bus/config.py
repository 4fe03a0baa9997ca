"""One frozen settings tree: built-in defaults < the home's settings.yaml < environment (BUS_ENGINE__WORKERS=4) < flags.

A home (default .bus/) holds everything one running bus leaves on disk: secrets/, kafka/, postgres/, replica/, log/, run/.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: schemas/, connectors/ and deploy/ lie here."""
SETTINGS_FILE = "settings.yaml"
ENV_PREFIX = "BUS_"


class ConfigError(ValueError):
    """A setting is unknown or of the wrong type; the message names it, where it came from and what is allowed."""


@dataclass(frozen=True, slots=True)
class Kafka:
    bootstrap: str = ""
    """host:port,… of an existing cluster; empty: the embedded broker."""
    security_protocol: Literal["SASL_PLAINTEXT", "SASL_SSL", "SSL", "PLAINTEXT"] = "SASL_PLAINTEXT"
    """SASL_PLAINTEXT on loopback only; SASL_SSL wherever a port leaves the machine."""
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    ssl_ca: str = ""
    """File with the CA of an existing cluster."""
    heap_mb: int = 512
    """Java heap of the embedded broker."""
    lanes: int = 8
    """Partitions of every pipeline topic; fixed when a cluster is created."""
    replication: int = 1
    agency_read_bytes_per_second: int = 20_000_000
    """Most that one agency reads from each broker, as sent (compressed); above it the broker answers later."""
    agency_request_percent: int = 100
    """Most of a broker's time for one agency's requests; 100: one thread's."""


@dataclass(frozen=True, slots=True)
class Postgres:
    dsn: Mapping[str, str] = field(default_factory=dict)
    """domain: DSN of the capture role, for databases that exist already; a domain not named here is embedded."""


@dataclass(frozen=True, slots=True)
class Capture:
    batch_events: int = 10_000
    """Most events in one Kafka transaction."""
    linger_ms: int = 50
    """Longest wait for more events before a non-empty batch commits."""
    heartbeat_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Engine:
    workers: int = 2
    batch_events: int = 50_000
    poll_ms: int = 10
    """From a commit to the next transaction's first output, unless 2,000 records are there before; meanwhile input gathers."""
    max_record_bytes: int = 1_048_576
    register_wait_seconds: float = 600.0
    """How long a worker waits at start for the register replica to be complete, and later whenever it is made anew."""
    max_register_lag_records: int = 10_000
    """A worker does not begin while the register replica lacks more of the register's records than this."""


@dataclass(frozen=True, slots=True)
class Ledger:
    every_seconds: float = 60.0
    """How often the process `ledger` accounts for what was processed since; 0: there is no such process."""


@dataclass(frozen=True, slots=True)
class Registry:
    url: str = ""
    """http(s)://host:port of another one that keeps its state in this cluster's `_schemas`; empty: the bus serves its own."""
    user: str = ""
    """Its user, if it asks for one; the password is in secrets/registry-user."""
    host: str = "127.0.0.1"
    """Where our own listens; any address that leaves the machine needs the two files below."""
    tls_certificate: str = ""
    """File with the certificate of our own, PEM, chain included."""
    tls_key: str = ""
    """File with its private key, PEM, mode 0600."""


@dataclass(frozen=True, slots=True)
class Webhooks:
    allowed_hosts: tuple[str, ...] = ()
    """Hosts, in full, to which webhooks may lead; empty: nothing is sent, and there is no such process."""
    ports: tuple[int, ...] = (443,)
    """Ports they may have."""
    ca: str = ""
    """File with further certificate authorities that agencies' servers may have their certificates of, PEM."""
    max_waiting_events: int = 1_000
    """Of each endpoint: refused events and those that wait behind them; with so many the endpoint reads no further."""


@dataclass(frozen=True, slots=True)
class Feed:
    host: str = "127.0.0.1"
    """Where the HTTP feed listens; any address that leaves the machine needs the two files below."""
    tls_certificate: str = ""
    """File with its certificate, PEM, chain included."""
    tls_key: str = ""
    """File with its private key, PEM, mode 0600."""
    requests_per_second: float = 20.0
    """Of one agency; who was silent may ask for those of two seconds at once."""
    streams: int = 4
    """Most open streams of one agency."""
    polls: int = 16
    """Most long polls of one agency that wait at a time."""
    most_events: int = 1_000
    """Most events in one answer."""
    readers: int = 4
    """Most reads from Kafka at a time, each with a consumer and a thread of its own."""


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path = Path(".bus")
    kafka: Kafka = Kafka()
    postgres: Postgres = Postgres()
    capture: Capture = Capture()
    engine: Engine = Engine()
    registry: Registry = Registry()
    ledger: Ledger = Ledger()
    webhooks: Webhooks = Webhooks()
    feed: Feed = Feed()
    agreements: Path = ROOT / "deploy" / "agreements"
    schemas: Path = ROOT / "schemas"
    parties: Path = ROOT / "deploy" / "parties"
    """Public keys of parties that sign agreements themselves: <party>.pub, Ed25519 in PEM."""
    log_level: str = "info"

    def secret_file(self, name: str) -> Path:
        return self.home / "secrets" / name

    def secret(self, name: str) -> bytes:
        """The bytes of a secret file. Raises ConfigError when it does not exist."""
        path = self.secret_file(name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise ConfigError(
                f"no secret {name!r} in {path.parent}: run `bus up` once, or put the file there with mode 0600"
            ) from None


def load(home: Path | None = None, flags: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None) -> Settings:
    """Settings of one home. `flags` are dotted names to values, as 'engine.workers'. Raises ConfigError."""
    env = os.environ if env is None else env
    place = Path(home or env.get("BUS_HOME") or ".bus").absolute()
    merged: dict[str, Any] = {}
    file = place / SETTINGS_FILE
    if file.exists():
        document = _yaml(file.read_text(encoding="utf-8"), str(file)) or {}
        _merge(merged, document, str(file))
    for name, value in env.items():
        if name.startswith(ENV_PREFIX) and name != "BUS_HOME":
            _put(merged, name[len(ENV_PREFIX) :].lower().split("__"), _yaml(value, name))
    for dotted, value in (flags or {}).items():
        _put(merged, dotted.split("."), value)
    merged["home"] = place
    try:
        return typing.cast(Settings, _build(Settings, merged, ""))
    except ConfigError as error:
        raise ConfigError(f"{error}; settings come from {file} and from {ENV_PREFIX}… variables") from None


def _yaml(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{origin}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None


def _merge(into: dict[str, Any], document: Any, origin: str) -> None:
    if not isinstance(document, dict):
        raise ConfigError(f"{origin}: expected a mapping of settings")
    into.update(document)


def _put(into: dict[str, Any], path: list[str], value: Any) -> None:
    for step in path[:-1]:
        into = into.setdefault(step, {})
    into[path[-1]] = value


def _build(kind: type, values: Any, at: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{at or 'settings'}: expected a mapping, got {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    known = {f.name: hints[f.name] for f in dataclasses.fields(kind)}
    made: dict[str, Any] = {}
    for name, value in values.items():
        dotted = f"{at}.{name}" if at else str(name)
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            raise ConfigError(
                f"unknown setting {dotted!r}" + (f": did you mean {near[0]!r}?" if near else f": known are {', '.join(known)}")
            )
        made[name] = _convert(known[name], value, dotted)
    return kind(**made)


def _convert(kind: Any, value: Any, at: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, at)
    if typing.get_origin(kind) is Literal:
        if value in typing.get_args(kind):
            return value
        raise ConfigError(f"{at}: expected one of {', '.join(typing.get_args(kind))}, got {value!r}")
    if typing.get_origin(kind) is not None:
        if isinstance(value, Mapping):
            return {str(k): str(v) for k, v in value.items()}
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
            return tuple(_convert(typing.get_args(kind)[0], one, f"{at}[{number}]") for number, one in enumerate(value))
    elif kind is Path:
        return Path(value)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind is str and isinstance(value, str | int | float):
        return str(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    expected = "a list" if typing.get_origin(kind) is tuple else getattr(kind, "__name__", "a mapping")
    raise ConfigError(f"{at}: expected {expected}, got {value!r}")
