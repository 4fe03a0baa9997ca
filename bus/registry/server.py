"""The registry as a process: serves the REST interface over `_schemas` until it is asked to stop."""

from __future__ import annotations

import ipaddress
import sys
from urllib.parse import urlsplit

import uvloop
from confluent_kafka import KafkaException

from bus import access, telemetry
from bus.avro import dataset
from bus.avro.catalogue import CatalogueError
from bus.config import ConfigError, Settings
from bus.engine import client
from bus.engine.client import HumanNeeded, Stop
from bus.registry.store import Store
from bus.registry.users import Users

PROCESS = "registry"


def run(settings: Settings) -> None:
    """Serve until SIGTERM. Exits with status 1 and a reason on a condition that a human must mend."""
    stop = Stop().install()
    telemetry.start(settings.home, PROCESS, settings.log_level)
    log = telemetry.logger(PROCESS)
    try:
        if settings.registry.url:
            raise ConfigError("registry.url names another schema registry: take that away to serve the bus's own")
        require_guarded(settings)
        port = urlsplit(access.registry_url(settings)).port or 0
        users = Users(settings, {one.domain for one in dataset.load(settings.schemas).values()})
        store = Store(access.confluent(settings, PROCESS), users.take_index)
        store.start()
        from bus.registry import listening  # what takes long to load is loaded while the topics are read

        store.await_ready()
        uvloop.run(listening.serve(settings, port, store, users, stop))
        store.close()
        log.info("process_stopping")
    except (HumanNeeded, ConfigError, dataset.SchemaError, CatalogueError, KafkaException) as error:
        log.error("process_failed", reason=client.text(error))
        sys.exit(1)
    except Exception as error:  # a fault of ours
        log.error("process_failed", reason=client.place(error))
        sys.exit(1)


def require_guarded(settings: Settings) -> None:
    """Passwords leave the machine in no clear text. Raises ConfigError."""
    registry = settings.registry
    require_tls("registry", registry.host, registry.tls_certificate, registry.tls_key)


def require_tls(group: str, host: str, certificate: str, key: str) -> None:
    """For the settings `<group>.host`, `.tls_certificate` and `.tls_key` of a server. Raises ConfigError."""
    if bool(certificate) != bool(key):
        raise ConfigError(f"{group}.tls_certificate and {group}.tls_key go together: set both, or neither")
    if not key and not _is_loopback(host):
        raise ConfigError(
            f"{group}.host {host!r} is not on loopback and there is no TLS: passwords would be readable on the way; "
            f"set {group}.tls_certificate and {group}.tls_key"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
