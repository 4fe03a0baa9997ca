"""What can be wrong with a home, each check with what it found and what to do next."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import psycopg
from kafka.errors import KafkaError

from bus.config import Settings
from bus.core.agreement import Way
from bus.core.outcome import Cause
from bus.core.position import parse_lsn
from bus.delivery import webhooks
from bus.delivery.target import Forbidden, target
from bus.platform import (
    broker,
    cluster,
    database,
    declaration,
    declared,
    health,
    jars,
    java,
    ports,
    presence,
    processes,
    roster,
    secrets,
    sources,
)
from bus.registry import remote

_LOW_DISK_BYTES = 2_000_000_000
_NO_DISK_BYTES = 300_000_000
_MUCH_WAL_BYTES = 1_000_000_000
_LOG_LINES = 200

WAITS = {
    Cause.REGISTER: "the register's replica is not complete or too far behind",
    Cause.PRODUCER: "the broker gives no producer",
    Cause.AGREEMENTS: "there are no agreements that can be used, or a lane stands under newer ones than the worker has",
    Cause.LANES: "where the lanes stand cannot be read",
    Cause.TRANSACTION: "the last transaction could not be committed",
}

Grade = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """`found` says what is the case; `todo` what to do about it, empty when all is well."""

    name: str
    grade: Grade
    found: str
    todo: str = ""


def run(settings: Settings) -> Iterator[Check]:
    """Every check, cheapest first. One that cannot be carried out says why instead of ending the others."""
    for check in (
        _java,
        _jars,
        _disk,
        _declarations,
        _webhooks,
        _secrets,
        _ports,
        _supervisor,
        _processes,
        _tables,
        _engine,
        _kafka,
        _registry,
        _postgres,
    ):
        yield from _guarded(check, settings)


def _guarded(check: Callable[[Settings], Iterator[Check]], settings: Settings) -> Iterator[Check]:
    try:
        yield from check(settings)
    except (ValueError, OSError, KafkaError, psycopg.Error) as error:
        yield Check(
            check.__name__.strip("_"),
            "failed",
            str(error).strip(),
            "mend this first, then run `bus doctor` again",
        )


def _java(settings: Settings) -> Iterator[Check]:
    if not settings.kafka.bootstrap:
        found = java.find()
        version = java.major(found)
        if version is None:
            yield Check("java", "failed", f"{found} does not run", "run `make setup`, or install a Java of version 17 or newer")
        else:
            yield Check("java", "ok", f"Java {version}: {found}")


def _jars(settings: Settings) -> Iterator[Check]:
    if settings.kafka.bootstrap:
        return
    missing = [one.file for one in jars.locked() if not (jars.cache() / one.file).exists()]
    if missing:
        yield Check(
            "kafka-jars", "warning", f"{len(missing)} of Kafka's jars are not here yet", "`bus up` downloads them (44 MB)"
        )
    else:
        yield Check("kafka-jars", "ok", f"Kafka's jars are in {jars.cache()}")


def _disk(settings: Settings) -> Iterator[Check]:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    grade: Grade = "failed" if free < _NO_DISK_BYTES else "warning" if free < _LOW_DISK_BYTES else "ok"
    todo = "" if grade == "ok" else f"free space on the disk of {place}: Kafka and PostgreSQL stop when it is full"
    yield Check("disk", grade, f"{free / 1e9:.1f} GB free for {settings.home}", todo)


def _declarations(settings: Settings) -> Iterator[Check]:
    files = declaration.Files.read(settings)
    counts = f"{len(files.datasets)} datasets, {len(files.agreements)} agreements"
    changed = presence.changed(settings, files.digests(settings)) if presence.is_up(settings) else ""
    if changed:
        reason, todo = changed.split(": ", 1)
        yield Check("declarations", "warning", f"{counts}; {reason}", todo)
    else:
        yield Check("declarations", "ok", counts)


def _secrets(settings: Settings) -> Iterator[Check]:
    place = settings.home / "secrets"
    if not place.exists():
        yield Check("secrets", "ok", "none yet: `bus up` makes them")
        return
    files = [place, *sorted(path for path in place.iterdir() if path.suffix != ".part")]
    open_to_others = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in open_to_others:
        mode = "700" if path.is_dir() else "600"
        yield Check("secrets", "failed", f"others can read {path}", f"chmod {mode} '{path}'; if others had access, replace it")
    wanted = [*secrets.KEYS, *(f"postgres-{role}_{d}" for d in sources.domains(settings) for role in ("agency", "bus"))]
    missing = [name for name in wanted if not (place / name).exists()]
    if missing and (settings.home / "kafka" / "data").exists():
        lost = ", ".join(missing)
        todo = "put the files back from a backup: with a new person-key every person would get another key"
        yield Check("secrets", "failed", f"missing: {lost}", todo if "person-key" in missing else "`bus up` makes new passwords")
    elif not open_to_others:
        yield Check("secrets", "ok", f"{len(files) - 1} files, nobody else can read them")


def _webhooks(settings: Settings) -> Iterator[Check]:
    """Whether the settings let the agreements' webhooks be sent to."""
    try:
        sent = [a for a in declaration.Files.read(settings).agreements.values() if a.delivery.way is Way.WEBHOOK]
    except ValueError:  # what is wrong stands under declarations
        return
    for agreement in sent:
        try:
            target(agreement.delivery.url, webhooks.rules(settings))
            yield Check("webhooks", "ok", f"{agreement.id} may be sent to its webhook")
        except Forbidden as error:
            todo = "settings take effect with `bus down`, then `bus up`; its deliveries wait in its topic"
            yield Check("webhooks", "warning", f"{agreement.id}: {error}", todo)


def _ports(settings: Settings) -> Iterator[Check]:
    chosen = ports.read(settings)
    if chosen is None:
        yield Check("ports", "ok", "none yet: `bus up` chooses free ones")
        return
    listed = [(broker.NAME, chosen.kafka), (broker.NAME, chosen.controller), (database.NAME, chosen.postgres)]
    listed = [(server, port) for server, port in listed if server in roster.servers(settings)]
    if chosen.registry and not settings.registry.url:
        listed.append((roster.REGISTRY, chosen.registry))
    if chosen.feed:
        listed.append((roster.FEED, chosen.feed))
    for server, port in listed:
        running = {server, roster.CONTROLLER} if server == broker.NAME else {server}
        if not any(processes.running(settings, name) for name in running) and not ports.is_free(port):
            place = settings.home / "run" / "endpoints.json"
            todo = f"stop that process, or delete {place} to let the next `bus up` choose new ports"
            yield Check("ports", "failed", f"port {port}, which {server} uses, is taken by {ports.holder(port)}", todo)
        else:
            yield Check("ports", "ok", f"{server}: {port}")


def _supervisor(settings: Settings) -> Iterator[Check]:
    start = presence.read_start(settings)
    match health.supervisor_state(settings):
        case "up":
            yield Check("supervisor", "ok", "up")
        case "starting":
            last = start["steps"][-1] if start and start["steps"] else "nothing yet"
            yield Check(
                "supervisor",
                "warning",
                f"a start is under way: {last}",
                "wait for it, or `bus down` and look at log/supervisor.log",
            )
        case "lost":
            done = "a start was cut off half-way" if start and not start["ready"] else "it was killed"
            yield Check(
                "supervisor",
                "failed",
                f"{done}, and nobody restarts what dies",
                "`bus up` goes on from here; `bus down` stops what is left",
            )
        case _ if start:
            yield Check("supervisor", "failed", f"the last start failed: {start['error']}", "mend that, then `bus up`")
        case _:
            yield Check("supervisor", "ok", "the bus is down; `bus up` starts it")


def _processes(settings: Settings) -> Iterator[Check]:
    for process in health.gather(settings).processes:
        log = settings.home / "log" / f"{process.name}.log"
        if process.state == "down":
            reason = last_failure(settings, process.name)
            again = "the supervisor keeps trying" if presence.is_up(settings) else "`bus up` starts it again"
            todo = f"{'mend that' if reason else f'see {log}'}; {again}"
            yield Check(process.name, "failed", f"not running{': ' + reason if reason else ''}", todo)
        elif process.restarts:
            reason = last_failure(settings, process.name)
            found = f"up for {process.uptime_seconds:.0f} s after {process.restarts} restarts{': ' + reason if reason else ''}"
            yield Check(process.name, "warning", found, f"see {log} for why it ended")
        else:
            yield Check(process.name, "ok", f"up, pid {process.pid}")


def _tables(settings: Settings) -> Iterator[Check]:
    for dataset in health.gather(settings).held:
        reason = why_held(settings, dataset)
        found = f"nothing of it flows, its changes wait: {reason or 'its table does not fit its schema'}"
        yield Check(dataset, "failed", found, "undo the alteration, or release the schema: docs/runbooks.md#bustableheld")


def why_held(settings: Settings, dataset: str) -> str:
    """The reason that capture gave last, if it is still in the last lines of its log."""
    for line in reversed(processes.last_lines(settings, f"capture-{dataset.partition('.')[0]}", _LOG_LINES)):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "table_held" and event.get("dataset") == dataset:
            return str(event.get("reason", ""))
    return ""


def _engine(settings: Settings) -> Iterator[Check]:
    for cause in health.gather(settings).waiting:
        todo = f"the last lines of {settings.home}/log/engine-*.log say why; mend that, and the engine goes on by itself"
        yield Check("engine", "warning", f"a worker commits nothing and tries again: {WAITS[Cause(cause)]}", todo)


def last_failure(settings: Settings, name: str) -> str:
    """The first line of the reason a process gave when it gave up, if that was the last thing it said."""
    for line in reversed(processes.last_lines(settings, name, 3)):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "process_failed":
            return next(iter(str(event.get("reason", "")).splitlines()), "")
    return ""


def _kafka(settings: Settings) -> Iterator[Check]:
    if not settings.kafka.bootstrap and processes.running(settings, broker.NAME) is None:
        return
    with cluster.admin(settings, "operator") as client:
        there = set(client.list_topics())
    try:
        files = declaration.Files.read(settings)
    except ValueError:  # what is wrong stands under declarations
        yield Check("kafka", "warning", "answers; which topics it must have is not known", "mend the declarations first")
        return
    wanted = declared.topics_of(files.datasets, files.agreements, settings.kafka.lanes)
    missing = sorted(set(wanted) - there)
    if missing:
        yield Check(
            "kafka",
            "failed",
            f"{len(missing)} topics are missing: {', '.join(missing[:3])} …",
            "`bus down`, then `bus up` makes them",
        )
    else:
        yield Check("kafka", "ok", f"answers; all {len(wanted)} topics are there")


def _registry(settings: Settings) -> Iterator[Check]:
    if not settings.registry.url and processes.running(settings, roster.REGISTRY) is None:
        return
    served = remote.Registry.of(settings)
    try:
        there = set(served.subjects())
        wanted = set(declaration.Files.read(settings).subjects)
    except ValueError as error:
        todo = f"see {settings.home}/log/registry.log" if not settings.registry.url else "mend that, then `bus doctor` again"
        yield Check("registry", "failed", str(error), todo)
        return
    if missing := sorted(wanted - there):
        text = f"{len(missing)} subjects are missing at {served.url}: {', '.join(missing[:3])} …"
        yield Check("registry", "failed", text, "`bus down`, then `bus up` registers them")
    else:
        yield Check("registry", "ok", f"answers at {served.url}; all {len(wanted)} subjects are there")


def _postgres(settings: Settings) -> Iterator[Check]:
    domains = sources.domains(settings)
    if not domains or processes.running(settings, database.NAME) is None:
        return
    with database.connect(settings) as connection:
        query = "SELECT slot_name, active, restart_lsn::text, pg_current_wal_lsn()::text, wal_status FROM pg_replication_slots"
        slots = {name: (active, begin, now, state) for name, active, begin, now, state in connection.execute(query)}
    for domain in domains:
        yield _slot(domain, slots.get(f"bus_{domain}"))


def _slot(domain: str, slot: tuple[bool, str | None, str, str] | None) -> Check:
    name = f"slot bus_{domain}"
    if slot is None:
        return Check(name, "failed", "not there: capture has not begun or the slot was dropped", f"see log/capture-{domain}.log")
    active, begin, now, state = slot
    if state == "lost" or begin is None:
        return Check(
            name,
            "failed",
            "lost: changes since then cannot be read from it",
            f"see log/capture-{domain}.log for how to begin anew",
        )
    kept = parse_lsn(now) - parse_lsn(begin)
    if not active:
        return Check(
            name,
            "warning",
            f"nobody reads it; it keeps {kept / 1e6:.0f} MB of WAL",
            f"is capture-{domain} up? PostgreSQL keeps WAL until it is",
        )
    if kept > _MUCH_WAL_BYTES:
        return Check(
            name, "warning", f"keeps {kept / 1e9:.1f} GB of WAL", f"capture-{domain} lags, or a transaction is open for long"
        )
    return Check(name, "ok", f"read by capture-{domain}")
