"""`bus agreement sign`, `accept`, `reject`, `revoke`, `list`, `show`: what the parties say of an agreement, where it stands."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bus.cli import frame
from bus.cli.agreement_trial import known_agreements

if TYPE_CHECKING:
    from bus.core.agreement import Agreement
    from bus.signatures.statement import Act, Standing

Json = Annotated[bool, typer.Option("--json", help="One JSON document")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Such as tax.taxpayers", autocompletion=known_agreements)]
Party = Annotated[str, typer.Option("--as", metavar="PARTY", help="giver, or the receiving agency")]
Key = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="Its private key (Ed25519, PEM); a mock party's lies in this home")
]
Role = Annotated[str, typer.Option("--role", metavar="OFFICE", help="The office that acts, never a name")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept for ever, and shown to both parties")]


def add_to(app: typer.Typer) -> None:
    """Make these commands of `bus agreement`."""
    app.command(name="list")(list_)
    for command in (show, sign, accept, reject, revoke):
        app.command()(command)


def sign(context: typer.Context, id: Id, party: Party, key: Key = None, role: Role = "", json: Json = False) -> None:  # noqa: A002  # the word of the command line
    """Sign an agreement's text for a party. It delivers from the next `bus agreement apply` on, when both have.

    A signature holds for this text only: after any change of the file it must be signed again. What was signed before goes on
    meanwhile.

    Example: [bold]bus agreement sign tax.taxpayers --as giver --key giver.pem --role "Data division"[/]
    """
    from bus.signatures.statement import Act

    _act(context, Act.SIGN, _read(context, id), party, key, role, "", json)


def accept(context: typer.Context, id: Id, key: Key = None, role: Role = "", json: Json = False) -> None:  # noqa: A002
    """Sign an agreement's text for the receiving agency.

    Example: [bold]bus agreement accept tax.taxpayers --key tax.pem[/]
    """
    from bus.signatures.statement import Act

    _act(context, Act.SIGN, _read(context, id), "", key, role, "", json)


def reject(
    context: typer.Context,
    id: Id,  # noqa: A002
    party: Party,
    reason: Reason,
    key: Key = None,
    role: Role = "",
    json: Json = False,
) -> None:
    """Say no to an agreement's text, as a party that has not signed it. Final: another text may be signed.

    Example: [bold]bus agreement reject tax.taxpayers --as tax --reason "the address is not needed" --key tax.pem[/]
    """
    from bus.signatures.statement import Act

    _act(context, Act.REJECT, _read(context, id), party, key, role, reason, json)


def revoke(
    context: typer.Context,
    id: Id,  # noqa: A002
    party: Party,
    reason: Reason,
    key: Key = None,
    role: Role = "",
    json: Json = False,
) -> None:
    """End an agreement now: nothing flows under it from each worker's next transaction on, and its rights are taken away.

    The text that is in force is revoked, whatever its file says by now; nothing else is applied. Final for this text: to share
    again, change it and have both parties sign.

    Example: [bold]bus agreement revoke tax.taxpayers --as giver --reason "purpose has ended" --key giver.pem[/]
    """
    from bus.platform import declaration
    from bus.signatures.statement import Act

    settings = frame.settings(context)
    agreement = declaration.published(settings).get(id) or _read(context, id)
    _act(context, Act.REVOKE, agreement, party, key, role, reason, json)
    declaration.stop(settings, id)
    frame.talk(f"{id} is off: every worker takes it over between two transactions; bus.audit has the offsets.")


def _act(
    context: typer.Context, act: Act, agreement: Agreement, party: str, key: Path | None, role: str, reason: str, json: bool
) -> None:
    from bus.config import ConfigError
    from bus.platform import agreed
    from bus.signatures import statement
    from bus.signatures.statement import MAX_TEXT_CHARS, Statement

    settings = frame.settings(context)
    name, party = agreement.id, party or agreement.agency
    if party not in statement.parties(agreement):
        raise ConfigError(f"{party!r} is no party of {name}: they are {' and '.join(statement.parties(agreement))}")
    for what, text in (("--role", role), ("--reason", reason)):
        if len(text) > MAX_TEXT_CHARS:
            raise ConfigError(f"{what} has {len(text)} characters: at most {MAX_TEXT_CHARS} are kept")
    done = Statement(act, name, agreement.grant_hash, party, int(time.time() * 1000), role, reason)
    stands = agreed.act(settings, agreement, done, key)
    if json:
        frame.as_json(_state(agreement, stands, time.time()))
        return
    frame.out().print(f"{name}: {act.value} by {party}; it is {stands.state.value}", highlight=False)
    if stands.missing and stands.state is statement.State.UNSIGNED:
        frame.talk(agreed.why(name, stands))


def list_(context: typer.Context, json: Json = False) -> None:
    """List the agreement files: whether both parties stand by them, since when and until when they hold.

    Example: [bold]bus agreement list[/]   or   [bold]bus agreement list --json[/]
    """
    from rich.table import Table

    states = _states(context)
    if json:
        frame.as_json(states)
        return
    table = Table("agreement", "state", "valid from", "valid until", "signed by", "text (SHA-256)", box=None)
    for one in states:
        signed = ", ".join(act["party"] for act in one["acts"] if act["act"] == "sign")
        table.add_row(one["agreement"], one["state"], one["valid_from"], one["valid_until"] or "", signed, one["grant_hash"][:12])
    frame.out().print(table)


def show(context: typer.Context, id: Id, json: Json = False) -> None:  # noqa: A002
    """Show one agreement: who gets which fields of what, why and until when, who signed it, and what became of it.

    Example: [bold]bus agreement show tax.taxpayers[/]
    """
    agreement = _read(context, id)
    found = next(one for one in _states(context) if one["agreement"] == id) | {
        "purpose": agreement.purpose,
        "legal_basis": agreement.legal_basis,
        "delivery": agreement.delivery.way.value,
        "procedure": agreement.terms.procedure,
        "officer_role": agreement.terms.officer_role,
        "data_life": agreement.terms.data_life,
        "contacts": list(agreement.terms.contacts),
        "datasets": [
            {
                "dataset": grant.dataset,
                "where": {column: list(values) for column, values in grant.where},
                "verdicts": list(grant.verdicts),
                "fields": {field.name: str(field.mask) for field in grant.fields},
                "sensitive_basis": dict(grant.sensitive_basis),
            }
            for grant in agreement.grants
        ],
    }
    if json:
        frame.as_json(found)
        return
    console = frame.out()
    for key, value in found.items():
        if key == "datasets":
            for grant in value:
                console.print(f"{grant['dataset']}: {_grant_words(grant)}", highlight=False, markup=False)
        elif key == "acts":
            for act in value:
                role = f" ({act['role']})" if act["role"] else ""
                console.print(
                    f"{act['at']}  {act['act']} by {act['party']}{role} {act['reason']}".rstrip(), highlight=False, markup=False
                )
        elif value:
            console.print(
                f"{key.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}",
                highlight=False,
                markup=False,
            )


def _grant_words(grant: dict[str, Any]) -> str:
    fields = ", ".join(name if mask == "plain" else f"{name} ({mask})" for name, mask in grant["fields"].items())
    rows = "; rows where " + " and ".join(f"{c} is {' or '.join(v)}" for c, v in grant["where"].items()) if grant["where"] else ""
    verdicts = f"; only {' or '.join(grant['verdicts'])}" if grant["verdicts"] else ""
    return fields + rows + verdicts


def _read(context: typer.Context, name: str) -> Agreement:
    from bus.avro import dataset
    from bus.config import ConfigError
    from bus.engine import agreements

    settings = frame.settings(context)
    found = agreements.load(settings, dataset.load(settings.schemas))
    if name not in found:
        raise ConfigError(f"no agreement {name!r} in {settings.agreements}: there are {', '.join(found) or 'none'}")
    return found[name]


def _states(context: typer.Context) -> list[dict[str, Any]]:
    from bus import access
    from bus.avro import dataset
    from bus.engine import agreements
    from bus.signatures import keys, log, statement

    settings = frame.settings(context)
    found = agreements.load(settings, dataset.load(settings.schemas))
    said, known = log.read(access.confluent(settings, "operator"), "operator"), keys.public(settings, found.values())
    return [_state(one, statement.standing(one, said, known), time.time()) for one in found.values()]


def _state(agreement: Agreement, stands: Standing, now_seconds: float) -> dict[str, Any]:
    """As JSON has it. `state`: of the text; an agreed one may not have begun, or be over."""
    from bus.signatures.statement import State

    state = stands.state.value
    if stands.state is State.AGREED and not agreement.in_force(int(now_seconds * 1000)):
        state = "not begun" if now_seconds * 1000 < agreement.valid_from_ms else "ended"
    return {
        "agreement": agreement.id,
        "state": state,
        "valid_from": _instant(agreement.valid_from_ms),
        "valid_until": _instant(agreement.valid_until_ms) if agreement.valid_until_ms is not None else None,
        "grant_hash": agreement.grant_hash.hex(),
        "missing": list(stands.missing),
        "acts": [
            {
                "act": signed.statement.act.value,
                "party": signed.statement.party,
                "at": _instant(signed.statement.at_ms),
                "role": signed.statement.role,
                "reason": signed.statement.reason,
            }
            for signed in stands.acts
        ],
    }


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
