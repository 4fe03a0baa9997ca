"""Whether the register replica may be verified against: always complete, and when a worker begins also not far behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import telemetry
from bus.config import Settings
from bus.core.outcome import Cause
from bus.engine import client, lanes
from bus.engine.client import HumanNeeded, Stop, Stopped
from bus.engine.meter import Meter
from bus.engine.replica import ReplicaReader

LOOK_SECONDS = 0.1
_INCOMPLETE = "the replica is not complete"


class Readiness:
    """One worker's look at the replica. `topic`: the register's."""

    def __init__(
        self,
        settings: Settings,
        config: Mapping[str, Any],
        topic: str,
        replica: ReplicaReader,
        stop: Stop,
        meter: Meter,
        log: Any,
    ) -> None:
        self._settings, self._config, self._topic = settings.engine, config, topic
        self._replica, self._stop, self._meter, self._log = replica, stop, meter, log

    def await_complete(self) -> None:
        """Raises HumanNeeded when the replica is not complete in time, Stopped when asked to stop."""
        if not self._replica.ready():
            self._await(lambda: "" if self._replica.ready() else _INCOMPLETE)

    def await_recent(self) -> None:
        """Complete, and not further behind than it may be. Raises as `await_complete` does."""
        admin = AdminClient(dict(self._config) | {"logger": client.QUIET, "error_cb": client.ignore})
        self._await(lambda: self._behind(admin) if self._replica.ready() else _INCOMPLETE)

    def _await(self, hindrance: Callable[[], str]) -> None:
        """Until there is none. Each kind of it is told once."""
        deadline = time.monotonic() + self._settings.register_wait_seconds
        told = set[str]()
        while reason := hindrance():
            if self._stop.asked:
                raise Stopped
            if (kind := reason.partition(":")[0]) not in told:
                told.add(kind)
                self._meter.waits(Cause.REGISTER)
                self._log.info("register_awaited", reason=reason)
            if time.monotonic() >= deadline:
                raise HumanNeeded(
                    f"{reason}, and engine.register_wait_seconds are over: do `register` and the capture of the population "
                    "database run (`bus status`)?"
                )
            time.sleep(LOOK_SECONDS)
        self._meter.goes_on(Cause.REGISTER)

    def _behind(self, admin: AdminClient) -> str:
        """Why the worker must wait; '' when it need not. Not to know the register's end is a reason."""
        most, applied = self._settings.max_register_lag_records, self._replica.offsets()
        try:
            numbers = admin.list_topics(self._topic, lanes.QUERY_SECONDS).topics[self._topic].partitions
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            ends = lanes.offsets(admin, [(self._topic, n) for n in numbers], latest, IsolationLevel.READ_COMMITTED)
        except KafkaException:
            return "the broker does not say how much the register holds"
        lag = sum(max(0, end - applied.get(lane, 0)) for (_, lane), end in ends.items())
        telemetry.gauge("bus_engine_register_lag_records").set(lag)
        if lag <= most:
            return ""
        return (
            f"the replica is behind: it lacks {lag} of the register's records, more than engine.max_register_lag_records, {most}"
        )
