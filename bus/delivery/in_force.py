"""Which agreements are delivered by webhook: `bus.agreements` followed, and both parties' signatures checked, as the engine does.

All or nothing: a set that is malformed or that both parties do not stand by is not used, and what was in force stays. A process
that has not seen a set it can use sends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError

from bus.core.agreement import Agreement, Way
from bus.engine import agreement_log, client
from bus.engine.agreement_log import Malformed, Reading
from bus.engine.member import GROUP
from bus.signatures import log as signatures
from bus.signatures import statement
from bus.signatures.statement import Keys

Parties = Callable[[Collection[Agreement]], Keys]
"""The public keys of the parties of these agreements, as they are now."""


class Following:
    """`refused`: why the newest set is not used, '' when it is."""

    def __init__(self, config: Mapping[str, Any], keys: Parties) -> None:
        self._config, self._keys = config, keys
        self._reading = Reading()
        self._consumer: Consumer = agreement_log.reader(config)
        self.refused = ""

    def newer(self, seconds: float) -> dict[str, Agreement] | None:
        """The agreements with a webhook, each time the topic says something new that can be used; None after so long.

        Raises ConfigError, client.HumanNeeded, KafkaException.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            message: Any = self._consumer.poll(left)
            if message is None:
                return None
            error = message.error()
            if error is None:
                self._reading.take(message.offset(), message.key(), message.value())
            elif error.code() != KafkaError._PARTITION_EOF:
                client.check(error)
            elif (found := self._use(message.offset())) is not None:
                return found
        return None

    def _use(self, end: int) -> dict[str, Agreement] | None:
        try:
            listed = self._reading.newest(end).agreements()
        except Malformed as error:
            self.refused = str(error)
            return None
        said = signatures.read(self._config, GROUP)
        if unsigned := statement.disagreed(listed.values(), said, self._keys(listed.values())):
            self.refused = f"not agreed on by both parties, so nothing of this set is used: {', '.join(sorted(unsigned))}"
            return None
        self._reading.settle()
        self.refused = ""
        return {name: one for name, one in listed.items() if one.delivery.way is Way.WEBHOOK}

    def close(self) -> None:
        self._consumer.close()
