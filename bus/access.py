"""Who connects with what: client configuration of each principal, from settings and the home's secrets.

Principals: admin, operator, developer, register, registry, engine, processors, redrive, ledger, feed, webhooks,
capture-<domain>, agency-<agency>.
An embedded broker's or database's address is in run/endpoints.json, written by the platform when it starts.
"""

from __future__ import annotations

import json
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

from bus.config import ConfigError, Settings

ENDPOINTS = "endpoints.json"
FIRST_OFFSET = 0
"""Where a reader of a whole topic begins; if its first records are gone, `READ_WHOLE` has it begin at the first that is there.

Not OFFSET_BEGINNING: librdkafka 2.16 asks the broker what that is only half a second after it was told.
"""
READ_WHOLE = {"auto.offset.reset": "earliest"}
_INFO = 6
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NOT_TRIED = "Operation not attempted"
"""Of partitions that were asked for together with one that is refused."""
_NOT_YET_MADE = re.compile(r"in state (?!UP\b|REAUTH\b)[A-Z_]+")


def endpoints(settings: Settings) -> dict[str, Any]:
    """{"kafka": "127.0.0.1:PORT", "postgres": PORT, "registry": PORT, "feed": PORT} of the embedded parts.

    Raises ConfigError when nothing was started yet.
    """
    path = settings.home / "run" / ENDPOINTS
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no bus in {settings.home}: start one with `bus up`") from None
    return found


def bootstrap(settings: Settings) -> str:
    return settings.kafka.bootstrap or str(endpoints(settings)["kafka"])


def password(settings: Settings, principal: str) -> str:
    return settings.secret(f"kafka-{principal}").decode()


def confluent(settings: Settings, principal: str) -> dict[str, Any]:
    """Connection settings for confluent-kafka. Raises ConfigError."""
    tls(settings)
    config = {
        "bootstrap.servers": bootstrap(settings),
        "security.protocol": settings.kafka.security_protocol,
        "sasl.mechanism": settings.kafka.sasl_mechanism,
        "sasl.username": principal,
        "sasl.password": password(settings, principal),
        "client.id": principal,
        "allow.auto.create.topics": False,
        "log_level": 3,
    }
    return config | ({"ssl.ca.location": settings.kafka.ssl_ca} if settings.kafka.ssl_ca else {})


class Connections:
    """Takes what a librdkafka client would print.

    `lost` is what it said of the last connection that it lost, `refused` of the last partition that it may not write to, if there
    was one.

    While another connection stands, librdkafka 2.16 tells of these nowhere else. It is called by the client's next poll. One
    that is not made yet carries no request; nor does one that the broker closes because it is idle, which is not told of here.
    """

    def __init__(self) -> None:
        self.lost = self.refused = ""

    def settings(self) -> dict[str, Any]:
        """For the client's configuration, over what `confluent` gives."""
        return {"logger": self, "log_level": _INFO}

    def log(self, _level: int, _form: str, kind: str, _client: str, text: str) -> None:
        """As confluent-kafka calls a logger's."""
        if kind == "FAIL" and not _NOT_YET_MADE.search(text):
            self.lost = text
        elif kind == "ADDPARTS" and _NOT_TRIED not in text:
            self.refused = text


def kafka_python(settings: Settings, principal: str) -> dict[str, Any]:
    """Connection settings for kafka-python. Raises ConfigError."""
    tls(settings)
    return _python(settings, principal) | ({"ssl_cafile": settings.kafka.ssl_ca} if settings.kafka.ssl_ca else {})


def aiokafka(settings: Settings, principal: str) -> dict[str, Any]:
    """Connection settings for aiokafka's client. Raises ConfigError."""
    return {"ssl_context": tls(settings)} | _python(settings, principal)


def tls(settings: Settings) -> ssl.SSLContext | None:
    """How brokers are known to be the right ones; None where connections are in clear. Raises ConfigError."""
    if "SSL" not in settings.kafka.security_protocol:
        return None
    authority = settings.kafka.ssl_ca
    try:
        return ssl.create_default_context(cafile=authority or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"kafka.ssl_ca: cannot read {authority!r} ({type(error).__name__}): name a file that has the certificate of the "
            "brokers' authority in PEM"
        ) from error


def _python(settings: Settings, principal: str) -> dict[str, Any]:
    """What kafka-python and aiokafka, which comes from it, call by the same names."""
    return {
        "bootstrap_servers": bootstrap(settings).split(","),
        "security_protocol": settings.kafka.security_protocol,
        "sasl_mechanism": settings.kafka.sasl_mechanism,
        "sasl_plain_username": principal,
        "sasl_plain_password": password(settings, principal),
        "client_id": principal,
    }


def registry_url(settings: Settings) -> str:
    """Where the schema registry answers: an external one, or the bus's own. Raises ConfigError before its first start."""
    if settings.registry.url:
        return settings.registry.url.rstrip("/")
    port = endpoints(settings).get("registry")
    if not port:
        raise ConfigError(f"the bus in {settings.home} has not served a schema registry yet: run `bus up`")
    return f"{'https' if settings.registry.tls_certificate else 'http'}://{settings.registry.host}:{port}"


def registry_user(settings: Settings, principal: str) -> tuple[str, str] | None:
    """User and password at the registry: our own knows the bus's principals, an external one has one user or none.

    Raises ConfigError where they would go over the network in clear.
    """
    if not settings.registry.url:
        return principal, password(settings, principal)
    user = settings.registry.user
    address = urlsplit(settings.registry.url)
    if user and address.scheme != "https" and address.hostname not in LOOPBACK:
        raise ConfigError(
            f"registry.url is {settings.registry.url}: the password of {user!r} would go over the network in clear; use https"
        )
    return (user, settings.secret("registry-user").decode().strip()) if user else None


def feed_url(settings: Settings) -> str:
    """Where the HTTP feed answers. Raises ConfigError before its first start."""
    port = endpoints(settings).get("feed")
    if not port:
        raise ConfigError(f"the bus in {settings.home} has not served a feed yet: run `bus up`")
    host = f"[{settings.feed.host}]" if ":" in settings.feed.host else settings.feed.host
    return f"{'https' if settings.feed.tls_certificate else 'http'}://{host}:{port}"


def capture_dsn(settings: Settings, domain: str) -> str:
    """The DSN of a domain's capture role, which sees this one database."""
    return settings.postgres.dsn.get(domain) or _embedded_dsn(settings, domain, f"bus_{domain}")


def owner_dsn(settings: Settings, domain: str) -> str:
    """The DSN of the agency itself: mock life and ground truth only, never the bus. Embedded databases only."""
    return _embedded_dsn(settings, domain, f"agency_{domain}")


def _embedded_dsn(settings: Settings, domain: str, role: str) -> str:
    secret = settings.secret(f"postgres-{role}").decode()
    return f"host=127.0.0.1 port={endpoints(settings)['postgres']} dbname={domain} user={role} password={secret}"
