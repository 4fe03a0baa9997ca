"""Runs test files through the engine's own plans, the kernel's and the generated Python, and says what is not as it should be."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import fastavro

from bus.avro import catalogue, derive, frame
from bus.avro.catalogue import Catalogue
from bus.avro.dataset import Dataset, load, register_of
from bus.avro.frame import Malformed
from bus.config import Settings
from bus.core import identity, topics
from bus.core.outcome import Outcome
from bus.engine import agreements, native
from bus.engine.person import compile_packer
from bus.engine.plan import Plan, Record, Secrets, compile_plan
from bus.ledger.decoding import compile_decoder
from bus.trial import cases, values
from bus.trial.cases import AGREEMENT_SECRET, Case, Examples, Gets, Row
from bus.trial.counting import delivery_schema, with_deliveries
from bus.trial.coverage import lacking

_PERSON_SECRET = b"the person-key of each test file"
_MAX_RECORD_BYTES = 1_048_576
_AT_MS = 1_767_200_400_000
"""Commit time of every event: 2026-01-01T00:00:00+07:00."""
_ANY_ID = 1
_OUTCOME = "outcome"
_ABSENT = "no such field"
"""Beside a value, which may be null."""


class UnknownAgreementError(ValueError):
    """An agreement that no file describes; the message names near ones."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` of a delivery, as it must be and as it is, for people."""

    what: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Failure:
    case: Case
    differences: tuple[Difference, ...]


@dataclass(slots=True)
class Tested:
    """One test file's run. `lacking`: what no case of it looks at."""

    examples: Examples
    failures: list[Failure] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    tested: list[Tested]
    untested: list[str]
    """Agreements without a test file."""
    kernel: bool
    """Whether the kernel was run too."""

    def failed(self, *, all_tested: bool) -> bool:
        wrong = any(one.failures for one in self.tested)
        return wrong or (all_tested and bool(self.untested or any(one.lacking for one in self.tested)))

    def as_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "untested": self.untested,
            "files": [
                {
                    "agreement": one.examples.agreement.id,
                    "file": str(one.examples.path),
                    "cases": len(one.examples.cases),
                    "lacking": one.lacking,
                    "failures": [
                        {
                            "case": f.case.name,
                            "line": f.case.line,
                            "differences": [{"what": d.what, "expected": d.expected, "got": d.got} for d in f.differences],
                        }
                        for f in one.failures
                    ],
                }
                for one in self.tested
            ],
        }

    def lines(self) -> Iterator[str]:
        for one in self.tested:
            name, count, wrong = one.examples.agreement.id, len(one.examples.cases), len(one.failures)
            yield f"{'FAILED' if wrong else 'passed'}  {name}: {count - wrong} of {count} cases"
            for failure in one.failures:
                yield f"  {one.examples.path}:{failure.case.line}: {failure.case.name}"
                for d in failure.differences:
                    yield f"    - {d.what}: {d.expected}\n    + {d.what}: {d.got}"
            yield from (f"  not looked at: {what}" for what in one.lacking)
        yield from (f"untested  {name}: no test file names it" for name in self.untested)

    def summary(self) -> str:
        count, wrong = sum(len(t.examples.cases) for t in self.tested), sum(len(t.failures) for t in self.tested)
        how = "by the kernel and by Python" if self.kernel else "by Python; the kernel was not built here"
        hint = " - is expected, + is what came." if wrong else ""
        return f"{count} cases, {wrong} failed, decided {how}.{hint}"


def run(settings: Settings, ids: Sequence[str]) -> Report:
    """The tests of these agreements, or of all. Raises AgreementError, SchemaError, CaseError, UnknownAgreementError."""
    datasets = load(settings.schemas)
    agreed = agreements.load(settings, datasets)
    for name in ids:
        if name not in agreed:
            near = difflib.get_close_matches(name, agreed, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(agreed) or 'none'}"
            raise UnknownAgreementError(f"no agreement {name!r} in {settings.agreements}: {hint}")
    register = register_of(datasets)
    found = [e for e in cases.load(settings.agreements, agreed, datasets, register) if not ids or e.agreement.id in ids]
    tested = {e.agreement.id for e in found}
    untested = [name for name in ids or agreed if name not in tested]
    return Report([examine(one, datasets, register) for one in found], untested, native.available())


def examine(examples: Examples, datasets: Mapping[str, Dataset], register: Dataset) -> Tested:
    """One file's cases, in order, as one lane would have them."""
    made = Tested(examples, lacking=lacking(examples))
    bench = _Bench(examples, datasets, register)
    for case in examples.cases:
        if found := bench.differences(case):
            made.failures.append(Failure(case, tuple(found)))
    return made


class _Bench:
    """The plans of one agreement, and the register of its test file."""

    def __init__(self, examples: Examples, datasets: Mapping[str, Dataset], register: Dataset) -> None:
        self._agreement, self._datasets, self._register = examples.agreement, datasets, register
        granted = [datasets[g.dataset] for g in self._agreement.grants]
        self._found = with_deliveries(_catalogue(granted, register), datasets, register, self._agreement)
        self._plans = {d.name: [self._plan(d, kernel) for kernel in (False, True)] for d in granted}
        self._decoders = {d.name: compile_decoder(delivery_schema(datasets, register, self._agreement, d.name)) for d in granted}
        self._people = self._replica(examples.people)
        self._seqs = [[0], [0]]

    def _plan(self, dataset: Dataset, kernel: bool) -> Plan:
        secrets = Secrets(_PERSON_SECRET, AGREEMENT_SECRET)
        agreed = (self._agreement,)
        return compile_plan(dataset, self._register, agreed, self._found, secrets, _MAX_RECORD_BYTES, kernel=kernel)

    def _replica(self, people: Sequence[Row]) -> dict[bytes, bytes]:
        pack, pin = compile_packer(self._register), self._register.people[0].pin
        found = {}
        for offset, row in enumerate(people):
            value = pack(_event(self._register, _ANY_ID, "c", None, row, 0), offset)
            assert value is not None
            found[identity.person_key(_PERSON_SECRET, row[pin].encode())] = value
        return found

    def differences(self, case: Case) -> list[Difference]:
        """What is not as the case says; nothing: it passes."""
        dataset = self._datasets[case.dataset]
        schema_id = self._found.id_for(catalogue.value_subject(dataset.topic), derive.change(dataset))
        try:
            value = _event(dataset, schema_id, case.op, case.before, case.after, case.line)
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            return [Difference("event", "one that fits the schema", f"a value that does not: {type(error).__name__}")]
        key = _key(dataset, case.after if case.after is not None else case.before or {})
        both = zip(self._plans[dataset.name], self._seqs, strict=True)
        results = [_decide(plan, value, key, self._people, seqs) for plan, seqs in both]
        if results[0] != results[1]:
            return [Difference("kernel", f"what the generated Python makes of it ({results[0][0]})", str(results[1][0]))]
        outcome, out = results[0]
        delivery = self._decoders[dataset.name](out[0][1]) if outcome == Outcome.DELIVERED.value else None
        found = list(_compare(case, outcome, delivery, self._seqs[0][0]))
        if found and found[0].what == _OUTCOME and out:
            found[0] = replace(found[0], got=outcome + self._judged(dataset, out[-1][1]))
        return found

    def _judged(self, dataset: Dataset, verified: bytes) -> str:
        """What was found of the row's people, where somebody was looked for."""
        entries = compile_decoder(derive.verified(dataset, self._register))(verified)["verification"]
        said = [f"{e['role']} {e['status']}" + "".join(f" {name}" for name in e["mismatched"]) for e in entries]
        return f" ({', '.join(said)})" if said else ""


def _decide(plan: Plan, value: bytes, key: bytes, people: Mapping[bytes, bytes], seqs: list[int]) -> tuple[str, list[Record]]:
    """(outcome, what is written: the delivery, if there is one, then the verified event). A refusal is told as one."""
    out: list[Record] = []
    try:
        tally = plan.handle(value, key, people.get, seqs, (True,), out)
    except Malformed as bad:
        why = " (an update keeps primary key and subject: else capture makes a d and a c of it)" if value else ""
        return f"refused: {bad.code.value}{why}", []
    return plan.outcomes(tally)[0][1], out


def _compare(case: Case, outcome: str, delivery: dict[str, Any] | None, seq: int) -> Iterator[Difference]:
    expected = case.expected
    wanted = expected if isinstance(expected, str) else Outcome.DELIVERED.value
    if outcome != wanted:
        yield Difference(_OUTCOME, wanted, outcome)
    if delivery is None or isinstance(expected, str):
        return
    pairs: list[tuple[str, Any, Any]] = [(what, getattr(expected, what), delivery[what]) for what in ("op", "verdict")]
    pairs += [("seq", seq, delivery["seq"])]
    pairs += list(_data(expected, delivery["data"]))
    for what, one, other in pairs:
        if one != other:
            yield Difference(what, values.text(one), values.text(other))


def _data(expected: Gets, data: Row | None) -> Iterator[tuple[str, Any, Any]]:
    wanted = expected.data
    if wanted is None or data is None:
        one, other = ("null" if side is None else "a row" for side in (wanted, data))
        yield "data", one, other
        return
    for name in [*wanted, *(n for n in data if n not in wanted)]:
        yield f"data.{name}", wanted.get(name, _ABSENT), data.get(name, _ABSENT)


def _catalogue(granted: Sequence[Dataset], register: Dataset) -> Catalogue:
    """As a bus would have it registered."""
    found = Catalogue()
    for one in granted:
        for subject, schema in (
            (catalogue.value_subject(one.topic), derive.change(one)),
            (catalogue.value_subject(topics.verified(one.name)), derive.verified(one, register)),
        ):
            if entry := found.propose(subject, schema):
                found.add(entry)
    return found


def _key(dataset: Dataset, row: Row) -> bytes:
    """The message key, as capture makes it."""
    pin = row.get(dataset.people[0].pin) if dataset.people else None
    if pin:
        return identity.person_key(_PERSON_SECRET, str(pin).encode())
    encoded = b"".join(_encoded(t, row[name]) for name, t in dataset.fields.items() if name in dataset.primary_key)
    return identity.row_key(_PERSON_SECRET, dataset.name, encoded)


def _event(dataset: Dataset, schema_id: int, op: str, before: Row | None, after: Row | None, number: int) -> bytes:
    """A change event, framed. `number` tells it from others."""
    source = {"db": dataset.domain, "schema": "public", "table": dataset.table, "system_id": 1, "lsn": number, "xid": number}
    source |= {"ordinal": 0, "ts_ms": _AT_MS, "snapshot": op == "r"}
    event = {"event_id": number.to_bytes(16, "big"), "op": op, "ts_ms": _AT_MS, "source": source}
    event |= {"before": before, "after": after}
    return frame.header(schema_id) + _encoded(derive.change(dataset), event)


def _encoded(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()
