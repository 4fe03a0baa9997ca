"""What can go wrong between the change topics and the agencies."""

from __future__ import annotations

import random

from tests.oracle.history import Event, History, Raw, Verified
from tests.oracle.keys import agreement_secret, pseudonym
from tests.oracle.mutations import Planting, births, copy, decision, later, verified
from tests.oracle.synthetic_world import BIRTH, PERSON, QUALITY, STATISTICS, TAX

plant = Planting()


@plant("lost")
def delivery_lost(history: History, pick: random.Random) -> None:
    """A hole that renumbering hides from the subscriber."""
    found = history.deliveries[TAX.id]
    gone = pick.choice(found)
    found.remove(gone)
    for d in found:
        if d.lane == gone.lane and d.seq > gone.seq:
            d.seq -= 1


@plant("lost")
def delete_withheld_for_its_verdict(history: History, pick: random.Random) -> None:
    """Of a row that is judged otherwise by now: the agency keeps what is no more."""
    found = history.deliveries[QUALITY.id]
    gone = next(d for d in reversed(found) if d.op == "d")
    found.remove(gone)
    for d in found:
        d.seq -= d.lane == gone.lane and d.seq > gone.seq
    secret = agreement_secret(history.agreement_secret, QUALITY.id)
    event = next(v for v in verified(history) if pseudonym(secret, v.event.event_id) == gone.event_id)
    next(d for d in event.decisions if d["agreement"] == QUALITY.id)["outcome"] = "VERDICT"


@plant("duplicate")
def verified_twice(history: History, pick: random.Random) -> None:
    one = pick.choice(verified(history))
    verified(history).append(Verified(later(one.event), one.verification, one.decisions, one.person))


@plant("duplicate")
def delivery_twice(history: History, pick: random.Random) -> None:
    found = history.deliveries[TAX.id]
    one = found[-1]
    found.append(copy(one, offset=one.offset + 1, seq=one.seq + 1))


@plant("reordered")
def verified_out_of_order(history: History, pick: random.Random) -> None:
    lane = [v for v in verified(history) if v.event.lane == 0]
    one, two = lane[3], lane[9]
    found = verified(history)
    i, j = found.index(one), found.index(two)
    found[i], found[j] = two, one


@plant("reordered")
def deliveries_out_of_order(history: History, pick: random.Random) -> None:
    found = history.deliveries[STATISTICS.id]
    lane = [d for d in found if d.lane == 1]
    one, two = lane[2], lane[7]
    i, j = found.index(one), found.index(two)
    found[i], found[j] = two, one
    one.seq, two.seq = two.seq, one.seq


@plant("phantom")
def verified_without_change(history: History, pick: random.Random) -> None:
    one = pick.choice(verified(history))
    one.event.event_id = bytes(16)


@plant("leaked-row")
def withheld_event_delivered(history: History, pick: random.Random) -> None:
    """A row outside the filter, in order and with a number of its own at the lane's end."""
    refused = next(v for v in reversed(verified(history)) if {"agreement": TAX.id, "outcome": "ROW_FILTER"} in v.decisions)
    found = history.deliveries[TAX.id]
    last = [d for d in found if d.lane == refused.event.lane][-1]
    extra = copy(last, offset=last.offset + 1, seq=last.seq + 1, event_id=refused.event.event_id)
    found.append(extra)


@plant("phantom")
def delivery_of_nothing(history: History, pick: random.Random) -> None:
    last = history.deliveries[TAX.id][-1]
    history.deliveries[TAX.id].append(copy(last, offset=last.offset + 1, seq=last.seq + 1, event_id=bytes(16)))


@plant("wrong-field")
def verified_event_altered(history: History, pick: random.Random) -> None:
    one = next(v for v in verified(history) if v.event.after)
    one.event.after = {**(one.event.after or {}), "fee": 1}


@plant("wrong-field")
def delivered_value_differs(history: History, pick: random.Random) -> None:
    one = pick.choice([d for d in history.deliveries[TAX.id] if d.data])
    one.data = {**(one.data or {}), "child_name": "?"}


@plant("wrong-field")
def delivered_op_differs(history: History, pick: random.Random) -> None:
    next(d for d in history.deliveries[TAX.id] if d.op == "w").op = "d"


@plant("wrong-field")
def shared_verdict_differs(history: History, pick: random.Random) -> None:
    next(d for d in history.deliveries[TAX.id] if d.verdict == "MATCH").verdict = "NO_PIN"


@plant("leaked-field")
def field_beyond_the_agreement(history: History, pick: random.Random) -> None:
    one = pick.choice([d for d in history.deliveries[TAX.id] if d.data])
    one.data = {**(one.data or {}), "mother_pin": "1"}


@plant("leaked-field")
def mask_forgotten(history: History, pick: random.Random) -> None:
    secret = agreement_secret(history.agreement_secret, STATISTICS.id)
    rows = {pseudonym(secret, e.event_id): e.row for e in births(history)}
    one = next(d for d in history.deliveries[STATISTICS.id] if d.data)
    one.data = {**(one.data or {}), "child_name": rows[one.event_id]["child_name"]}


@plant("leaked-field")
def data_in_a_withdrawal(history: History, pick: random.Random) -> None:
    one = next(d for d in history.deliveries[TAX.id] if d.op == "w")
    one.data = {"child_pin": "1", "child_name": "x", "fee": None}


@plant("leaked-field")
def person_key_in_a_pseudonymous_topic(history: History, pick: random.Random) -> None:
    keys = {v.event.offset: v.event.key for v in verified(history) if v.event.lane == 0}
    first = next(v for v in verified(history) if v.event.lane == 0 and v.event.op == "r")
    one = next(d for d in history.deliveries[STATISTICS.id] if d.lane == 0)
    one.key = keys[first.event.offset]


@plant("seq-gap")
def number_skipped(history: History, pick: random.Random) -> None:
    last = history.deliveries[TAX.id][-1]
    last.seq += 1


@plant("seq-gap")
def number_given_twice(history: History, pick: random.Random) -> None:
    last = history.deliveries[TAX.id][-1]
    last.seq -= 1


@plant("seq-gap")
def numbers_begin_at_two(history: History, pick: random.Random) -> None:
    for d in history.deliveries[STATISTICS.id]:
        d.seq += d.lane == 2


@plant("wrong-reason")
def filter_called_verdict(history: History, pick: random.Random) -> None:
    decision(history, "ROW_FILTER")["outcome"] = "VERDICT"


@plant("wrong-reason")
def invisible_called_filter(history: History, pick: random.Random) -> None:
    decision(history, "INVISIBLE")["outcome"] = "ROW_FILTER"


@plant("wrong-reason")
def delivered_called_withheld(history: History, pick: random.Random) -> None:
    decision(history, "DELIVERED")["outcome"] = "NOT_IN_FORCE"


@plant("wrong-verdict")
def mismatch_called_match(history: History, pick: random.Random) -> None:
    entry = next(x for v in verified(history) for x in v.verification if x["status"] == "MISMATCH")
    entry["status"], entry["mismatched"] = "MATCH", []


@plant("wrong-verdict")
def match_called_mismatch(history: History, pick: random.Random) -> None:
    entry = next(x for v in verified(history) for x in v.verification if x["status"] == "MATCH")
    entry["status"], entry["mismatched"] = "MISMATCH", ["birth_date"]


@plant("wrong-verdict")
def another_field_blamed(history: History, pick: random.Random) -> None:
    entry = next(x for v in verified(history) for x in v.verification if x["status"] == "MISMATCH")
    entry["mismatched"] = ["sex"]


@plant("wrong-verdict")
def role_forgotten(history: History, pick: random.Random) -> None:
    next(v for v in verified(history) if len(v.verification) == 2).verification.pop()


@plant("wrong-person")
def register_version_of_somebody_else(history: History, pick: random.Random) -> None:
    entry = next(x for v in verified(history) for x in v.verification if x["register_offset"] is not None)
    entry["register_offset"] += 10**6


@plant("wrong-person")
def record_of_somebody_else_rides_along(history: History, pick: random.Random) -> None:
    one = next(v for v in verified(history) if v.person)
    one.person = {**(one.person or {}), "pin": "000000000000"}


@plant("stale-register")
def register_goes_back(history: History, pick: random.Random) -> None:
    """A person's second event is verified against the version before the one already used."""
    versions: dict[bytes, list[Event]] = {}
    for event in history.changes[PERSON.name]:
        versions.setdefault(event.key, []).append(event)
    used: dict[bytes, int] = {}
    for one in verified(history):
        entry, key = one.verification[0], one.event.key
        if entry["register_offset"] is None:
            continue
        if used.get(key, 0) > versions[key][0].offset and one.event.op != "r":
            entry["register_offset"], one.person = versions[key][0].offset, versions[key][0].after
            return
        used[key] = entry["register_offset"]
    raise AssertionError("no person with two versions used")


@plant("stale-register")
def register_long_out_of_date(history: History, pick: random.Random) -> None:
    history.staleness_ms = 0
    entry = next(x for v in verified(history) for x in v.verification if x["status"] == "MATCH" and v.event.op == "c")
    entry["status"], entry["register_offset"] = "NOT_FOUND", None


@plant("audit-mismatch")
def audit_counts_one_too_many(history: History, pick: random.Random) -> None:
    next(line for line in history.audit if line["outcomes"])["outcomes"][0]["count"] += 1


@plant("audit-mismatch")
def audit_line_missing(history: History, pick: random.Random) -> None:
    history.audit.pop()


@plant("audit-mismatch")
def audit_line_twice(history: History, pick: random.Random) -> None:
    history.audit.append(history.audit[0])


@plant("audit-mismatch")
def verdicts_miscounted(history: History, pick: random.Random) -> None:
    history.audit[0]["verdicts"][0]["count"] -= 1


@plant("unexplained")
def change_event_not_verified(history: History, pick: random.Random) -> None:
    verified(history).remove(pick.choice(verified(history)))


@plant("unexplained")
def agreement_without_decision(history: History, pick: random.Random) -> None:
    pick.choice(verified(history)).decisions.pop()


@plant("unexplained")
def malformed_input_swallowed(history: History, pick: random.Random) -> None:
    history.undecodable[BIRTH.name] = [Raw(0, 10**6, b"k", b"\0junk")]


@plant("wrong-dead")
def dead_letter_with_other_bytes(history: History, pick: random.Random) -> None:
    history.undecodable[BIRTH.name] = [Raw(0, 10**6, b"k", b"\0junk")]
    headers = {"x-original-topic": BIRTH.topic.encode(), "x-original-partition": b"0", "x-original-offset": b"1000000"}
    history.dead[BIRTH.name].append(Raw(0, 0, b"k", b"redacted", headers))


@plant("wrong-dead")
def good_event_dead_lettered(history: History, pick: random.Random) -> None:
    event = pick.choice(births(history))
    headers = {"x-original-topic": BIRTH.topic, "x-original-partition": str(event.lane), "x-original-offset": str(event.offset)}
    history.dead[BIRTH.name].append(Raw(event.lane, 0, event.key, b"\0", {k: v.encode() for k, v in headers.items()}))


@plant("wrong-key")
def one_pseudonym_for_two_people(history: History, pick: random.Random) -> None:
    found = history.deliveries[STATISTICS.id]
    one = found[0]
    next(d for d in found if d.key != one.key).key = one.key


@plant("misrouted")
def delivery_under_another_agreement(history: History, pick: random.Random) -> None:
    history.deliveries[TAX.id][0].agreement = STATISTICS.id


@plant("misrouted")
def grant_hash_of_another_agreement(history: History, pick: random.Random) -> None:
    pick.choice(history.deliveries[TAX.id]).grant_hash = bytes(32)


@plant("misrouted")
def topic_of_nobody(history: History, pick: random.Random) -> None:
    history.deliveries["ghost.agency"] = []
