"""`bus ledger`: captured = delivered + withheld + dead-lettered + waiting, from the topics, for every dataset and agreement."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bus.cli import frame

NOT_WELL = 1


def ledger(
    context: typer.Context,
    agency: Annotated[str, typer.Option("--agency", metavar="AGENCY", help="This agency's agreements only")] = "",
    dataset: Annotated[str, typer.Option("--dataset", metavar="DATASET", help="This dataset only, such as civil.birth")] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="TIME",
            help="What the engine decided from then on, and all that waits: a time, or how long ago as 15m. Each lane begins "
            "with its first audit line of that time, which names the offsets of its inputs: so events are counted in full "
            "that were captured before and decided after, and not at all those decided before",
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON document")] = False,
) -> None:
    """Account for every event: captured + redriven = delivered + withheld + dead-lettered + waiting. Exit status 0 only if so.

    It reads the topics themselves, record by record, and holds the audit lines against them; the bus may run meanwhile. What
    does not come out is named with topic, lane and offset. About 100,000 records take two seconds; no group's place is moved.

    Example: [bold]bus ledger[/]   or   [bold]bus ledger --agency tax --since 1h --json[/]
    """
    from bus.ledger import conserve

    report = conserve.take(frame.settings(context), conserve.Asked(agency, dataset, since), frame.talk)
    if json:
        frame.as_json(report)
    else:
        _show(report)
    if not report["ok"]:
        raise typer.Exit(NOT_WELL)


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table

    console = frame.out()
    datasets = Table("dataset", box=None, header_style="bold", pad_edge=False)
    for title in ("captured", "redriven", "decided", "dead letters", "waiting", "difference"):
        datasets.add_column(title, justify="right")
    for name, sums in report["datasets"].items():
        dead = sum(sums["dead_lettered"].values())
        row = (sums["captured"], sums["redriven"], sums["decided"], dead, sums["waiting"], sums["difference"])
        datasets.add_row(name, *(f"{n:,}" for n in row))
    console.print(datasets)
    agreements = Table("agreement", "dataset", box=None, header_style="bold", pad_edge=False, title="")
    for title in ("captured", "redriven", "delivered", "withheld", "dead letters", "waiting", "past", "difference"):
        agreements.add_column(title, justify="right")
    agreements.add_column("withheld by reason")
    for agreement, found in report["agreements"].items():
        for name, sums in found.items():
            withheld, past = sum(sums["withheld"].values()), sums["past"].get("DELIVERED", 0)
            counts = (sums["captured"], sums["redriven"], sums["delivered"], withheld, sums["dead_lettered"], sums["waiting"])
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(sums["withheld"].items()))
            agreements.add_row(agreement, name, *(f"{n:,}" for n in (*counts, past, sums["difference"])), reasons)
    if report["agreements"]:
        console.print(agreements)
    for one in report["differences"]:
        print(in_words(one))
    if report["findings"] > len(report["differences"]):
        print(f"and {report['findings'] - len(report['differences']):,} more")
    state = "Everything is accounted for" if report["ok"] else "The account does not come out"
    if report["ok"] and not report["records"]:
        state = "There is nothing to account for"
    lines = "audit line" if report["audit_lines"] == 1 else "audit lines"
    print(f"{state}: {report['records']:,} records, {report['audit_lines']:,} {lines}, {report['seconds']:.1f} s")


_WORDS = {
    "missing": "a delivery that the audit says was made does not stand in the topic",
    "not_delivered": "an event was decided DELIVERED, and no delivery of it was made",
    "other_event": "a delivery of an event that was not decided DELIVERED in its transaction",
    "unexplained": "a record that no audit line explains",
    "repeated": "a record that stands there again",
    "not_verified": "a captured event was neither verified nor became a dead letter",
    "passed_over": "the engine went past a captured event",
    "read_twice": "the engine read events again that it had read before",
    "decisions": "verified events lack the decision of an agreement, or have one too many",
    "grant_hash": "a delivery under another version of the agreement than was in force",
    "audit": "the audit line differs from the records",
    "lane_record": "the lane record is behind the audit",
}


def in_words(one: dict[str, Any]) -> str:
    """One difference, with where it begins."""
    about = " under ".join(filter(None, (one["dataset"], one["agreement"])))
    rest = {k: v for k, v in one.items() if k not in ("kind", "dataset", "agreement", "topic", "lane")}
    places = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rest.items())
    return f"{about or 'lane ' + str(one['lane'])}: {_WORDS[one['kind']]}: {one['topic']} lane {one['lane']}, {places}"
