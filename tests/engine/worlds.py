"""Random small worlds: a register, a dataset, agreements on it, people, and events about them. Values come from small pools, so
that rows meet people, filters and each other often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from hypothesis import strategies as st

from bus.avro import derive
from bus.avro.catalogue import Catalogue, record_subject, value_subject
from bus.avro.dataset import Dataset, Role
from bus.avro.frame import Malformed
from bus.core.agreement import MOST_LAST, Agreement, Grant, GrantedField, Mask, MaskKind
from bus.core.outcome import VERDICTS
from bus.engine import native
from bus.engine.person import compile_packer
from bus.engine.plan import Handle, PersonOf, Plan, Record, Secrets, Tally, compile_plan, delivery_schemas
from tests.engine.reference import Known, Reference, Row, World, frame

PERSON_SECRET, AGREEMENT_SECRET = b"p" * 32, b"a" * 32
MAX_RECORD_BYTES = 20_000
DATE = {"type": "int", "logicalType": "date"}
UUID = {"type": "string", "logicalType": "uuid"}
STAMP = {"type": "long", "logicalType": "timestamp-micros"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
PLAIN_TYPES: list[Any] = ["string", "int", "long", "boolean", "double", "float", "bytes", DATE, UUID, STAMP, DECIMAL]
PINS = ["001124000123", "079188000045", "123456789", "x" * 70]
NAMES = ["Nguyễn Thị Hoà", "NGUYỄN  THỊ HÒA", "Nguyễn Thị Hoa", "Trần Văn Tý", "", "Lê" * 40]
BIRTHS = ["1985", "1985-03", "1985-03-02", "1985-03-03", "1990", "Không rõ", "", "85"]
SEXES = ["M", "Nam", "F", "Nữ", "?"]
TEXTS = ["", "79", "01", "ab", "Đà", "Đà Nẵng", "ngõ 1" * 20, "2020-05", "\U0001f600", "a\U0001f600bcd"]
NUMBERS = [0, 1, -1, 64, -64, 300, 2**31 - 1, -(2**31)]
DAYS = [0, 5539, 5540, -719162, 2932896, 19800]


def nullable(avro_type: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([avro_type, ["null", avro_type]])


def value_of(avro_type: Any, name: str = "") -> st.SearchStrategy[Any]:
    """A value for a column; what the column is called decides the pool of texts."""
    if isinstance(avro_type, list):
        return st.one_of(st.none(), value_of(avro_type[1], name))
    if avro_type == DATE:
        return st.sampled_from(DAYS)
    kind = avro_type["type"] if isinstance(avro_type, dict) else avro_type
    texts = next(
        (pool for word, pool in (("pin", ["", *PINS]), ("name", NAMES), ("birth", BIRTHS), ("sex", SEXES)) if word in name), TEXTS
    )
    pools: dict[str, st.SearchStrategy[Any]] = {
        "string": st.sampled_from(texts),
        "int": st.sampled_from([1985, 1990, 85] if "birth" in name else NUMBERS),
        "long": st.sampled_from([*NUMBERS, 2**63 - 1, -(2**63)]),
        "boolean": st.booleans(),
        "float": st.floats(width=32, allow_nan=False),
        "double": st.floats(allow_nan=False),
        "bytes": st.binary(max_size=70),
    }
    return pools[kind]


def row_of(dataset: Dataset) -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries({name: value_of(t, name) for name, t in dataset.fields.items()})


def _dataset(domain: str, table: str, fields: list[Row], key: list[str], people: list[Role], register: bool) -> Dataset:
    row = {"type": "record", "name": table, "namespace": f"vn.lienthong.{domain}", "fields": fields}
    return Dataset(f"{domain}.{table}", domain, table, row, tuple(key), tuple(people), register)


def _more(prefix: str, most: int) -> st.SearchStrategy[list[Row]]:
    """Columns of any type."""
    types = st.lists(st.sampled_from(PLAIN_TYPES).flatmap(nullable), max_size=most)
    return types.map(lambda ts: [{"name": f"{prefix}{i}", "type": t} for i, t in enumerate(ts)])


@st.composite
def registers(draw: st.DrawFn) -> Dataset:
    birth = draw(st.sampled_from(["string", ["null", "string"], DATE, ["null", DATE]]))
    fields: list[Row] = [
        {"name": "pin", "type": "string"},
        {"name": "full_name", "type": draw(nullable("string")), "compare": "name"},
        {"name": "birth_date", "type": birth, "compare": "date"},
        {"name": "sex", "type": draw(nullable("string")), "compare": "sex"},
    ]
    fields.extend(
        {"name": f"r{i}", "type": draw(st.sampled_from(PLAIN_TYPES).flatmap(nullable))} for i in range(draw(st.integers(0, 3)))
    )
    return _dataset("population", "person", draw(st.permutations(fields)), ["pin"], [Role("person", "pin", {})], register=True)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Of none, one or two people."""
    fields: list[Row] = [{"name": "id", "type": draw(st.sampled_from(["string", "int", "long", UUID]))}]
    key = ["id"]
    if draw(st.booleans()):
        fields.append({"name": "part", "type": "int"})
        key.append("part")
    roles = []
    for who in draw(st.sampled_from([[], ["child"], ["child", "mother"], ["owner", "other"]])):
        match = {}
        fields.append({"name": f"{who}_pin", "type": draw(nullable("string")), "pii": "basic"})
        for field, types in (("full_name", ["string"]), ("birth_date", ["string", DATE, "int"]), ("sex", ["string"])):
            if draw(st.booleans()):
                match[field] = f"{who}_{field}"
                fields.append({"name": match[field], "type": draw(st.sampled_from(types).flatmap(nullable))})
        roles.append(Role(who, f"{who}_pin", match))
    fields.extend(
        {"name": f"f{i}", "type": draw(st.sampled_from(PLAIN_TYPES).flatmap(nullable))} for i in range(draw(st.integers(0, 4)))
    )
    return _dataset("civil", "birth", draw(st.permutations(fields)), key, roles, register=False)


def _masks(avro_type: Any) -> list[Mask]:
    inner = avro_type[1] if isinstance(avro_type, list) else avro_type
    bands = [Mask(MaskKind.BAND, width) for width in (1, 7, 10**18)]
    if inner == DATE:
        return [Mask.PLAIN, Mask.YEAR, *bands]
    if inner in ("int", "long", DECIMAL):
        return [Mask.PLAIN, *bands]
    lasts = [Mask.LAST4, Mask(MaskKind.LAST, 1), Mask(MaskKind.LAST, MOST_LAST)]
    return [Mask.PLAIN, Mask.YEAR, Mask.PSEUDONYM, *lasts] if inner in ("string", UUID) else [Mask.PLAIN]


@st.composite
def grants(draw: st.DrawFn, dataset: Dataset, register: Dataset) -> Grant:
    verified = bool(dataset.people) and not dataset.register
    types = dict(dataset.fields)
    if verified:
        types |= {f"register.{name}": t for name, t in register.fields.items()}
    names = draw(st.lists(st.sampled_from(sorted(types)), min_size=1, max_size=6, unique=True))
    if draw(st.booleans()):  # as the row has them: runs of neighbours
        names = [n for n in types if n in names]
    fields = tuple(GrantedField(n, draw(st.sampled_from(_masks(types[n])))) for n in names)
    return Grant(
        dataset.name,
        fields,
        draw(_filters(dataset)),
        tuple(draw(st.lists(st.sampled_from(VERDICTS), unique=True))) if verified else (),
        draw(st.booleans()),
    )


@st.composite
def _filters(draw: st.DrawFn, dataset: Dataset) -> tuple[tuple[str, tuple[str, ...]], ...]:
    made = []
    for name, t in dataset.fields.items():
        inner = t[1] if isinstance(t, list) else t
        if inner in ("string", "int", "long", "boolean", UUID) and draw(st.integers(0, 5)) == 0:
            pool = value_of(inner, name).map(lambda v: str(v).lower() if isinstance(v, bool) else str(v))
            made.append((name, tuple(draw(st.lists(pool, min_size=1, max_size=3, unique=True)))))
    return tuple(made)


@st.composite
def agreements(draw: st.DrawFn, dataset: Dataset, register: Dataset) -> tuple[Agreement, ...]:
    made = []
    for i in range(draw(st.integers(0, 4))):
        other = Grant("other.dataset", (GrantedField("x"),))
        granted = (draw(grants(dataset, register)),) if draw(st.integers(0, 4)) else (other,)
        made.append(Agreement(f"agency-{i}.data", f"agency-{i}", "p", "l", granted, 0, None, bytes([i]) * 32))
    return tuple(made)


def both(one: Handle, other: Handle) -> Handle:
    """The kernel's work, held to what the generated Python does with the same event: results, effects and refusals."""

    def run(work: Handle, given: tuple[Any, ...], seqs: list[int], out: list[Record]) -> tuple[Any, ...]:
        try:
            value, key, person_of, force = given
            return work(value, key, person_of, seqs, force, out), None
        except Malformed as bad:
            return None, bad.code

    def handle(
        value: bytes | None, key: bytes, person_of: PersonOf, seqs: list[int], force: Sequence[bool], out: list[Record]
    ) -> Tally:
        given, mirrored, written = (value, key, person_of, force), list(seqs), list[Record]()
        begun = len(out)
        told, refused = run(one, given, seqs, out)
        assert (told, refused) == run(other, given, mirrored, written), "the kernel decides as the Python does"
        assert (seqs, out[begun:]) == (mirrored, written), "the kernel writes what the Python writes"
        if refused is not None:
            raise Malformed(refused)
        return cast("Tally", told)

    return handle


class Stage:
    """A world, its plan, and the reference, ready to be fed the same events."""

    def __init__(self, dataset: Dataset, register: Dataset, agreed: tuple[Agreement, ...], people: dict[str, Known]) -> None:
        self.catalogue = Catalogue()
        self.schemas: dict[str, Any] = {}
        self._put(value_subject(dataset.topic), derive.change(dataset))
        self._put(value_subject(f"verified.{dataset.name}"), derive.verified(dataset, register))
        for agreement in agreed:
            if any(g.dataset == dataset.name for g in agreement.grants):
                for subject, schema in delivery_schemas({dataset.name: dataset}, register, agreement).items():
                    assert subject == record_subject(f"agency.{agreement.id}", schema)
                    self._put(subject, schema)
        ids = self.catalogue.ids()
        self.world = World(dataset, register, agreed, ids, PERSON_SECRET, AGREEMENT_SECRET, people)
        self.change_id = ids[value_subject(dataset.topic)]
        self.reference = Reference(self.world, self.schemas)
        secrets = Secrets(PERSON_SECRET, AGREEMENT_SECRET)
        made, python = (
            compile_plan(dataset, register, agreed, self.catalogue, secrets, MAX_RECORD_BYTES, kernel=k) for k in (True, False)
        )
        self.plan: Plan = replace(made, handle=both(made.handle, python.handle)) if native.available() else python
        self.seqs = [0] * len(agreed)
        self.replica = packed(self.world)

    def _put(self, subject: str, schema: Any) -> None:
        entry = self.catalogue.propose(subject, schema)
        assert entry
        self.catalogue.add(entry)
        self.schemas[subject] = schema

    def change(self, op: str, before: Row | None, after: Row | None) -> tuple[bytes, bytes]:
        """(value, key) of a change event."""
        event = envelope(op, before, after)
        row = after if after is not None else before
        assert row is not None
        return frame(self.change_id, derive.change(self.world.dataset), event), self.world.key_of(row)


def envelope(op: str, before: Row | None, after: Row | None) -> Row:
    source = {"db": "civil", "schema": "public", "table": "birth", "system_id": 7412345678901234567, "lsn": 98_000_000_000}
    source |= {"xid": 771, "ordinal": 3, "ts_ms": 1_735_689_600_100, "snapshot": op == "r"}
    return {
        "event_id": bytes(range(16)),
        "op": op,
        "ts_ms": 1_735_689_600_123,
        "source": source,
        "before": before,
        "after": after,
    }


def packed(world: World) -> dict[bytes, bytes]:
    """The replica: person key -> value as the register process stores it."""
    pack = compile_packer(world.register)
    found = {}
    for pin, known in world.people.items():
        value = pack(frame(1, derive.change(world.register), envelope("c", None, known.row)), known.offset)
        assert value
        found[world.person_key(pin)] = value
    return found


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    register = draw(registers())
    dataset = draw(st.one_of(datasets(), datasets(), datasets(), st.just(register)))
    people = {}
    for pin in draw(st.lists(st.sampled_from(PINS), unique=True)):
        row = draw(row_of(register)) | {"pin": pin}
        people[pin] = Known(row, draw(st.sampled_from([0, 63, 64, 10**12])))
    return Stage(dataset, register, draw(agreements(dataset, register)), people)


@st.composite
def changes(draw: st.DrawFn, dataset: Dataset) -> tuple[str, Row | None, Row | None]:
    """(op, before, after); an update keeps its subject and its primary key, and changes a few columns."""
    op = draw(st.sampled_from("cruuud"))
    row = draw(row_of(dataset))
    if op in "cr":
        return op, None, row
    if op == "d":
        return op, row, None
    other = draw(row_of(dataset))
    fixed = {*dataset.primary_key, *(role.pin for role in dataset.people[:1])}
    changed = draw(st.lists(st.sampled_from(sorted(dataset.fields)), max_size=3))
    return op, row, row | {c: other[c] for c in changed if c not in fixed}
