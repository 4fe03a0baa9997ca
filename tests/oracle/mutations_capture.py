"""What can go wrong between the databases and the change topics."""

from __future__ import annotations

import random

from tests.oracle.history import Entry, Event, History
from tests.oracle.keys import event_id
from tests.oracle.mutations import Planting, births, copy, later, streamed, swap_places, verified
from tests.oracle.synthetic_world import BIRTH

plant = Planting()


@plant("lost")
def change_event_lost(history: History, pick: random.Random) -> None:
    births(history).remove(pick.choice(streamed(history, "c")))


@plant("lost")
def snapshot_row_lost(history: History, pick: random.Random) -> None:
    births(history).remove(pick.choice(streamed(history, "r")))


@plant("lost")
def delete_of_the_last_event_lost(history: History, pick: random.Random) -> None:
    births(history).remove(streamed(history, "d")[-1])


@plant("lost")
def another_primary_key_told_as_an_update(history: History, pick: random.Random) -> None:
    """One event where two are due: the old row is never told off."""
    found = births(history)
    at = {(e.source["lsn"], e.source["ordinal"]): e for e in found if e.source["xid"]}
    pairs = [(e, at.get((lsn, n + 1))) for (lsn, n), e in at.items() if e.op == "d"]
    old, new = next((d, c) for d, c in pairs if c and c.op == "c" and c.key == d.key and c.row["id"] != d.row["id"])
    found.remove(old)
    new.op, new.before = "u", old.before


@plant("duplicate")
def change_event_twice(history: History, pick: random.Random) -> None:
    births(history).append(later(pick.choice(streamed(history, "u"))))


@plant("duplicate")
def change_event_twice_under_a_new_position(history: History, pick: random.Random) -> None:
    event = later(pick.choice(streamed(history, "c")))
    event.source = event.source | {"ordinal": 99}
    event.event_id = bytes(16)
    births(history).append(event)


@plant("duplicate")
def snapshot_row_read_twice(history: History, pick: random.Random) -> None:
    event = later(pick.choice(streamed(history, "r")))
    event.event_id = bytes(16)
    births(history).append(event)


@plant("reordered")
def two_events_of_one_row_swapped(history: History, pick: random.Random) -> None:
    """In the topic only: the positions stay right."""
    by_row: dict[object, Event] = {}
    for event in births(history):
        first = by_row.setdefault(event.row["id"], event)
        if first is not event and (first.key, first.op) == (event.key, "r"):
            swap_places(births(history), first, event)
            return
    raise AssertionError("no row with two events of one key")


@plant("reordered")
def two_updates_with_exchanged_positions(history: History, pick: random.Random) -> None:
    by_row: dict[object, Event] = {}
    for event in streamed(history, "u"):
        first = by_row.setdefault(event.row["id"], event)
        if first.source["lsn"] != event.source["lsn"] and (first.before, first.after) != (event.before, event.after):
            first.before, first.after, event.before, event.after = event.before, event.after, first.before, first.after
            return
    raise AssertionError("no row with two updates")


@plant("phantom")
def rolled_back_row_captured(history: History, pick: random.Random) -> None:
    event = later(streamed(history, "c")[-1])
    event.after = {**(event.after or {}), "id": 10**9}
    event.event_id = bytes(16)
    births(history).append(event)


@plant("phantom")
def snapshot_ghost(history: History, pick: random.Random) -> None:
    event = later(pick.choice(streamed(history, "r")))
    event.after = {**(event.after or {}), "id": 10**9}
    event.event_id = bytes(16)
    births(history).append(event)


@plant("torn")
def transaction_half_in_the_snapshot(history: History, pick: random.Random) -> None:
    """The journal's last uncaptured transaction also made a captured change."""
    journal = history.tables[BIRTH.name].journal
    captured = {e.source["xid"] for e in births(history)}
    early = next(i for i, e in enumerate(journal) if e.xid not in captured)
    late = next(e for e in streamed(history, "c"))
    old = journal[early]
    journal[early] = Entry(old.seq, late.source["xid"], old.op, old.before, old.after)


@plant("wrong-field")
def captured_value_differs(history: History, pick: random.Random) -> None:
    event = pick.choice(streamed(history, "c"))
    event.after = {**(event.after or {}), "child_name": "?"}


@plant("wrong-field")
def null_captured_as_empty(history: History, pick: random.Random) -> None:
    event = next(e for e in streamed(history, "r") if e.after and e.after["fee"] is None)
    event.after = {**(event.after or {}), "fee": 0}


@plant("wrong-field")
def before_image_differs(history: History, pick: random.Random) -> None:
    event = pick.choice(streamed(history, "u"))
    event.before = {**(event.before or {}), "province": "??"}


@plant("unexplained")
def unconvertible_change_swallowed(history: History, pick: random.Random) -> None:
    history.dead[BIRTH.name].pop()


@plant("unexplained")
def dead_letter_of_no_change(history: History, pick: random.Random) -> None:
    letter = history.dead[BIRTH.name][-1]
    headers = letter.headers | {"x-original-offset": b"0/1:1:0"}
    history.dead[BIRTH.name].append(copy(letter, offset=10**6, headers=headers))


@plant("wrong-key")
def key_of_another_person(history: History, pick: random.Random) -> None:
    births(history)[0].key = births(history)[1].key if births(history)[1].key != births(history)[0].key else bytes(16)


@plant("wrong-key")
def key_in_two_lanes(history: History, pick: random.Random) -> None:
    births(history)[-1].lane ^= 1


@plant("wrong-position")
def event_id_not_of_the_position(history: History, pick: random.Random) -> None:
    event = streamed(history, "c")[0]
    old, event.event_id = event.event_id, bytes(16)
    next(v for v in verified(history) if v.event.event_id == old).event.event_id = bytes(16)


@plant("wrong-position")
def ordinal_left_out(history: History, pick: random.Random) -> None:
    event = streamed(history, "c")[-1]
    event.source = event.source | {"ordinal": event.source["ordinal"] + 50}
    event.event_id = event_id(event.source)


@plant("wrong-position")
def change_credited_to_another_transaction(history: History, pick: random.Random) -> None:
    event = streamed(history, "c")[0]
    event.source = event.source | {"xid": 1}


@plant("harness")
def journal_and_table_disagree(history: History, pick: random.Random) -> None:
    row = next(
        r
        for r in history.tables[BIRTH.name].final
        if any(e.after and e.after["id"] == r["id"] for e in history.tables[BIRTH.name].journal)
    )
    row["fee"] = 77
