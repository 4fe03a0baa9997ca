"""The engine's plan and the oracle, which shares no code with it, decide the same of random events under random agreements.

The oracle (tests/oracle) compares people in its own way and knows rules, masks and keys from their description. Held together
are, for each pair of an event and an agreement: outcome, op, values, verdict, commit time, event id, row key, message key,
sequence number, grant hash. LT_PAIRS=100000 (`make decisions`) says how many pairs; SEED begins elsewhere.
"""

from __future__ import annotations

import os
import random
import string
from collections import Counter
from typing import Any

import pytest

from bus.avro import dataset
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core.agreement import Agreement, Grant, GrantedField, Mask
from tests.engine.reference import Known, bare, decode
from tests.engine.worlds import Stage, envelope
from tests.oracle import history, keys
from tests.oracle.expectation import Rule, gravest
from tests.oracle.people import Verdicts
from tests.oracle.report import Report
from tests.oracle.values import Row, avro_converters

PAIRS = int(os.environ.get("LT_PAIRS", "10000"))
SEED = int(os.environ.get("SEED") or "20261126")
AGREEMENTS, EVENTS = 8, 50
DATASETS = dataset.load(Settings().schemas)
REGISTER = dataset.register_of(DATASETS)
PINS = [f"0000000000{n:02}" for n in range(12)]
KNOWN = PINS[:8]
NAMES = ["Nguyễn Thị Hoà", "NGUYỄN  THỊ HÒA", "Nguyễn Thị Hoa", "Trần Thúy Quỳnh", "trần thuý quỳnh", "Đỗ Loan", "Do Loan"]
BIRTHS = ["1985", "1985-03", "1985-03-02", "1985-03-03", "1990", "1990-12-31"]
SEXES = ["M", "Nam", "nam", "F", "Nữ", "nữ", "1", "0"]
TEXTS = ["", "79", "01", "48", "a", "abcd", "Đà Nẵng", "2024-05", "20x", "\U0001f600bcde", "x" * 80]
DAYS = [0, 5539, 5540, 7669, 19_800, -719_162]
Made = tuple[Agreement, history.Agreement]


def value(rng: random.Random, name: str, avro_type: Any) -> Any:
    """From small pools, so that rows meet people, filters and each other."""
    if isinstance(avro_type, list):
        return None if rng.random() < 0.2 else value(rng, name, avro_type[1])
    kind, logical = (avro_type["type"], avro_type.get("logicalType")) if isinstance(avro_type, dict) else (avro_type, None)
    if logical == "date":
        return rng.choice(DAYS)
    if kind == "string":
        pools = (("pin", ["", *PINS]), ("name", NAMES), ("birth_date", BIRTHS), ("sex", SEXES))
        return rng.choice(next((pool for word, pool in pools if word in name), TEXTS))
    if kind in ("int", "long"):
        return rng.choice([1985, 1990, 1991] if "birth" in name else [0, 1, -1, 64, 300, 2**31 - 1])
    if kind == "boolean":
        return rng.random() < 0.5
    return rng.randbytes(rng.randrange(1, 6)) if kind == "bytes" else rng.randrange(-1_000, 1_000) / 8


def row(rng: random.Random, of: Dataset) -> Row:
    return {name: value(rng, name, t) for name, t in of.fields.items()}


def change(rng: random.Random, of: Dataset) -> tuple[str, Row | None, Row | None]:
    """An update keeps row and subject."""
    op, one = rng.choice("cruuuud"), row(rng, of)
    if op in "cr":
        return op, None, one
    if op == "d":
        return op, one, None
    fixed = {*of.primary_key, *(r.pin for r in of.people[:1])}
    columns = [c for c in rng.sample(sorted(of.fields), rng.randrange(4)) if c not in fixed]
    return op, one, one | {c: value(rng, c, of.fields[c]) for c in columns}


def people(rng: random.Random) -> dict[str, Known]:
    pin = REGISTER.people[0].pin
    return {p: Known(row(rng, REGISTER) | {pin: p}, rng.randrange(10**6)) for p in KNOWN}


def masks(avro_type: Any) -> list[str]:
    inner = avro_type[1] if isinstance(avro_type, list) else avro_type
    if isinstance(inner, dict) and inner.get("logicalType") == "date":
        return ["plain", "year", "band5"]
    kind = inner["type"] if isinstance(inner, dict) else inner
    if (kind in ("int", "long") and not isinstance(inner, dict)) or (
        isinstance(inner, dict) and inner.get("logicalType") == "decimal"
    ):
        return ["plain", "band100"]
    return ["plain", "year", "last4", "last2", "pseudonym"] if kind == "string" else ["plain"]


def filters(rng: random.Random, of: Dataset) -> tuple[tuple[str, tuple[str, ...]], ...]:
    fitting = [c for c, t in of.fields.items() if (t[1] if isinstance(t, list) else t) in ("string", "int", "long", "boolean")]
    made = []
    for column in sorted(rng.sample(fitting, min(len(fitting), rng.choice([0, 0, 1, 1, 2])))):
        found = {value(rng, column, of.fields[column]) for _ in range(rng.randrange(2, 7))} - {None}
        texts = {str(v).lower() if isinstance(v, bool) else str(v) for v in found}
        if texts:
            made.append((column, tuple(sorted(texts))))
    return tuple(made)


def agreement(rng: random.Random, of: Dataset) -> Made:
    """The same agreement in the engine's words and in the oracle's."""
    verified = bool(of.people) and not of.register
    types = dict(of.fields) | ({f"register.{n}": t for n, t in REGISTER.fields.items()} if verified else {})
    names = rng.sample(sorted(types), rng.randrange(1, 7))
    if of.people and rng.random() < 0.5:
        names = list(dict.fromkeys([of.people[0].pin, *names]))
    fields = tuple((n, rng.choice(masks(types[n]))) for n in names)
    where = filters(rng, of)
    asked = tuple(v for v in ("MATCH", "NO_PIN", "NOT_FOUND", "MISMATCH") if rng.random() < 0.4) if verified else ()
    share = verified and rng.random() < 0.5
    name = "agency." + "".join(rng.choices(string.ascii_lowercase, k=12))
    hashed = rng.randbytes(32)
    grant = Grant(of.name, tuple(GrantedField(n, Mask.of(m)) for n, m in fields), where, asked, share)
    ours = Agreement(name, "agency", "p", "l", (grant,), 0, None, hashed)
    theirs = history.Grant(of.name, fields, where, asked, share)
    return ours, history.Agreement(name, "agency", (theirs,), grant_hash=hashed)


class Judge:
    """The oracle's answer for each event of one dataset."""

    def __init__(
        self, of: Dataset, known: dict[str, Known], agreed: list[history.Agreement], secrets: tuple[bytes, bytes]
    ) -> None:
        self.of, self.known = of, known
        told = history.History(DATASETS, REGISTER.name, agreed, *secrets)
        self.verdicts = Verdicts(told, Report())
        self.keys = keys.Keys(of, secrets[0])
        self.rules = [Rule(a, a.grants[0], of, REGISTER, secrets[1]) for a in agreed]
        self.own = {a.id: keys.Keys(of, r.secret) for a, r in zip(agreed, self.rules, strict=True)}

    def person(self, pin: str | None) -> Row | None:
        return self.known[pin].row if pin in self.known else None

    def verdict(self, one: Row) -> str:
        if self.of.register:
            return gravest([])
        present = [r for r in self.of.people if self.verdicts.present(self.of, r, one)]
        return gravest([self.verdicts._status(self.of, r, one, self.person(one[r.pin])) for r in present])


def raw(of: Dataset, one: Row | None) -> Row | None:
    """In the oracle's spelling of values."""
    convert = avro_converters(of.fields)
    return None if one is None else {c: convert[c](v) if c in convert else v for c, v in one.items()}


def delivered(stage: Stage, of: Dataset, name: str, record: tuple[str, bytes, bytes]) -> Row:
    """Decoded without logical types; decimals unscaled, as the oracle has them."""
    schema = next(s for subject, s in stage.schemas.items() if subject.startswith(f"agency.{name}-"))
    found: Row = decode(bare(schema), record[1][5:])
    if found["data"] is not None:
        data = next(f for f in schema["fields"] if f["name"] == "data")["type"][1]
        convert = avro_converters({f["name"]: f["type"] for f in data["fields"]})
        found["data"] = {c: convert[c](v) if c in convert else v for c, v in found["data"].items()}
    return found


def compare(stage: Stage, judge: Judge, number: int, event: tuple[str, Row | None, Row | None], counts: Counter[str]) -> int:
    """One event under all agreements; how many pairs."""
    of, (op, before, after) = judge.of, event
    value_bytes, key = stage.change(op, before, after)
    event_id = number.to_bytes(16, "big")
    out: list[tuple[str, bytes, bytes]] = []
    told = value_bytes[:5] + event_id + value_bytes[21:]
    tally = stage.plan.handle(told, key, stage.replica.get, stage.seqs, (True,) * len(stage.seqs), out)
    outcomes, records = dict(stage.plan.outcomes(tally)), {topic: (topic, v, k) for topic, v, k in out[:-1]}
    one = after if after is not None else before
    assert one is not None
    was, now = raw(of, before), raw(of, after)
    happened = history.Event(0, 0, key, 0, event_id, op, 0, {}, was, now)
    subject = judge.person(one[of.people[0].pin]) if of.people and not of.register else None
    verdict = judge.verdict(one)
    old = judge.verdict(before) if op == "u" and before is not None else verdict
    person = raw(REGISTER, subject)
    for place, rule in enumerate(judge.rules):
        name = rule.agreement.id
        wanted = rule.expect(happened, verdict, old, person, person)
        shown = (SEED, number, of.name, name)
        assert outcomes[name] == wanted.outcome, shown
        counts[wanted.outcome, wanted.op] += 1  # type: ignore[index]
        record = records.pop(f"agency.{name}", None)
        assert (record is not None) == (wanted.outcome == "DELIVERED"), shown
        if record is None:
            continue
        found = delivered(stage, of, name, record)
        assert (found["op"], found["data"]) == (wanted.op, wanted.data), shown
        assert found["verdict"] == (wanted.verdict if wanted.verdict != "none" else None), shown
        assert found["ts_ms"] == envelope(*event)["source"]["ts_ms"]
        ids = (event_id, judge.keys.row_key(happened.row), key)
        if not rule.clear:
            pseudonym = [keys.pseudonym(rule.secret, i) for i in (event_id, key)]
            ids = (pseudonym[0], judge.own[name].row_key(happened.row), pseudonym[1])
        assert (found["event_id"], found["row_key"], record[2]) == ids, shown
        assert judge.keys.of(happened.row) == key
        assert (found["seq"], found["agreement"], found["grant_hash"]) == (stage.seqs[place], name, rule.agreement.grant_hash)
    assert not records, "a delivery that nobody is to get"
    return len(judge.rules)


@pytest.mark.timeout(3_600)
def test_the_oracle_decides_as_the_plan_does() -> None:
    """And every kind of outcome and of delivery was there often, so that the agreement says something."""
    rng, pairs, number, counts = random.Random(SEED), 0, 0, Counter[Any]()
    while pairs < PAIRS:
        of = rng.choice(list(DATASETS.values()))
        known, made = people(rng), [agreement(rng, of) for _ in range(AGREEMENTS)]
        stage = Stage(of, REGISTER, tuple(ours for ours, _ in made), known)
        secrets = stage.world.person_secret, stage.world.agreement_secret
        judge = Judge(of, known, [theirs for _, theirs in made], secrets)
        for _ in range(EVENTS):
            number += 1
            pairs += compare(stage, judge, number, change(rng, of), counts)
    print(f"\n{pairs} pairs, seed {SEED}: " + ", ".join(f"{o} {op}".strip() + f" {n}" for (o, op), n in sorted(counts.items())))
    kinds = [("DELIVERED", op) for op in "cruwd"] + [(o, "") for o in ("ROW_FILTER", "VERDICT", "INVISIBLE")]
    assert all(counts[kind] > PAIRS / 500 for kind in kinds), counts
