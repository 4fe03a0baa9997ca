"""The latency probe as the commands use it: over every agency topic, with the operator's rights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus.config import Settings

if TYPE_CHECKING:
    from bus.ledger.latency import Probe


def probe(settings: Settings) -> Probe:
    """Measures from now on, in a thread of its own, until its `stop`. Raises what reading schemas and agreements raises."""
    from bus import access
    from bus.avro import dataset
    from bus.core import topics
    from bus.engine import agreements
    from bus.ledger.decoding import Decoder
    from bus.ledger.latency import Probe
    from bus.registry import log

    config = access.confluent(settings, "operator")
    names = agreements.load(settings, dataset.load(settings.schemas))
    return Probe(config, [topics.agency(name) for name in names], Decoder(log.read(config)))
