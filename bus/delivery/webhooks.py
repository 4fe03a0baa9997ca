"""`bus run webhooks`: the process that sends agencies their deliveries. One endpoint an agreement, each in a thread of its own.

One such process at a time: a second one fences the first. What goes wrong with the state topic ends it, and the supervisor starts
it again from what that topic says; the same happens after kill -9.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from confluent_kafka import KafkaException

from bus import access, telemetry
from bus.avro import dataset
from bus.config import ConfigError, Settings
from bus.core.agreement import Way
from bus.delivery import journal, outbox, signing
from bus.delivery.deliveries import Deliveries
from bus.delivery.following import Following, Unknown
from bus.delivery.journal import PRINCIPAL, Contents, Journal
from bus.delivery.sender import Sender, trusting
from bus.delivery.served import Outlet, Served
from bus.delivery.target import LOOPBACK_HOSTS, Rules, target
from bus.delivery.webhook_endpoint import Endpoint, Parts
from bus.delivery.webhook_records import AgencyTopic
from bus.engine import client
from bus.engine.client import HumanNeeded, Stop
from bus.registry import log as registry
from bus.signatures import keys as party_keys
from bus.signatures.statement import State

PROCESS = "webhooks"
_TURN_SECONDS = 0.1
_END_SECONDS = 120.0
"""Longer than a write of a state may take."""
_CLOSE_SECONDS = 1.0


def rules(settings: Settings) -> Rules:
    """Raises ConfigError for a setting that cannot be meant."""
    hosts = frozenset(host.lower() for host in settings.webhooks.allowed_hosts)
    if wrong := sorted(host for host in hosts if not host or set(host) & set("/@*[] ")):
        raise ConfigError(f"webhooks.allowed_hosts: {wrong[0]!r} is no host: name each in full, without port and path")
    if not 1 <= settings.webhooks.max_waiting_events <= outbox.MOST_WAITING:
        raise ConfigError(f"webhooks.max_waiting_events: must be 1 to {outbox.MOST_WAITING:,}: a state is one record")
    embedded = not settings.kafka.bootstrap
    if here := sorted(hosts & LOOPBACK_HOSTS) if not embedded else []:
        raise ConfigError(
            f"webhooks.allowed_hosts: {here[0]!r} is this machine, which only an embedded broker's webhooks may name"
        )
    return Rules(hosts, frozenset(settings.webhooks.ports), embedded)


def sender(settings: Settings) -> Sender:
    """Raises ConfigError."""
    check(settings)
    return Sender(rules(settings), settings.webhooks.ca)


def check(settings: Settings) -> None:
    """The settings, also before anything is started. Raises ConfigError."""
    rules(settings)
    try:
        trusting(settings.webhooks.ca)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"webhooks.ca: {settings.webhooks.ca} holds no certificates in PEM: {reason}") from None


def run(settings: Settings) -> None:
    """Until SIGTERM. Exits with status 1 and a reason on what a new beginning, or a human, must mend."""
    stop = Stop().install()
    telemetry.start(settings.home, PROCESS, settings.log_level)
    log = telemetry.logger(PROCESS)
    log.info("process_started")
    try:
        config = access.confluent(settings, PRINCIPAL)
        with contextlib.closing(sender(settings)) as made:
            office = Office(settings, config, log, made)
            while not stop.asked and not (reason := office.turn()):
                pass
            if not stop.asked:
                log.error("process_failed", reason=reason)
                sys.exit(1)
            log.info("process_stopping")
            office.close()
    except (ConfigError, dataset.SchemaError, HumanNeeded, KafkaException) as error:
        log.error("process_failed", reason=client.text(error))
        sys.exit(1)
    except Exception as error:  # a fault of ours; its text could quote a record
        log.error("process_failed", reason=client.place(error))
        sys.exit(1)


class Office:
    """All endpoints, kept as the agreements say. Raises ConfigError, HumanNeeded, KafkaException."""

    def __init__(self, settings: Settings, config: Mapping[str, Any], log: Any, sends: Sender) -> None:
        self._log = log
        self._journal = Journal(config)  # first: whoever wrote before writes no more
        self._states, self._followed = Contents(), journal.reader(config, journal.GROUP)
        self._catch_up()
        datasets, self._news = dataset.load(settings.schemas), threading.Event()
        keys = partial(party_keys.public, settings)
        self._following = Following(config, datasets, keys, Way.WEBHOOK, self._news.set, log)
        self._served: Served | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._leaving: dict[str, tuple[Endpoint, float]] = {}
        """Told to stop, since when, and not at rest yet."""
        self._wanted: Mapping[str, Outlet] = {}
        allowed, deliveries = rules(settings), Deliveries(datasets, partial(registry.read, config))
        self._parts = Parts(
            sends,
            self._journal,
            log,
            lambda outlet: AgencyTopic(config, outlet, deliveries),
            lambda name: signing.keys(settings, name),
            lambda url: target(url, allowed),
            max_waiting=settings.webhooks.max_waiting_events,
        )
        self._following.start()

    def _catch_up(self) -> None:
        """Words of operators; of the states, those that earlier processes have left."""
        while not journal.follow(self._followed, self._states, journal.READ_SECONDS):
            self._log.warning("webhook_awaited", agreement="", reason="the state topic's end was not reached in time")

    def turn(self) -> str:
        """A look at what is new. Why the process must begin anew, or ''."""
        self._news.wait(_TURN_SECONDS)
        self._news.clear()
        served = self._known()
        if served is not self._served:
            self._served = served
            outlets = served.outlets if served is not None else {}
            self._wanted = {name: one for name, one in outlets.items() if one.standing.state is State.AGREED}
        self._bring()
        journal.follow(self._followed, self._states, 0.01)
        for name, words in self._states.asks.items():
            if name in self._endpoints:
                self._endpoints[name].say(words)
        late = time.monotonic() - _END_SECONDS
        reasons = [f"the webhook of {name} does not come to rest" for name, (_, since) in self._leaving.items() if since < late]
        everyone = [*self._endpoints.values(), *(one for one, _ in self._leaving.values())]
        return next((one.failed for one in everyone if one.failed), next(iter(reasons), ""))

    def _known(self) -> Served | None:
        """None: which agreements are in force is not known at present, so nothing is sent."""
        try:
            return self._following.current()
        except Unknown:
            return None

    def _bring(self) -> None:
        """What ended or reads otherwise stops at once; it begins again when the old one has come to rest, for it may be writing.

        None waits for another: where one takes long to come to rest, all others go on.
        """
        for name, one in list(self._endpoints.items()):
            if self._wanted.get(name) is not one.outlet:
                one.stop()
                self._leaving[name] = self._endpoints.pop(name), time.monotonic()
        for name, (one, _) in list(self._leaving.items()):
            if one.join(0):
                self._states.states[name] = one.state()
                del self._leaving[name]
        for name in self._wanted.keys() - self._endpoints.keys() - self._leaving.keys():
            state, words = self._states.states.get(name), self._states.asks.get(name, {})
            self._endpoints[name] = Endpoint(self._wanted[name], self._parts, state, words)
            self._endpoints[name].start()

    def close(self) -> None:
        self._following.close()
        for one in self._endpoints.values():
            one.stop()
        for one in self._endpoints.values():
            one.join(_CLOSE_SECONDS)
        self._journal.close()
