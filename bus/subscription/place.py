"""Where the topics are, from the settings and from a bus that was started; and documents as YAML."""

from __future__ import annotations

from typing import Any

import yaml

from bus import access
from bus.config import ConfigError, Settings
from bus.subscription.asyncapi import Server

_WIDTH = 120


def server(settings: Settings) -> Server:
    """Without an address where no bus was ever started in this home and the settings name none."""
    try:
        found = tuple(access.bootstrap(settings).split(","))
    except ConfigError:
        found = ()
    kafka = settings.kafka
    return Server(found, kafka.security_protocol, kafka.sasl_mechanism, kafka.lanes, kafka.replication)


def as_yaml(document: Any) -> str:
    """In the document's own order, without anchors, letters as they are."""
    return yaml.dump(document, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=_WIDTH)


class _Dumper(yaml.SafeDumper):
    """Writes a value that occurs twice twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # as PyYAML calls it
        return True
