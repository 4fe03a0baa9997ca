"""How long a plan takes for an event: `python -m tests.bench.plan [dataset]`, on this checkout's schemas and agreements.

Prints CPU time per event of creates about different people, all with a PIN and known to the register, and of updates, by the
generated Python and by the kernel.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from typing import Any

from bus.avro import dataset as datasets
from bus.avro import derive
from bus.avro.catalogue import Catalogue, value_subject
from bus.avro.dataset import Dataset
from bus.config import Settings
from bus.core import topics
from bus.core.identity import person_key
from bus.engine import agreements, native
from bus.engine.person import compile_packer
from bus.engine.plan import Record, Secrets, compile_plan, delivery_schemas
from tests.engine.reference import Row, frame
from tests.engine.worlds import envelope

EVENTS = 4_000
ROUNDS = 5
SECRETS = Secrets(b"p" * 32, b"a" * 32)
FAMILY = ("Nguyễn", "Trần", "Lê", "Phạm", "Hoàng")
GIVEN = ("Thị Bích Ngọc", "Văn Hùng", "Thị Hồng Nhung", "Đức Anh", "Minh Khôi")


def value(rng: random.Random, name: str, avro_type: Any, person: Row, year: bool) -> Any:
    """Something of the column's type; what the register checks agrees with it."""
    inner = avro_type[1] if isinstance(avro_type, list) else avro_type
    kind = inner["type"] if isinstance(inner, dict) else inner
    if "name" in name:
        return person["full_name"]
    if "sex" in name:
        return "Nam" if person["sex"] == "M" else "Nữ"
    if "birth" in name and kind == "int":
        return int(person["birth_date"][:4]) if year else _days(person["birth_date"])
    if "birth_date" in name:
        return person["birth_date"]
    if name.endswith("pin"):
        return person["pin"]
    if name == "province_code":
        return rng.choice(("01", "79", "48"))
    samples = {"int": 20_000, "long": 1_735_689_600_000_000, "boolean": True, "double": 1.5, "float": 1.5, "bytes": b"\x01\x02"}
    return samples.get(kind, f"phố Hàng Bông {rng.randrange(10_000)}")


def _days(iso: str) -> int:
    import datetime

    return (datetime.date.fromisoformat(iso) - datetime.date(1970, 1, 1)).days


def person(rng: random.Random, register: Dataset, number: int) -> Row:
    known = {
        "pin": f"{number:012d}",
        "full_name": f"{rng.choice(FAMILY)} {rng.choice(GIVEN)}",
        "birth_date": f"{rng.randrange(1930, 2020)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 28):02d}",
        "sex": rng.choice("MF"),
    }
    return {n: known.get(n) or value(rng, "x", t, known, False) for n, t in register.fields.items()}


def main(name: str) -> None:
    rng = random.Random(7)
    settings = Settings()
    found = datasets.load(settings.schemas)
    register, dataset = datasets.register_of(found), found[name]
    agreed = [dataclasses.replace(a) for a in agreements.load(settings, found).values()]
    catalogue = Catalogue()
    wanted = {value_subject(dataset.topic): derive.change(dataset)}
    wanted |= {value_subject(topics.verified(name)): derive.verified(dataset, register)}
    for agreement in agreed:
        wanted |= delivery_schemas(found, register, agreement)
    for subject, schema in wanted.items():
        if entry := catalogue.propose(subject, schema):
            catalogue.add(entry)
    plans = {
        how: compile_plan(dataset, register, agreed, catalogue, SECRETS, settings.engine.max_record_bytes, kernel=kernel)
        for how, kernel in (("python", False), ("kernel", True))
        if native.available() or not kernel
    }
    people = [person(rng, register, i) for i in range(EVENTS)]
    pack, replica = compile_packer(register), {}
    for offset, row in enumerate(people):
        packed = pack(frame(1, derive.change(register), envelope("c", None, row)), offset)
        assert packed
        replica[person_key(SECRETS.person, row["pin"].encode())] = packed
    years = {c for r in dataset.people for f, c in r.match.items() if "year" in c}
    rows = []
    for i in range(EVENTS):
        whose = {c: people[(i * 7 + k) % EVENTS] for k, r in enumerate(dataset.people) for c in (r.pin, *r.match.values())}
        rows.append({c: value(rng, c, t, whose.get(c, people[i]), c in years) for c, t in dataset.fields.items()})
    change_id = catalogue.ids()[value_subject(dataset.topic)]
    for op in "cu":
        events = []
        for row in rows:
            event = envelope(op, row | {"province_code": "01"} if op == "u" else None, row)
            pin = row[dataset.people[0].pin] if dataset.people else "0"
            events.append((frame(change_id, derive.change(dataset), event), person_key(SECRETS.person, pin.encode())))
        for how, plan in plans.items():
            best = min(_round(plan, events, replica, len(agreed)) for _ in range(ROUNDS))
            told = f"{len(plan.agreements)} agreements, {best[1]:.1f} records/event, {best[2]}"
            print(f"{name} {op} {how}: {best[0]:.1f} µs/event, {told}")


def _round(plan: Any, events: list[tuple[bytes, bytes]], replica: dict[bytes, bytes], slots: int) -> tuple[float, float, Any]:
    seqs, force, out = [0] * slots, [True] * slots, list[Record]()
    tallies: dict[Any, int] = {}
    begun = time.process_time()
    for event, key in events:
        tally = plan.handle(event, key, replica.get, seqs, force, out)
        tallies[tally] = tallies.get(tally, 0) + 1
    spent = time.process_time() - begun
    verdicts: dict[str, int] = {}
    for tally, count in tallies.items():
        verdicts[plan.verdict(tally)] = verdicts.get(plan.verdict(tally), 0) + count
    return spent / len(events) * 1e6, len(out) / len(events), verdicts


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "civil.birth")
