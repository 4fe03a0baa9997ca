"""`bus explain`: one event's whole story, from its commit to each agency."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from bus.cli import frame


def explain(
    context: typer.Context,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="32 hexadecimal digits: the bus's own id, or an agency's")],
    dataset: Annotated[str, typer.Option("--dataset", metavar="DATASET", help="Look among events of this dataset only")] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Look among events written from then on: a time, or how long ago as 1d")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False,
) -> None:
    """Tell what became of one event: where it was committed and captured, its verdicts, what each agreement made of it and why.

    Without --since every record is looked at, up to the present end: some hundred thousand a second, with progress on stderr.
    Of the row nothing is shown; of a mismatch only which register fields differ. No group's place is moved.

    Example: [bold]bus explain 8f1d0c3a5b7e9f20416283a4b5c6d7e8 --since 1d[/]
    """
    from bus.ledger import explain as story

    told = story.tell(frame.settings(context), event_id, dataset, since, frame.talk)
    if json:
        frame.as_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    print(f"event      {told['event_id']} of {told['dataset']}: {told['state']}")
    if source := told["source"]:
        where = f"{source['db']}.{source['schema']}.{source['table']}, op {told['op']}"
        place = f"LSN {source['lsn']} xid {source['xid']} ordinal {source['ordinal']}"
        print(f"committed  {where}, {place}, {_at(source['committed_at_ms'])}")
    print(f"captured   {_place(told['captured'])}")
    for name in ("dead_letter", "dead_letter_again"):
        if letter := told.get(name):
            print(
                f"dead       {letter['letter']}, {letter['code']}, {_at(letter['at_ms'])}: see `bus dead show {letter['letter']}`"
            )
        if name == "dead_letter" and told["redriven"]:
            print(f"redriven   {_place(told['redriven'])}")
    for one in told["verdicts"]:
        differs = f": {', '.join(one['mismatched'])} differ" if one["mismatched"] else ""
        version = "" if one["register_offset"] is None else f" (register record {one['register_offset']})"
        print(f"verdict    {one['role']} {one['status']}{differs}{version}")
    if decided := told["decided"]:
        print(f"decided    by {decided['worker']}, {_at(decided['at_ms'])}, audit line {decided['audit_offset']}")
    for name, one in sorted(told["agreements"].items()):
        delivery = one["delivery"]
        where = "" if delivery is None else f": seq {delivery['seq']}, op {delivery['op']}, {_place(delivery)}"
        why = "" if one["outcome"] == "DELIVERED" else f", {one['why']}"
        print(f"agreement  {name}: {one['outcome'] or 'PAST'}{why}{where}")
    print(f"{told['scanned']['records']:,} records read in {told['scanned']['seconds']:.1f} s")


def _place(place: dict[str, Any]) -> str:
    return f"{place['topic']} lane {place['lane']} offset {place['offset']}, {_at(place['at_ms'])}"


def _at(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat(sep=" ", timespec="milliseconds")
