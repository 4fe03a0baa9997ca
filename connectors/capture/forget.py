"""Makes capture read a database anew: python -m connectors.capture.forget DOMAIN

Removes the database's position. Its replication slot must be gone (the refusal that led here says how to drop it); at the
next start capture makes a new one and publishes every row again, as `r` events with new event ids.
"""

from __future__ import annotations

import sys

from bus import access, config, telemetry
from bus.config import ConfigError, Settings
from connectors.capture import sink, source
from connectors.capture.errors import Interrupted, Refusal


def forget(settings: Settings, domain: str) -> None:
    """Raises Refusal while the slot exists, Interrupted while a capture of this database runs or something is unreachable."""
    db = source.connect(access.capture_dsn(settings, domain), domain)
    try:
        source.claim(db, domain)
        slot = f"bus_{domain}"
        if source.has_slot(db, slot):
            raise Refusal(
                f"replication slot {slot} still exists: SELECT pg_drop_replication_slot('{slot}') in database {domain} first"
            )
        kafka = sink.Sink(access.confluent(settings, f"capture-{domain}"), domain, lambda: False)
        try:
            kafka.commit(None)
        finally:
            kafka.close()
    finally:
        db.close()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    telemetry.configure_logging()
    try:
        forget(config.load(), arguments[0])
    except (ConfigError, Refusal, Interrupted) as error:
        print(error, file=sys.stderr)
        return 1
    telemetry.logger("capture", arguments[0]).warning("position_forgotten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
