"""The feed as a process: serves the deliveries of agreements that say `delivery: feed` until it is asked to stop."""

from __future__ import annotations

import logging
import sys

import uvloop
from confluent_kafka import KafkaException

from bus import telemetry
from bus.avro import dataset
from bus.config import ConfigError, Settings
from bus.engine import client
from bus.engine.client import HumanNeeded, Stop
from bus.registry.server import require_tls

PROCESS = "feed"
KEY = "feed-key"
"""The secret under which cursors are signed. With another one every reader must begin anew."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM. Exits with status 1 and a reason on a condition that a human must mend."""
    stop = Stop().install()
    telemetry.start(settings.home, PROCESS, settings.log_level)
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # what it says beside our lines may quote a request
    logging.getLogger("uvicorn").propagate = False
    log = telemetry.logger(PROCESS)
    try:
        feed = settings.feed
        require_tls("feed", feed.host, feed.tls_certificate, feed.tls_key)
        from bus.delivery.feed import listening  # what takes long to load

        uvloop.run(listening.serve(settings, stop))
        log.info("process_stopping")
    except (HumanNeeded, ConfigError, dataset.SchemaError, KafkaException) as error:
        log.error("process_failed", reason=client.text(error))
        sys.exit(1)
    except Exception as error:  # a fault of ours
        log.error("process_failed", reason=client.place(error))
        sys.exit(1)
