"""The capture process of one database: `run` opens a session, and opens it again whenever time alone can mend what ended it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg

from bus import access, telemetry
from bus.avro import dataset
from bus.avro.dataset import SchemaError
from bus.config import ConfigError, Settings
from bus.core import failpoint
from bus.core.failpoint import Point
from bus.core.outcome import CHANGE_OPS, DeadCode
from bus.core.position import format_lsn
from connectors.capture import columns, progress, sink, snapshot, source
from connectors.capture.errors import Interrupted, Refusal
from connectors.capture.events import Events, Keys, Target
from connectors.capture.lag import Lag
from connectors.capture.progress import Progress
from connectors.capture.session import Session, Shape, system_now_ms
from connectors.capture.sink import Registered
from connectors.capture.stream import Stream
from connectors.capture.walsender import WalSender

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
STOP_SECONDS = 1.5
"""How long a stop may take before the process just ends; nothing is lost by that, it is only less tidy."""


def run(settings: Settings, domain: str) -> None:
    """Captures `domain` until SIGTERM. Raises SystemExit(1), with the reason logged, where a human must mend something."""
    stop, finished = threading.Event(), threading.Event()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread starts: the waiting one below takes them
    telemetry.start(settings.home, f"capture-{domain}", settings.log_level)
    threading.Thread(target=_stop_on, args=(signals, stop, finished, domain), daemon=True).start()
    log = telemetry.logger("capture", domain)
    log.info("process_started", pid=os.getpid())
    try:
        capture(settings, domain, stop)
    except (Refusal, ConfigError, SchemaError) as error:
        log.error("process_failed", reason=str(error))
        raise SystemExit(1) from None
    except Exception as error:  # a fault of ours; its text could quote a value, so only its kind and place are told
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.error("process_failed", reason=f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}")
        raise SystemExit(1) from None
    finally:
        finished.set()


def _stop_on(signals: set[signal.Signals], stop: threading.Event, finished: threading.Event, domain: str) -> None:
    signal.sigwait(signals)
    telemetry.logger("capture", domain).info("process_stopping")
    stop.set()
    if not finished.wait(STOP_SECONDS):
        os._exit(0)


def capture(settings: Settings, domain: str, stop: threading.Event) -> None:
    """Sessions until `stop`. Raises Refusal, ConfigError or SchemaError."""
    log = telemetry.logger("capture", domain)
    found = dataset.load(settings.schemas).values()
    bindings = {d.table: columns.bind(d) for d in found if d.domain == domain}
    if not bindings:
        raise Refusal(f"no schema under {settings.schemas}/{domain}: this database has nothing to capture")
    _begin_counts(b.dataset.name for b in bindings.values())
    lag = Lag(system_now_ms)
    telemetry.gauge("bus_capture_lag_seconds").labels(database=domain).set_function(lag.seconds)
    pause = FIRST_PAUSE_SECONDS
    while not stop.is_set():
        opening = Opening(settings, domain, bindings, lag, stop.is_set)
        try:
            opening.run()
        except Interrupted as error:
            reason = str(error)
        except psycopg.Error as error:
            reason = f"the database reports {type(error).__name__}"  # without its text, which may quote a value
        else:
            continue
        finally:
            opening.close()
        if opening.committed():
            pause = FIRST_PAUSE_SECONDS
        if not stop.is_set():
            log.warning("capture_waiting", reason=reason, pause_seconds=pause)
            stop.wait(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


def _begin_counts(datasets: Iterable[str]) -> None:
    """Zeros before the first event: Prometheus sees no increase in a series that begins at 1."""
    for name in datasets:
        for op in CHANGE_OPS:
            telemetry.counter("bus_captured_events_total").labels(dataset=name, op=op)
        for code in DeadCode:
            telemetry.counter("bus_dead_letters_total").labels(dataset=name, code=code.value)


def _earlier(binding: columns.Binding, target: Target, system_id: int, registered: Registered) -> Iterator[Shape]:
    """The table as earlier schemas have it, as far as they have what its rows are known by."""
    dataset = binding.dataset
    for frame, row in registered.earlier:
        had = {f["name"] for f in row["fields"]}
        names = {f.name: columns.name_before(f, had) for f in binding.fields}
        key = tuple(names[name] for name in dataset.primary_key)
        people = tuple(replace(role, pin=names[role.pin]) for role in dataset.people[:1])
        older = replace(dataset, row={**dataset.row, "fields": row["fields"]}, primary_key=key, people=people)
        if {*key, *(role.pin for role in people)} <= had:
            with contextlib.suppress(SchemaError):  # no table was ever captured under it
                bound = columns.bind(older)
                sent = Target(older, frame, system_id, source.SCHEMA, target.counts)
                yield Shape(bound, sent, columns.reads(binding, bound))


class Opening:
    """One session from its first connection to its last, so that whatever was opened is closed."""

    def __init__(
        self,
        settings: Settings,
        domain: str,
        bindings: dict[str, columns.Binding],
        lag: Lag,
        stopped: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._domain = domain
        self._bindings = bindings
        self._lag = lag
        self._stopped = stopped
        self._session: Session | None = None
        self._closing: list[Callable[[], None]] = []

    def committed(self) -> bool:
        """Whether this session got as far as committing something."""
        return self._session is not None and self._session.commits > 0

    def close(self) -> None:
        while self._closing:
            self._closing.pop()()

    def run(self) -> None:
        dsn = access.capture_dsn(self._settings, self._domain)
        session = self._session = self._open(dsn)
        snapshot.take(session, dsn)
        Stream(session).run()

    def _open(self, dsn: str) -> Session:
        """Claims the database, fences older producers, reads how far they came, and checks that going on is safe."""
        domain, settings = self._domain, self._settings
        db = source.connect(dsn, domain)
        self._closing.append(db.close)
        source.claim(db, domain)
        source.check_server(db)
        wal = WalSender(dsn, f"capture-{domain}")
        self._closing.append(wal.close)
        config = access.confluent(settings, f"capture-{domain}")
        kafka = sink.Sink(config, domain, self._stopped)
        self._closing.append(kafka.close)
        secret = settings.secret("person-key")
        record = sink.read_position(config, domain, self._stopped)
        known = progress.from_json(record, secret) if record else None
        identity = wal.identify()
        source.check_identity(identity, known, domain)
        begun = progress.still_captured(known or Progress(identity.system_id, identity.timeline), domain, self._bindings)
        tables, misfits = source.check_tables(db, self._bindings.values(), begun.oids)
        source.check_publication(db, self._bindings.values(), misfits)
        registered = sink.read_schemas(config, domain, (b.dataset for b in self._bindings.values()), self._stopped)
        targets = {
            table: Target(b.dataset, registered[b.dataset.name].frame, identity.system_id, source.SCHEMA)
            for table, b in self._bindings.items()
        }
        session = Session(
            settings=settings,
            domain=domain,
            slot=f"bus_{domain}",
            secret=secret,
            db=db,
            wal=wal,
            sink=kafka,
            lag=self._lag,
            events=Events(domain, identity.system_id, Keys(secret), kafka.produce, kafka.dead_letter),
            bindings=self._bindings,
            targets=targets,
            earlier={
                table: tuple(_earlier(binding, targets[table], identity.system_id, registered[binding.dataset.name]))
                for table, binding in self._bindings.items()
            },
            tables=tables,
            misfits=misfits,
            progress=replace(begun, oids={**{name: table.oid for name, table in tables.items()}, **begun.oids}),
            stopped=self._stopped,
            now_ms=system_now_ms,
            nonce=secrets.token_bytes,
        )
        for table in tables.values():
            if table.extra:
                session.log.warning("columns_ignored", table=table.binding.dataset.table, columns=table.extra)
        self._ensure_slot(session, known)
        return session

    def _ensure_slot(self, session: Session, known: Progress | None) -> None:
        """The permanent slot exists afterwards. That it is ours is on record before it is made."""
        stands_at = source.slot_position(session.db, session.slot, known)
        if stands_at is None:
            session.commit(session.progress)
            failpoint.hit(Point.BEFORE_SLOT)
            stands_at = session.wal.create_slot(session.slot)
            failpoint.hit(Point.AFTER_SLOT)
            session.log.info("slot_created", slot=session.slot, lsn=format_lsn(stands_at))
        session.begin_at(stands_at)
