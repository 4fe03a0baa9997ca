"""`bus demo`: the whole flow on real parts, watched from its first row to the account at its end."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli import frame
from bus.config import ConfigError, Settings

if TYPE_CHECKING:
    from bus.avro.dataset import Dataset
    from bus.core.agreement import Agreement
    from bus.ledger.latency import Probe

READY_SECONDS = 300.0
REST_SECONDS = 120.0
EXAMPLES_AFTER_SECONDS = 10.0
WARM_UP_SECONDS = 10.0
"""Latency is measured from then on, or from a quarter of a shorter run: a Java that has just started compiles itself first."""
_LOOK_SECONDS = 0.5
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo(
    context: typer.Context,
    seconds: Annotated[float | None, typer.Option(min=1, help="How long life goes on; without it, until Ctrl-C")] = None,
    people: Annotated[int, typer.Option(min=1, help="Size of the society at the first run")] = 5_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Row changes a second over all agencies")] = 100.0,
    seed: Annotated[int, typer.Option(help="Same seed, same society and same life")] = 1,
    json: Annotated[bool, typer.Option("--json", help="At the end one JSON document on stdout; talk goes to stderr")] = False,
) -> None:
    """Start the bus, fill five mock agencies, let life go on in them, and watch what each agency receives.

    With --seconds it ends with an account computed from the topics against the databases: exit status 0 only if every
    committed change is accounted for, 130 if it was interrupted before.

    Example: [bold]bus demo[/]   or   [bold]bus demo --seconds 60 --json[/]
    """
    settings = frame.settings(context)
    _refuse_a_running_bus(settings)
    show = Demo(settings, people, rate, seed, seconds, quiet=json or not sys.stdout.isatty())
    result = None
    try:
        with _one_interruption():
            result = show.run()
    except KeyboardInterrupt:
        frame.talk("")
        if json or seconds is not None:  # no account was taken, which must not pass for one that is in order
            raise
    finally:
        show.stop()
    if result is not None:
        frame.as_json(result) if json else frame.talk(_verdict(result))
        raise typer.Exit(0 if result["conservation"]["ok"] else 1)


@contextmanager
def _one_interruption() -> Iterator[None]:
    """Within, a Ctrl-C, a SIGTERM or a closed terminal raises KeyboardInterrupt, once. From then on, and in any case after it,
    none of them does anything: a stop that is cut short would leave processes."""

    def first(*_: object) -> None:
        _ignore(heeded)
        raise KeyboardInterrupt

    heeded = [number for number in _ENDS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's choice stands
    for number in heeded:
        signal.signal(number, first)
    try:
        yield
    finally:
        _ignore(heeded)


def _ignore(numbers: Sequence[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _refuse_a_running_bus(settings: Settings) -> None:
    """Before anything else: whatever a demo has begun, it also stops."""
    from bus.platform import presence

    if presence.is_up(settings):
        raise ConfigError(f"a bus is up in {settings.home}: stop it with `bus down`, or choose another --home for the demo")


@dataclass(slots=True)
class Demo:
    """One run. `quiet`: no live table, a line on stderr for each step instead."""

    settings: Settings
    people: int
    rate: float
    seed: int
    seconds: float | None
    quiet: bool
    _began: float = field(default_factory=time.monotonic)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _changes: Mapping[str, int] = field(default_factory=dict)
    _failure: BaseException | None = None
    _first_delivery_seconds: float | None = None

    def run(self) -> dict[str, Any] | None:
        """The account when `seconds` are over. Raises ConfigError and the errors of the parts; KeyboardInterrupt passes."""
        from bus.cli import measured, up

        self._prepare()
        up.start(self.settings)
        datasets, agreements = self._declared()
        domains = {d.domain for d in datasets.values()}
        probe = measured.probe(self.settings)
        life = threading.Thread(target=self._live, name="life", daemon=True)
        try:
            self._watch(life, domains, probe, agreements)
            return self._account(datasets, agreements, probe)
        finally:
            probe.stop()

    def stop(self) -> None:
        """Ends life and the bus, and says where the data is."""
        from bus.cli import down

        self._stopping.set()
        began = time.monotonic()
        if down.stop(self.settings):
            home = self.settings.home
            frame.talk(f"Stopped in {time.monotonic() - began:.1f} s. Data is in {home}; `rm -r '{home}'` removes it.")

    def _prepare(self) -> None:
        """The agencies are full before capture looks at them; Kafka, which takes its time, starts meanwhile."""
        from bus import access
        from bus.platform import agencies, broker, database, declaration, jars, processes, roster, start_postgres
        from connectors import society

        declaration.Files.read(self.settings)  # what is wrong with them is told before anything is started
        processes.make_home(self.settings)
        servers = roster.servers(self.settings)
        if broker.NAME in servers:
            jars.fetch()
        frame.talk("Starting Kafka and PostgreSQL")
        if broker.NAME in servers and processes.running(self.settings, broker.NAME) is None:
            broker.launch(self.settings)
        if database.NAME in servers:
            start_postgres(self.settings)
            agencies.create(self.settings)
        dsns = {domain: access.owner_dsn(self.settings, domain) for domain in society.domains()}
        if society.is_empty(dsns):
            self._fill(dsns)

    def _fill(self, dsns: Mapping[str, str]) -> None:
        from rich.console import Console
        from rich.progress import Progress

        from connectors import society

        frame.talk(f"Filling {len(dsns)} agency databases with a society of {self.people:,} people")
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
            bar = {domain: bars.add_task(domain, total=self.people) for domain in dsns}
            society.fill(dsns, self.people, self.seed, lambda domain, done, _: bars.update(bar[domain], completed=done))

    def _declared(self) -> tuple[dict[str, Dataset], dict[str, Agreement]]:
        from bus.avro import dataset
        from bus.engine import agreements

        datasets = dataset.load(self.settings.schemas)
        return datasets, agreements.load(self.settings, datasets)

    def _live(self) -> None:
        from bus import access
        from connectors import society

        dsns = {domain: access.owner_dsn(self.settings, domain) for domain in society.domains()}
        try:
            society.live(dsns, self.rate, self.seconds, self.seed, self._tick, self._stopping.is_set)
        except Exception as error:  # told by the main thread, which is the one that a person listens to
            self._failure = error

    def _tick(self, done: Mapping[str, int]) -> None:
        self._changes = done

    def _watch(self, life: threading.Thread, domains: set[str], probe: Probe, agreements: Mapping[str, Agreement]) -> None:
        """Until life is over. Starts it when all snapshots are taken."""
        from rich.console import Console
        from rich.live import Live

        from bus.cli.demo_view import lanes_owned, parties, streaming, view
        from bus.platform import health

        examples_due: float | None = None
        warm: float | None = None
        deadline = time.monotonic() + READY_SECONDS
        console = Console(stderr=True)
        with (
            Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            if not self.quiet
            else _Silent() as live
        ):
            while not life.ident or life.is_alive():
                found = health.samples(self.settings)
                if self._first_delivery_seconds is None and any(p.delivered for p in parties(found).values()):
                    self._first_delivery_seconds = time.monotonic() - self._began
                    frame.talk(f"First delivery {self._first_delivery_seconds:.1f} s after the start")
                if not life.ident and domains <= streaming(found) and lanes_owned(found) == self.settings.kafka.lanes:
                    life.start()
                    examples_due = time.monotonic() + EXAMPLES_AFTER_SECONDS
                    warm = time.monotonic() + self._warm_up_seconds()
                if not life.ident and time.monotonic() > deadline:
                    late = ", ".join(sorted(domains - streaming(found))) or "the engine"
                    raise ConfigError(f"not ready after {READY_SECONDS:.0f} s: waiting for {late}; see {self.settings.home}/log")
                if warm and time.monotonic() > warm:
                    warm = None
                    probe.begin()
                if examples_due and time.monotonic() > examples_due and not self.quiet:
                    examples_due = None
                    self._examples(live.console, agreements)
                phase = "Life goes on." if life.ident else "Reading the agencies' databases."
                live.update(view(found, phase, sum(self._changes.values()), probe.percentiles()), refresh=True)
                time.sleep(_LOOK_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _warm_up_seconds(self) -> float:
        return min(WARM_UP_SECONDS, self.seconds / 4) if self.seconds else WARM_UP_SECONDS

    def _examples(self, console: Any, agreements: Mapping[str, Agreement]) -> None:
        """One delivery for each agreement, personal fields masked, and what to try next."""
        from bus.cli.newest import as_text, tail
        from bus.core import topics

        for agreement in agreements:
            for record in tail(self.settings, topics.agency(agreement), last=1):
                console.print(as_text(record), highlight=False, markup=False)
        topic = topics.agency(next(iter(agreements)))
        console.print("\nTry in another terminal:", style="bold")
        for command in ("bus status", f"bus tail {topic} --last 5", f"bus replay {topic} --from 0 --to now --into sandbox.first"):
            console.print(f"  .venv/bin/{command}", highlight=False)

    def _account(self, datasets: dict[str, Dataset], agreements: dict[str, Agreement], probe: Probe) -> dict[str, Any]:
        from bus.ledger.take import await_rest, take

        frame.talk("Life is over; waiting until the last change is delivered")
        await_rest(self.settings, datasets, REST_SECONDS)
        probe.stop()  # not before: what is still under way counts, too
        if self._failure is None and not self.quiet:
            with suppress(ConfigError):
                from rich.console import Console

                self._examples(Console(stderr=True), agreements)
        frame.talk("Taking the account: topics against databases, decisions against deliveries")
        account = take(self.settings, datasets, agreements)
        return account.summary() | {
            "latency_ms": probe.percentiles() | {"warm_up_seconds": self._warm_up_seconds()},
            "committed_changes": dict(self._changes),
            "first_delivery_seconds": self._first_delivery_seconds,
        }


class _Silent:
    """Stands in for the live table where nobody watches."""

    console: Any = None

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, *_: object, **__: object) -> None:
        return None


def _verdict(result: Mapping[str, Any]) -> str:
    delivered = sum(a["delivered"] for a in result["agreements"].values())
    conservation = result["conservation"]
    if conservation["ok"]:
        return (
            f"Conservation holds: {conservation['events']:,} events captured, {delivered:,} deliveries, everything accounted for."
        )
    return "Conservation is BROKEN:\n" + "\n".join(f"  {p}" for p in conservation["problems"])
