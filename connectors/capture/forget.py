"""Makes capture read anew: python -m connectors.capture.forget DOMAIN [TABLE …]

A whole database: its position is removed. Its replication slot must be gone (the refusal that led here says how to drop it); at
the next start capture makes a new one. Some tables, for example one that was dropped and made anew: the others go on where they
are. What is read anew is published as `r` events with new event ids. Stop capture before (`bus down`).
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Collection

from bus import access, config, telemetry
from bus.config import ConfigError, Settings
from connectors.capture import progress, sink, source
from connectors.capture.errors import Interrupted, Refusal
from connectors.capture.progress import Progress


def forget(settings: Settings, domain: str, *tables: str) -> None:
    """Raises Refusal where there is nothing to forget, where other tables' events would be lost by it, or for a whole database
    while its slot exists; Interrupted while a capture of this database runs or something is unreachable."""
    db = source.connect(access.capture_dsn(settings, domain), domain)
    try:
        source.claim(db, domain)
        slot = f"bus_{domain}"
        if not tables and source.has_slot(db, slot):
            raise Refusal(
                f"replication slot {slot} still exists: SELECT pg_drop_replication_slot('{slot}') in database {domain} first"
            )
        kafka = sink.Sink(access.confluent(settings, f"capture-{domain}"), domain, lambda: False)
        try:
            kafka.commit(_record_without(settings, domain, tables) if tables else None)
        finally:
            kafka.close()
    finally:
        db.close()


def _record_without(settings: Settings, domain: str, tables: Collection[str]) -> bytes:
    record = sink.read_position(access.confluent(settings, f"capture-{domain}"), domain, lambda: False)
    secret = settings.secret("person-key")
    known = progress.from_json(record, secret) if record else None
    return progress.to_json(without(known, domain, tables), secret, secrets.token_bytes)


def without(known: Progress | None, domain: str, tables: Collection[str]) -> Progress:
    """The database's position without these tables. Read again, their rows take no ordinals any more, so those of other events
    in the same transactions change, too. Raises Refusal where such a transaction is published in part, or other events in it wait
    for a held table, and where there is no such table."""
    there = known.tables.keys() if known else set()
    if known is None or (missing := sorted(set(tables) - there)):
        names = " or ".join(map(repr, missing if known else tables))
        raise Refusal(f"no table {names} of {domain} was captured: there are {', '.join(sorted(there)) or 'none'}")
    if others := sorted(known.held.keys() - set(tables)):
        together = " ".join(sorted({*tables, *others}))
        raise Refusal(
            f"held in {domain}, too: {', '.join(others)}. Events that wait there are numbered among those of "
            f"{', '.join(sorted(tables))}: have them published first (release the schema or undo the alteration, `bus up` until "
            f"table_resumed is in log/capture-{domain}.log, `bus down`), or read all of them anew: "
            f"python -m connectors.capture.forget {domain} {together}"
        )
    if not known.between_transactions():
        raise Refusal(
            f"capture of {domain} was stopped in the midst of a transaction, and those of its events that are not published yet "
            f"are numbered among those of {', '.join(sorted(tables))}: `bus up`, `bus down` when it is not behind any more "
            "(bus_capture_lag_seconds), then this again; or have the whole database read anew"
        )
    return known.only(known.tables.keys() - set(tables))


def main(arguments: list[str]) -> int:
    if not arguments:
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
