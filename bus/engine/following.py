"""Which policy a worker works by: its thread follows `bus.agreements`, compiles what it says, and has it ready for the loop.

All or nothing: what is malformed, or does not fit schemas and registered ids, is refused whole, said once, and the policy
before it stays. A worker that starts while the newest publication cannot be used takes the last one that can.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import KafkaError

from bus import telemetry
from bus.avro.catalogue import CatalogueError
from bus.core.agreement import Agreement
from bus.core.outcome import Cause
from bus.engine import agreement_log, client
from bus.engine.agreement_log import Malformed, Reading, Said
from bus.engine.client import HumanNeeded, Stop, Stopped
from bus.engine.follower import Follower
from bus.engine.member import GROUP
from bus.engine.meter import Meter
from bus.engine.plan import PlanError
from bus.engine.policy import Grounds, Policy
from bus.registry import log as registry
from bus.signatures import log as signatures
from bus.signatures import statement
from bus.signatures.statement import Keys

FIRST_SECONDS = 120.0
"""Longest wait for the first policy."""
SAY_SECONDS = 10.0
"""How often it is said that there is none yet."""
_UNREAD = "the topic of agreements could not be read so far: is the broker up, at the address of kafka.bootstrap?"
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 0.02


class Following:
    """Runs from construction to `close`. `keys`: the public keys of the parties of these agreements, as they are now."""

    def __init__(
        self, config: Mapping[str, Any], grounds: Grounds, log: Any, keys: Callable[[Collection[Agreement]], Keys]
    ) -> None:
        self._config, self._grounds, self._log = config, grounds, log
        self._keys = keys
        self._reading = Reading()
        self._policy: Policy | None = None
        """The newest that could be compiled; written by the thread alone."""
        self._taken: Policy | None = None
        self._refused = ""
        telemetry.gauge("bus_engine_agreements_refused").set(0)
        self._follower = Follower(self._follow, log)
        self._follower.start()

    # -- the loop's side ---------------------------------------------------------------------------------------------------

    def first(self, stop: Stop, meter: Meter) -> Policy:
        """Wait for the first policy. Raises HumanNeeded with what hinders it, Stopped."""
        said = time.monotonic()
        deadline = said + FIRST_SECONDS
        while (found := self.newer()) is None:
            if stop.asked:
                raise Stopped
            reason, now = self._refused or self._follower.failed, time.monotonic()
            if reason:
                meter.waits(Cause.AGREEMENTS)
            if now > deadline:
                raise HumanNeeded(reason or _UNREAD)
            if now > said + SAY_SECONDS:
                said = now
                meter.waits(Cause.AGREEMENTS)
                self._log.warning("agreements_unreadable", reason=reason or _UNREAD)
            time.sleep(_LOOK_SECONDS)
        meter.goes_on(Cause.AGREEMENTS)
        return found

    def newer(self) -> Policy | None:
        """The newest policy if it was not given out yet."""
        found = self._policy
        if found is self._taken:
            return None
        self._taken = found
        if found is not None:
            telemetry.gauge("bus_engine_agreements_version").set(found.version)
        return found

    def waits(self) -> bool:
        """Whether `newer` would give one."""
        return self._policy is not self._taken

    def close(self) -> None:
        self._follower.close()

    # -- the thread's side -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """From the topic's beginning on, until closed. Raises what makes it necessary to begin again."""
        reading = Reading()
        consumer = agreement_log.reader(self._config)
        try:
            while not self._follower.closing.is_set():
                message: Any = consumer.poll(_POLL_SECONDS)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    reading.take(message.offset(), message.key(), message.value())
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._follower.failed = ""
                    self._at_end(reading, message.offset())
                else:
                    client.check(error)
        finally:
            consumer.close()

    def _at_end(self, reading: Reading, end: int) -> None:
        """Whole publications only are visible here: they are transactions."""
        began = time.monotonic()
        said = reading.newest(end)
        reason = self._use(said, began)
        if reason and self._policy is None:
            next((older for older in reading.older() if not self._use(older, began)), None)
        if reason:
            self._refuse(reason, end)
            return
        reading.settle()
        if self._refused:
            self._refused = ""
            telemetry.gauge("bus_engine_agreements_refused").set(0)

    def _use(self, said: Said, began: float) -> str:
        """Compile it and have it ready. Why it cannot be used, or ''. Raises CatalogueError when no schemas can be read."""
        try:
            listed = said.agreements()
            old = self._policy
            if old is not None and tuple(listed[name] for name in sorted(listed)) == old.agreements:
                self._policy = dataclasses.replace(old, version=max(old.version, said.version))
                return ""
        except Malformed as error:
            return str(error)
        said_of = signatures.read(self._config, GROUP)
        if unsigned := statement.disagreed(listed.values(), said_of, self._keys(listed.values())):
            return f"not agreed on by both parties, so nothing of this set is used: {', '.join(sorted(unsigned))}"
        found = registry.read(self._config)
        try:
            made = self._grounds.policy(listed, found, said.version)
        except (PlanError, CatalogueError) as error:
            return str(error)
        self._policy = made
        seconds = round(time.monotonic() - began, 3)
        self._log.info("agreements_compiled", version=made.version, agreements=len(listed), policy=made.digest, seconds=seconds)
        return ""

    def _refuse(self, reason: str, end: int) -> None:
        if reason != self._refused:
            self._refused = reason
            self._log.error("agreements_refused", version=end, reason=reason)
        telemetry.gauge("bus_engine_agreements_refused").set(1)
