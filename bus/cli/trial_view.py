"""What a trial of a draft found, as JSON and for people. Example deliveries are masked as `bus tail` masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from bus.avro.dataset import Dataset
from bus.cli.masking import Masker
from bus.cli.newest import flat
from bus.ledger.decoding import compile_decoder
from bus.trial.counting import DELIVERED
from bus.trial.distinct import Count
from bus.trial.draft import Trial

_OPS = "rcuwd"


def as_json(trial: Trial, datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    """One JSON document; `people` and `rows` are {"number", "exact"}."""
    return {
        "agreement": trial.agreement.id,
        "grant_hash": trial.agreement.grant_hash.hex(),
        "past": "all" if trial.agreement.past else "none",
        "in_force_now": trial.in_force_now,
        "since": trial.since,
        "seconds": round(trial.seconds, 3),
        "events": sum(trial.events[name] for name in trial.sums),
        "deliveries": sum(s.outcomes[DELIVERED] for s in trial.sums.values()),
        "people": _number(trial.people.count()),
        "datasets": [_dataset(trial, name) for name in trial.sums],
        "stops": [{"dataset": name, "code": code, "events": n} for (name, code), n in trial.stops.items()],
        "first_stop": trial.first_stop or None,
        "register_known": trial.register_known,
        "difference": None if trial.in_force is None else [_difference(trial, name) for name in trial.beside],
        "examples": list(examples(trial, datasets)),
    }


def _dataset(trial: Trial, name: str) -> dict[str, Any]:
    sums, fields = trial.sums[name], _fields(trial.schemas[name])
    return {
        "dataset": name,
        "events": trial.events[name],
        "deliveries": sums.outcomes[DELIVERED],
        "by_op": {op: sums.ops[op] for op in _OPS if sums.ops[op]},
        "people": _number(sums.people.count()),
        "rows": _number(sums.rows.count()),
        "withheld": {outcome: n for outcome, n in sorted(sums.outcomes.items()) if outcome != DELIVERED},
        "with_values": sums.with_values,
        "filled": {field: sums.filled[field] for field in fields},
    }


def _difference(trial: Trial, name: str) -> dict[str, Any]:
    beside, sums = trial.beside[name], trial.sums.get(name)
    new = {"rows": sums.rows.count(), "people": sums.people.count()} if sums else {}
    old = {"rows": beside.sums.rows.count(), "people": beside.sums.people.count()}
    both = {"rows": beside.rows.count(), "people": beside.people.count()}
    nothing = Count(0, exact=True)
    return {
        "dataset": name,
        "words": list(trial.words.get(name, ())),
        "events_gained": beside.gained,
        "events_lost": beside.lost,
        **{f"{what}_gained": _number(_less(both[what], old[what])) for what in both},
        **{f"{what}_lost": _number(_less(both[what], new.get(what, nothing))) for what in both},
    }


def _less(all_of_them: Count, some: Count) -> Count:
    return Count(max(0, all_of_them.number - some.number), all_of_them.exact and some.exact)


def _number(count: Count) -> dict[str, Any]:
    return {"number": count.number, "exact": count.exact}


def _fields(schema: Any) -> list[str]:
    """The fields of `data` in a delivery's schema."""
    data = next(f for f in schema["fields"] if f["name"] == "data")["type"]
    return [f["name"] for f in data[1]["fields"]]


def examples(trial: Trial, datasets: Mapping[str, Dataset]) -> Iterator[dict[str, Any]]:
    """The first delivery of each op of each dataset, masked."""
    masker = Masker(datasets)
    for name, sums in trial.sums.items():
        decode = compile_decoder(trial.schemas[name])
        for op in _OPS:
            if value := sums.examples.get(op):
                yield {"dataset": name, "delivery": masker.mask(decode(value), trial.schemas[name])}


def lines(trial: Trial, datasets: Mapping[str, Dataset]) -> Iterator[str | Table]:
    """The same for people; text is to be printed as it is."""
    told = as_json(trial, datasets)
    given, of = f"{told['deliveries']:,}", f"{told['events']:,}"
    yield f"{told['agreement']} would get {given} of {of} recorded events, on {trial.people.count()} people."
    yield _overview(told)
    yield _filled(told)
    yield from _withheld(told)
    yield from _different(told)
    yield from _examples(told)
    yield from _notes(trial)


def _overview(told: dict[str, Any]) -> Table:
    table = Table("dataset", box=None, header_style="bold", pad_edge=False)
    for title in ("recorded events", "deliveries", "rows", "people"):
        table.add_column(title, justify="right")
    table.add_column("by op")
    for one in told["datasets"]:
        ops = ", ".join(f"{op} {n:,}" for op, n in one["by_op"].items())
        numbers = (f"{one['events']:,}", f"{one['deliveries']:,}", _said(one["rows"]), _said(one["people"]))
        table.add_row(one["dataset"], *numbers, ops or "-")
    return table


def _said(number: dict[str, Any]) -> str:
    return str(Count(**number))


def _filled(told: dict[str, Any]) -> Table:
    table = Table("dataset", "field", box=None, header_style="bold", pad_edge=False)
    table.add_column("filled in", justify="right")
    for one in told["datasets"]:
        for field, n in one["filled"].items():
            of = one["with_values"]
            table.add_row(one["dataset"], field, f"{n:,} of {of:,} ({n / of:.0%})" if of else "-")
    return table


_WHY = {
    "ROW_FILTER": "the row filter does not hold, neither before nor after the change",
    "VERDICT": "another verdict is asked for",
    "INVISIBLE": "an update of nothing that is granted",
}


def _withheld(told: dict[str, Any]) -> Iterator[str]:
    yield "Withheld:"
    for one in told["datasets"]:
        for outcome, n in one["withheld"].items():
            yield f"  {one['dataset']}: {n:,} {outcome} ({_WHY.get(outcome, outcome)})"
    if not any(one["withheld"] for one in told["datasets"]):
        yield "  nothing"


def _different(told: dict[str, Any]) -> Iterator[str]:
    if told["difference"] is None:
        yield f"No agreement {told['agreement']} is in force: all of it would be new."
        return
    yield "Beside the one of this name that is in force:"
    for one in told["difference"]:
        for word in one["words"]:
            yield f"  {one['dataset']}: {word}"
        gains = ", ".join(f"{_said(one[f'{what}_gained'])} {what}" for what in ("rows", "people"))
        losses = ", ".join(f"{_said(one[f'{what}_lost'])} {what}" for what in ("rows", "people"))
        if one["events_gained"] or one["events_lost"]:
            yield f"  {one['dataset']}: gains {one['events_gained']:,} events ({gains}), loses {one['events_lost']:,} ({losses})"
    if not any(one["words"] or one["events_gained"] or one["events_lost"] for one in told["difference"]):
        yield "  no difference"


def _examples(told: dict[str, Any]) -> Iterator[str]:
    for one in told["examples"]:
        found = list(flat("", one["delivery"]))
        width = max(len(path) for path, _ in found)
        yield "\n".join([f"Example, {one['dataset']}:", *(f"  {path:<{width}}  {value}" for path, value in found)])


def _notes(trial: Trial) -> Iterator[str]:
    if not trial.in_force_now:
        yield "By its validity not in force now: switched on today, it would get nothing of this."
    if not trial.agreement.past:
        yield "Without 'past: all' it would get nothing of this past, only what comes from then on."
    if not trial.register_known:
        yield "The register's replica cannot be read here: in rows before an update, others than the subject count as not found."
    for (name, code), n in trial.stops.items():
        stop = f"the engine would stop giving the past, first at {trial.first_stop}"
        yield f"{name}: {n:,} recorded events cannot be read ({code}): {stop}."
