"""`bus webhook`: where each agency's webhook stands, what the agency needs to verify it, and sending again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli import frame

if TYPE_CHECKING:
    from bus.config import Settings
    from bus.core.agreement import Agreement

app = typer.Typer(no_args_is_help=True)
PRINCIPAL = "operator"
NOT_WELL = 1
_ANSWER_SECONDS = 10.0
_JSON = Annotated[bool, typer.Option("--json", help="One JSON document")]
_AGREEMENT = Annotated[str, typer.Argument(help="Such as tax.taxpayers")]


@app.command("list")
def listed(context: typer.Context, json: _JSON = False) -> None:
    """List the agreements that are delivered by webhook, and where each stands. No person's data is shown.

    Example: [bold]bus webhook list --json[/]
    """
    found = _standings(frame.settings(context))
    if json:
        frame.as_json(found)
        return
    from rich.table import Table

    if not found:
        frame.talk("No agreement in force has `delivery: {webhook: …}`.")
        return
    table = Table("agreement", "state", "unread", "waiting", "given up", "next attempt", "last code")
    for one in found:
        numbers = (str(one["unread"]), str(one["waiting"]), str(one["given_up"]))
        table.add_row(one["agreement"], one["state"], *numbers, one["next_attempt"] or "-", one["last_code"] or "-")
    frame.out().print(table)
    for one in found:
        if one["why"]:
            frame.talk(f"{one['agreement']}: {one['why']}")


@app.command()
def show(context: typer.Context, agreement: _AGREEMENT, json: _JSON = False) -> None:
    """Show where one webhook stands: what waits, since which attempt, and when it is tried again.

    Example: [bold]bus webhook show tax.taxpayers[/]
    """
    settings = frame.settings(context)
    _agreement(settings, agreement)
    (found,) = [one for one in _standings(settings) if one["agreement"] == agreement]
    if json:
        frame.as_json(found)
        return
    out = frame.out()
    for name, value in found.items():
        if name != "queues":
            shown = " ".join(f"{lane}:{offset}" for lane, offset in value.items()) if isinstance(value, dict) else value
            out.print(f"{name.replace('_', ' ')}: {'-' if shown in (None, '') else shown}", markup=False, highlight=False)
    for one in found["queues"]:
        when = "given up" if one["given_up"] else f"next attempt {one['next_attempt']}"
        out.print(f"  lane {one['lane']} offset {one['offset']}: {one['events']} waiting, {one['attempts']} attempts, {when}")


@app.command()
def secret(
    context: typer.Context,
    agreement: _AGREEMENT,
    hmac: Annotated[Path | None, typer.Option("--hmac", metavar="FILE", help="Write the HMAC secret there, mode 0600")] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make new keys; old and new ones sign until --retire")] = False,
    retire: Annotated[bool, typer.Option("--retire", help="Sign with the newest keys only")] = False,
    json: _JSON = False,
) -> None:
    """Show what the agency needs to verify: public keys; an HMAC secret goes to a file, and never to the screen.

    Example: [bold]bus webhook secret tax.taxpayers[/]   or   [bold]bus webhook secret tax.taxpayers --hmac tax.secret[/]
    """
    from bus.config import ConfigError
    from bus.delivery import signing

    settings = frame.settings(context)
    _agreement(settings, agreement)
    if rotate and retire:
        raise ConfigError("--rotate and --retire are two steps: the agency changes its key between them")
    if hmac is not None:
        signing.may_save(hmac)  # before a key is changed
    found = signing.keys(settings, agreement)
    if hmac is not None:
        found = signing.with_hmac(settings, agreement)
    if rotate:
        found = signing.rotate(settings, agreement)
    if retire:
        found = signing.retire(settings, agreement)
    if hmac is not None:
        newest = [key for key in found if key.kind == signing.HMAC][-1]
        signing.save(hmac, newest.shared() + "\n")
    told = [{"kind": key.kind, "public": key.public() if key.kind == signing.ED25519 else None} for key in found]
    if json:
        frame.as_json({"agreement": agreement, "keys": told, "hmac_file": str(hmac) if hmac else None})
        return
    for key in told:
        frame.out().print(f"{key['kind']} {key['public'] or 'secret: --hmac FILE writes the newest'}", highlight=False)
    if rotate:
        frame.talk(f"Both keys sign now. When the agency verifies by the new one: bus webhook secret {agreement} --retire")


@app.command("test")
def tried(context: typer.Context, agreement: _AGREEMENT, json: _JSON = False) -> None:
    """Send a signed test event without data to the agency's webhook, from here, and say what became of it.

    Example: [bold]bus webhook test tax.taxpayers[/]
    """
    from bus.delivery import trying, webhooks
    from bus.delivery.outbox import Outcome

    settings = frame.settings(context)
    one = _agreement(settings, agreement)
    sender = webhooks.sender(settings)
    try:
        reply = trying.send(settings, one, sender)
    finally:
        sender.close()
    well = reply.outcome is Outcome.DELIVERED
    if json:
        frame.as_json({"agreement": agreement, "ok": well, "code": reply.code})
    else:
        frame.talk(f"{agreement}: {'taken' if well else 'not taken'} ({reply.code})")
    raise typer.Exit(0 if well else NOT_WELL)


@app.command()
def resume(context: typer.Context, agreement: _AGREEMENT) -> None:
    """Send again to a webhook that has said 410, or at once to one that is failing.

    Example: [bold]bus webhook resume tax.taxpayers[/]
    """
    _ask(frame.settings(context), agreement, "resume")


@app.command()
def retry(context: typer.Context, agreement: _AGREEMENT) -> None:
    """Send again what was given up, with its whole schedule, and at once what waits.

    Example: [bold]bus webhook retry tax.taxpayers[/]
    """
    _ask(frame.settings(context), agreement, "retry")


def _ask(settings: Settings, agreement: str, word: Any) -> None:
    from bus.delivery import journal

    _agreement(settings, agreement)
    journal.ask(settings, agreement, word, int(time.time() * 1000))
    frame.talk(f"{agreement}: asked for; the process `webhooks` does it within seconds, see `bus webhook show {agreement}`")


def _in_force(settings: Settings) -> dict[str, Agreement]:
    from bus import access
    from bus.core.agreement import Way
    from bus.engine import agreement_log

    found = agreement_log.read(access.confluent(settings, PRINCIPAL) | {"log_level": 0}).agreements()
    return {name: one for name, one in found.items() if one.delivery.way is Way.WEBHOOK}


def _agreement(settings: Settings, name: str) -> Agreement:
    from bus.config import ConfigError

    found = _in_force(settings)
    if name not in found:
        others = ", ".join(found) or "none"
        raise ConfigError(f"{name!r} is no agreement in force that is delivered by webhook; those are: {others}")
    return found[name]


def _standings(settings: Settings) -> list[dict[str, Any]]:
    from bus import access
    from bus.delivery import journal, webhooks
    from bus.delivery.standing import standing

    states = journal.read(access.confluent(settings, PRINCIPAL) | {"log_level": 0}, PRINCIPAL).states
    allowed, now_ms = webhooks.rules(settings), int(time.time() * 1000)
    listed = _in_force(settings)
    ends = _ends(settings, listed)
    return [standing(one, states.get(name), allowed, now_ms, ends[name]) for name, one in listed.items()]


def _ends(settings: Settings, listed: Mapping[str, Agreement]) -> dict[str, dict[int, int]]:
    """Agreement -> lane -> end of its topic."""
    from confluent_kafka import IsolationLevel, KafkaException
    from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

    from bus import access
    from bus.config import ConfigError
    from bus.core import topics
    from bus.engine import client, lanes

    admin = AdminClient(access.confluent(settings, PRINCIPAL) | {"logger": client.QUIET, "error_cb": client.ignore})
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    try:
        there = admin.list_topics(timeout=_ANSWER_SECONDS).topics
        places = [(topic, lane) for topic in map(topics.agency, listed) if topic in there for lane in there[topic].partitions]
        found = lanes.offsets(admin, places, latest, IsolationLevel.READ_COMMITTED)
    except KafkaException as error:
        raise ConfigError(f"where the agencies' topics end cannot be seen: {client.text(error)}") from error
    return {name: {lane: end for (topic, lane), end in found.items() if topic == topics.agency(name)} for name in listed}
