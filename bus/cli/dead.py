"""`bus dead`: what could not be processed, one letter of it, and putting it through again when the cause is mended."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from bus.cli import frame

app = typer.Typer(no_args_is_help=True)
PRINCIPAL = "operator"
NOT_WELL = 1
MOST_LISTED = 1_000
_BY = ("code", "dataset", "lane")
_JSON = Annotated[bool, typer.Option("--json", help="One JSON document")]
_DATASET = Annotated[str, typer.Option("--dataset", metavar="DATASET", help="Letters of this dataset only, such as civil.birth")]


@app.command("list")
def listed(
    context: typer.Context,
    by: Annotated[str, typer.Option("--by", metavar="|".join(_BY), help="Count them by this instead")] = "",
    dataset: _DATASET = "",
    json: _JSON = False,
) -> None:
    """List the dead letters, newest last, with their codes and whether they were redriven. No person's data is shown.

    Example: [bold]bus dead list[/]   or   [bold]bus dead list --by code --json[/]
    """
    from bus import access
    from bus.letters import reading
    from bus.letters.letter import LetterError

    if by and by not in _BY:
        raise LetterError(f"--by takes {', '.join(_BY)}, got {by!r}")
    connection = access.confluent(frame.settings(context), PRINCIPAL)
    done = reading.redriven(connection)
    counted: Counter[str] = Counter()
    newest: list[dict[str, Any]] = []
    total = 0
    for letter in reading.letters(connection, reading.dead_topics(connection, dataset)):
        total += 1
        if by:
            counted[str({"code": letter.code, "dataset": letter.dataset, "lane": letter.place.lane}[by])] += 1
            continue
        newest.append(letter.told() | {"redriven": str(letter.place) in done})
        if len(newest) > 2 * MOST_LISTED:
            newest = sorted(newest, key=lambda one: one["at_ms"])[-MOST_LISTED:]
    newest = sorted(newest, key=lambda one: one["at_ms"])[-MOST_LISTED:]
    if json:
        frame.as_json({"letters": total, "by": dict(counted)} if by else {"letters": total, "listed": newest})
        return
    for name, count in sorted(counted.items()):
        print(f"{name:<24} {count:,}")
    for one in newest:
        source = one["source"]
        where = f"lane {source['lane']} offset {source['offset']}" if "offset" in source else f"at {source['position']}"
        print(f"{one['letter']:<40} {one['code']:<15} from {source['topic']} {where}{'  redriven' if one['redriven'] else ''}")
    print(f"{total:,} dead letters" + (f", the newest {len(newest):,} shown" if not by and len(newest) < total else ""))


@app.command()
def show(
    context: typer.Context,
    place: Annotated[str, typer.Argument(metavar="TOPIC/LANE/OFFSET", help="A letter as `bus dead list` names it")],
    json: _JSON = False,
) -> None:
    """Show one dead letter: its code and what to do, headers, size and frame; of the value nothing but, masked, what can be read.

    Example: [bold]bus dead show dead.civil.birth/2/17[/]
    """
    from functools import partial

    from bus import access
    from bus.cli.describe import Describer
    from bus.cli.masking import key_text
    from bus.letters import reading
    from bus.letters.letter import Place, remedy
    from bus.registry import log

    settings = frame.settings(context)
    connection = access.confluent(settings, PRINCIPAL)
    letter = reading.one(connection, Place.parse(place))
    framed = letter.frame_told()
    value = letter.value if letter.origin and framed["frame"] else None
    done = reading.redriven(connection).get(str(letter.place))
    told = letter.told() | framed | {"key": key_text(letter.key), "headers": letter.shown_headers()}
    told |= {"redriven": done, "remedy": remedy(letter)}
    told["value"] = None if value is None else Describer(settings, partial(log.read, connection)).value(letter.place.topic, value)
    if json:
        frame.as_json(told)
        return
    for name, one in told.items():
        print(f"{name + ':':<12} {'-' if one is None else one}")


@app.command()
def redrive(
    context: typer.Context,
    plan: Annotated[Path | None, typer.Argument(metavar="PLAN", help="A plan that --dry-run has made")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make a plan: what each letter would become today; write nothing")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="PLAN", help="With --dry-run: where to write the plan")] = None,
    dataset: _DATASET = "",
    code: Annotated[str, typer.Option("--code", metavar="CODE", help="With --dry-run: letters of this code only")] = "",
    rate: Annotated[float, typer.Option("--rate", metavar="N", min=0.1, max=1000, help="Most letters a second")] = 50.0,
    json: _JSON = False,
) -> None:
    """Put dead letters through the engine again, by a plan that was made before: their original bytes, once, in their lane.

    What was redriven is on record, so the same plan can be run again after any interruption. A letter whose row or person has
    a later event is not redriven: an old state would follow a newer one. Exit status 1 when letters of the plan were left.

    Example: [bold]bus dead redrive --dry-run --out plan.yaml[/]   then   [bold]bus dead redrive plan.yaml --rate 20[/]
    """
    from bus.letters.letter import LetterError

    settings = frame.settings(context)
    if dry_run == (plan is not None):
        raise LetterError("give either --dry-run, which makes a plan, or the PLAN that is to be carried out")
    if dry_run:
        _plan(settings, dataset, code, out, json)
        return
    from bus.letters.plan import Plan
    from bus.letters.redrive import Run

    assert plan is not None
    result = Run(settings, Plan.read(plan), lambda: time.time_ns() // 1_000_000).run(rate, frame.talk).told()
    if json:
        frame.as_json(result)
    else:
        for one in result["redriven"]:
            print(f"{one['letter']} now also stands in {one['topic']} lane {one['lane']} offset {one['offset']}")
        for one in result["left"]:
            print(f"{one['letter']}: {one['reason']}")
        print(f"{len(result['redriven']):,} letters redriven, {len(result['left']):,} left")
    if any("redriven before" not in one["reason"] for one in result["left"]):
        raise typer.Exit(NOT_WELL)


def _plan(settings: Any, dataset: str, code: str, out: Path | None, json: bool) -> None:
    from bus import access
    from bus.letters import plan, reading
    from bus.letters.today import today

    connection = access.confluent(settings, PRINCIPAL)
    with today(settings, PRINCIPAL, time.time_ns() // 1_000_000) as now:
        made = plan.make(connection, reading.dead_topics(connection, dataset), now, code, frame.talk)
    if out is not None:
        made.write(out)
    if json:
        frame.as_json(made.content())
        return
    for item in made.items:
        print(f"{item.place!s:<40} {item.code:<15} {item.action:<15} {item.reason or _becomes(item.becomes)}")
    actions = Counter(item.action for item in made.items)
    print(", ".join(f"{n:,} {action}" for action, n in sorted(actions.items())) or "no dead letters")
    if out is not None and actions[plan.REDRIVE]:
        print(f"Carry it out: bus dead redrive {out}")


def _becomes(told: Any) -> str:
    outcomes = Counter(told["outcomes"].values())
    verdict = "" if told["verdict"] == "none" else f"verdict {told['verdict']}, "
    return f"{verdict}{', '.join(f'{n} × {outcome}' for outcome, n in sorted(outcomes.items())) or 'no agreement'}"
