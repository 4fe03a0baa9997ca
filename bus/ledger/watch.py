"""`bus run ledger`: the ledger taken again and again, each time from where it ended, so that every record is read once.

The first taking is of everything there is: a difference does not become right by restarting the process that has seen it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException

from bus import telemetry
from bus.avro.catalogue import CatalogueError
from bus.avro.dataset import SchemaError
from bus.config import ConfigError, Settings
from bus.engine import client
from bus.engine.client import Stop
from bus.ledger.conserve import Asked, LedgerError, Resume, Session
from bus.ledger.lane_tape import TapeError
from bus.ledger.reading import ReadTimeout
from bus.ledger.sums import Books, DatasetSums

PROCESS = PRINCIPAL = "ledger"
_SLICE_SECONDS = 0.2
_NONE = "none"
"""As a label: Prometheus knows no empty ones."""


def run(settings: Settings) -> None:
    """Until SIGTERM. Exits with status 1 and a reason on a condition a human must mend."""
    stop = Stop().install()
    telemetry.start(settings.home, PROCESS, settings.log_level)
    log = telemetry.logger(PROCESS)
    log.info("process_started")
    watch = Watch(settings, log, lambda: stop.asked)
    try:
        while not stop.asked:
            watch.round()
            due = time.monotonic() + settings.ledger.every_seconds
            while not stop.asked and time.monotonic() < due:
                time.sleep(_SLICE_SECONDS)
        log.info("process_stopping")
    except (ConfigError, SchemaError) as error:
        log.error("process_failed", reason=str(error))
        sys.exit(1)
    except Exception as error:  # a fault of ours; its text could quote a record
        log.error("process_failed", reason=client.place(error))
        sys.exit(1)


class Watch:
    """`stopped`: whether to leave off between two lanes. `differences`: (dataset, agreement) -> how many there were so far."""

    def __init__(self, settings: Settings, log: Any, stopped: Callable[[], bool] = lambda: False) -> None:
        self._settings, self._log, self._stopped = settings, log, stopped
        self._resume: dict[int, Resume] = {}
        self.differences: Counter[tuple[str, str]] = Counter()

    def round(self) -> None:
        """Each lane from where it was left; one that cannot be read is tried again in the next round."""
        try:
            session = Session(self._settings, Asked(), PRINCIPAL, self._resume)
        except (LedgerError, CatalogueError, KafkaException) as error:
            self._log.warning("ledger_awaited", reason=client.text(error))
            return
        try:
            for lane in range(session.lanes):
                if self._stopped():
                    return
                session.books = Books({name: DatasetSums() for name in session.datasets})  # a metric for each from the first on
                self._resume[lane] = session.lane(lane, lambda _: None)
                self._count(session.books)
            telemetry.gauge("bus_ledger_checked_timestamp_seconds").set(time.time())
        except (KafkaException, ReadTimeout, TapeError) as error:
            self._log.warning("ledger_awaited", reason=client.text(error))
        finally:
            session.close()

    def _count(self, books: Books) -> None:
        differences = {(name, ""): one.difference for name, one in books.datasets.items()}
        differences |= {place: one.difference for place, one in books.agreements.items()}
        for place in differences.keys() | books.found.keys():
            self.differences[place] += max(books.found[place], abs(differences.get(place, 0)))
            dataset, agreement = place
            gauge = telemetry.gauge("bus_ledger_difference").labels(dataset=dataset or _NONE, agreement=agreement or _NONE)
            gauge.set(self.differences[place])
        for finding in books.findings:
            self._log.error("ledger_difference", **finding.told())
