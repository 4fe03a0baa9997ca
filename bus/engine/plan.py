"""One dataset's whole treatment, compiled: a change event's bytes in, its verified event and the agencies' deliveries out.

    plan = compile_plan(dataset, register, agreements, catalogue, Secrets(person=…, agreements=…), max_record_bytes)
    tally = plan.handle(value, key, person_of, seqs, force, out)

value      the record's value, framed; None (a tombstone) is Malformed
key        the record's key: 16 bytes
person_of  person key -> the replica's value (bytes, as `bus.engine.person` packs it), or None when the register lacks the person
seqs       list[int], one lane's last sequence number of each agreement, 0 at first; index = place in `agreements`, which must be
           the same sequence for all plans of a process (several datasets of one agreement count on)
force      Sequence[bool] by the same index: whether the agreement is in force now
out        list to which (topic, value, key) tuples are appended: deliveries, then the verified event, all for the input's lane

`handle` raises `Malformed` (its `code` is the dead-letter code) before it has appended or counted anything; any other exception
is a fault of ours, after which the transaction must be aborted. `tally` is a small bytes object, equal for events with equal
results, to be counted in a dict: `plan.verdict(tally)` and `plan.outcomes(tally)` say what one stands for, `plan.sums` all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bus.avro import derive
from bus.avro.catalogue import Catalogue, record_subject, value_subject
from bus.avro.dataset import Dataset, Schema, SchemaError
from bus.avro.frame import Malformed
from bus.avro.older import Resolve, compile_older
from bus.avro.projection import GrantError, Projection, compile_grant
from bus.core import identity, topics
from bus.core.agreement import Agreement, Grant, Mask
from bus.core.identity import SECRET_BYTES
from bus.core.outcome import OUTCOMES, VERDICTS, DeadCode, Outcome
from bus.engine import native
from bus.engine.generate import Generator, Subscription
from bus.engine.verification import MatchError

_FILTERED = OUTCOMES.index(Outcome.ROW_FILTER.value)
_NOT_FILTERED = re.compile(b"[^%c]" % _FILTERED, re.DOTALL)
NO_VERDICT = "none"
"""What `Plan.verdict` says of datasets that are not verified: those without people, and the register itself."""

Tally = bytes
Sums = tuple[Counter[str], Counter[tuple[str, str]]]
"""Events by verdict, and by (agreement, outcome)."""
PersonOf = Callable[[bytes], bytes | None]
Record = tuple[str, bytes, bytes]
"""(topic, value, key)."""
Handle = Callable[[bytes | None, bytes, PersonOf, list[int], Sequence[bool], list[Record]], Tally]


class PlanError(ValueError):
    """An agreement cannot be compiled against a dataset; the message names agreement, dataset, field and remedy."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """32 bytes each: the home's `person-key` and `agreement-key`."""

    person: bytes
    agreements: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """`topic` is the input; `agreements` those with a grant on this dataset, in the order of a tally's outcomes."""

    dataset: str
    topic: str
    agreements: tuple[str, ...]
    handle: Handle
    source: str
    """The generated Python: what the kernel does too, for people."""
    older: Resolve
    """What `handle` refuses as UNKNOWN_SCHEMA, if it is of an earlier schema of the topic: a value that it takes."""

    def again(
        self,
        value: bytes | None,
        key: bytes,
        person_of: PersonOf,
        seqs: list[int],
        force: Sequence[bool],
        out: list[Record],
        code: DeadCode,
    ) -> Tally:
        """A value that `handle` has refused with `code`, once more if an earlier schema of the topic explains that.

        Raises Malformed.
        """
        if value is None or code is not DeadCode.UNKNOWN_SCHEMA:
            raise Malformed(code)
        return self.handle(self.older(value), key, person_of, seqs, force, out)

    def verdict(self, tally: Tally) -> str:
        """'MATCH', …, or NO_VERDICT."""
        return VERDICTS[tally[0] - 1] if tally[0] else NO_VERDICT

    def outcomes(self, tally: Tally) -> tuple[tuple[str, str], ...]:
        """(agreement, outcome) for each agreement on the dataset."""
        return tuple(zip(self.agreements, (OUTCOMES[o] for o in tally[1:]), strict=True))

    def sums(self, tallies: Mapping[Tally, int]) -> Sums:
        """Of hundreds of agreements few get an event, so the others' row
        filters are not counted one by one."""
        verdicts, listed = Counter[str](), Counter[tuple[int, int]]()
        for tally, events in tallies.items():
            verdicts[self.verdict(tally)] += events
            for found in _NOT_FILTERED.finditer(tally, 1):
                at = found.start()
                listed[at, tally[at]] += events
        rest = dict.fromkeys(range(1, len(self.agreements) + 1), verdicts.total())
        for (at, _), events in listed.items():
            rest[at] -= events
        filtered = {(at, _FILTERED): events for at, events in rest.items() if events}
        outcomes = {(self.agreements[at - 1], OUTCOMES[o]): events for (at, o), events in (listed | Counter(filtered)).items()}
        return verdicts, Counter(outcomes)


def compile_plan(
    dataset: Dataset,
    register: Dataset,
    agreements: Sequence[Agreement],
    catalogue: Catalogue,
    secrets: Secrets,
    max_record_bytes: int,
    *,
    kernel: bool = True,
    recorded: bool = False,
) -> Plan:
    """Compile all grants on `dataset`; with `kernel` in C where that can be had. `recorded`: for events that were verified
    already, in Python; `person_of` then has the verdict as its attribute `verdict`, an index in VERDICTS. Raises PlanError for
    an agreement that does not fit, CatalogueError when a schema is not registered as derived."""
    found = [(slot, a, _subscribe(dataset, register, a, secrets.agreements)) for slot, a in enumerate(agreements)]
    subscriptions = []
    for slot, agreement, made in found:
        if made:
            grant, projection, secret = made
            subject = record_subject(topics.agency(agreement.id), projection.schema)
            schema_id = catalogue.id_among(subject, projection.schema)  # an older one while a change is under way
            clear = sees_pin(dataset, grant)
            subscriptions.append(Subscription(slot, agreement, grant, projection, schema_id, secret, clear))
    change = derive.change(dataset)
    change_id = catalogue.id_for(value_subject(dataset.topic), change)
    verified_id = catalogue.id_for(value_subject(topics.verified(dataset.name)), derive.verified(dataset, register))
    generator = Generator(dataset, register, subscriptions, change_id, verified_id, secrets.person, max_record_bytes, recorded)
    try:
        source = generator.source()
    except (MatchError, SchemaError) as error:
        raise PlanError(f"dataset {dataset.name!r}: {error}") from None
    handle: Handle | None = native.compile_native(generator) if kernel and not recorded else None
    if handle is None:
        scope = generator.constants
        exec(compile(source, f"<plan {dataset.name}>", "exec"), scope)  # noqa: S102 made here, of schemas and checked agreements
        handle = scope["handle"]
    older = compile_older(value_subject(dataset.topic), change, change_id, catalogue)
    return Plan(dataset.name, dataset.topic, tuple(s.agreement.id for s in subscriptions), handle, source, older)


def delivery_schemas(datasets: Mapping[str, Dataset], register: Dataset, agreement: Agreement) -> dict[str, Schema]:
    """Subject ('<agency topic>-<record full name>') -> delivery schema of each grant. Raises PlanError."""
    found = {}
    for grant in agreement.grants:
        if grant.dataset not in datasets:
            raise PlanError(
                f"agreement {agreement.id!r} grants {grant.dataset!r}, which no schema describes: known are {', '.join(datasets)}"
            )
        made = _subscribe(datasets[grant.dataset], register, agreement, bytes(SECRET_BYTES))  # no schema depends on a secret
        if made:
            found[record_subject(topics.agency(agreement.id), made[1].schema)] = made[1].schema
    return found


def _subscribe(
    dataset: Dataset, register: Dataset, agreement: Agreement, master: bytes
) -> tuple[Grant, Projection, bytes] | None:
    """The agreement's grant on the dataset, compiled, with the agreement's secret; None when it has none."""
    grants = [g for g in agreement.grants if g.dataset == dataset.name]
    if not grants:
        return None
    at = f"agreement {agreement.id!r}, dataset {dataset.name!r}"
    if len(grants) > 1:
        raise PlanError(f"{at}: granted twice; join the two grants")
    grant = grants[0]
    if grant.verdicts and (dataset.register or not dataset.people):
        raise PlanError(f"{at}: asks for verdicts, but nobody in these rows is verified; leave 'verdicts' out")
    if unknown := sorted(set(grant.verdicts) - set(VERDICTS)):
        raise PlanError(f"{at}: unknown verdict {unknown[0]!r}; known are {', '.join(VERDICTS)}")
    secret = identity.agreement_secret(master, agreement.id)
    try:
        return grant, compile_grant(dataset, register, agreement.id, grant, secret), secret
    except GrantError as error:
        raise PlanError(f"{at}: {error}") from None


def sees_pin(dataset: Dataset, grant: Grant) -> bool:
    return bool(dataset.people) and any(f.name == dataset.people[0].pin and f.mask == Mask.PLAIN for f in grant.fields)
