"""Makes capture read anew: python -m connectors.capture.forget DOMAIN [TABLE]

A whole database: its position is removed. Its replication slot must be gone (the refusal that led here says how to drop it); at
the next start capture makes a new one. One table, for example one that was dropped and made anew: the others go on where they
are. What is read anew is published as `r` events with new event ids. Stop capture before (`bus down`).
"""

from __future__ import annotations

import secrets
import sys

from bus import access, config, telemetry
from bus.config import ConfigError, Settings
from connectors.capture import progress, sink, source
from connectors.capture.errors import Interrupted, Refusal


def forget(settings: Settings, domain: str, table: str = "") -> None:
    """Raises Refusal where there is nothing to forget, or for a whole database while its slot exists; Interrupted while a capture
    of this database runs or something is unreachable."""
    db = source.connect(access.capture_dsn(settings, domain), domain)
    try:
        source.claim(db, domain)
        slot = f"bus_{domain}"
        if not table and source.has_slot(db, slot):
            raise Refusal(
                f"replication slot {slot} still exists: SELECT pg_drop_replication_slot('{slot}') in database {domain} first"
            )
        kafka = sink.Sink(access.confluent(settings, f"capture-{domain}"), domain, lambda: False)
        try:
            kafka.commit(_without(settings, domain, table) if table else None)
        finally:
            kafka.close()
    finally:
        db.close()


def _without(settings: Settings, domain: str, table: str) -> bytes:
    """The database's position without one table."""
    record = sink.read_position(access.confluent(settings, f"capture-{domain}"), domain, lambda: False)
    secret = settings.secret("person-key")
    known = progress.from_json(record, secret) if record else None
    if known is None or table not in known.tables:
        there = ", ".join(sorted(known.tables)) if known else "none"
        raise Refusal(f"no table {table!r} of {domain} was captured: there are {there}")
    return progress.to_json(known.only(known.tables.keys() - {table}), secret, secrets.token_bytes)


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    telemetry.configure_logging()
    try:
        forget(config.load(), *arguments)
    except (ConfigError, Refusal, Interrupted) as error:
        print(error, file=sys.stderr)
        return 1
    telemetry.logger("capture", arguments[0]).warning("position_forgotten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
