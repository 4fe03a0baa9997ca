"""What a proposed schema of a dataset does to everybody who reads it: to each agreement, and to each registered reader's schema.

fails             the bus or a reader cannot go on: a grant that no longer compiles, bytes that a registered schema cannot read
silently changes  everything is read without an error and means something else than before
loses             a reader goes on, and a field that it had holds only its default from now on
nothing           what it reads is what it read

An agreement's delivered schema evolves under FULL_TRANSITIVE: old consumers read new deliveries, new consumers old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from bus.avro import derive
from bus.avro.catalogue import record_subject, value_subject
from bus.avro.dataset import Dataset, Schema
from bus.avro.projection import REGISTER, GrantError, Projection, compile_grant
from bus.contracts import delivered, evidence
from bus.contracts.compatibility import Direction, field_at, parse, reads
from bus.contracts.difference import What, differences, split, type_words
from bus.contracts.evidence import Evidence
from bus.core import topics
from bus.core.agreement import Agreement, Grant

Tags = Mapping[str, str]
SENSITIVE = "sensitive"
_NO_SECRET = bytes(32)
"""No schema depends on an agreement's secret."""


class Verdict(Enum):
    """Gravest first."""

    FAILS = "fails"
    CHANGES = "silently changes"
    LOSES = "loses"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Effect:
    """`who`: the agency, or the topic whose registered schema reads. `agreement`: '' for readers. `confirmed`: on which bytes."""

    who: str
    agreement: str
    dataset: str
    field: str
    verdict: Verdict
    reason: str
    confirmed: str = ""

    def __str__(self) -> str:
        whom = f"{self.who} ({self.agreement})" if self.agreement else self.who
        at = f"{self.dataset} {self.field}".strip()
        return f"{self.verdict.value}: {whom}, {at}: {self.reason}"


@dataclass(frozen=True, slots=True)
class World:
    """What there is before the change. `registered`: subject -> version -> schema, as far as a registry is known."""

    datasets: Mapping[str, Dataset]
    register: Dataset
    agreements: Mapping[str, Agreement]
    registered: Mapping[str, Mapping[int, Any]]
    recorded: Mapping[str, Evidence]
    """Subject -> recorded values."""


def impact(world: World, new: Dataset) -> list[Effect]:
    """The effects of `new` in the place of the dataset of its name, gravest first. At least one for each agreement that reads it
    and for each registered schema."""
    old = world.datasets[new.name]
    register = new if new.register else world.register
    found: list[Effect] = []
    for agreement in world.agreements.values():
        for grant in agreement.grants:
            if grant.dataset == new.name or (new.register and _looks_up(world.datasets[grant.dataset], grant, new)):
                found += _agreement(world, agreement, grant, old, new, register)
    found += _readers(world, old, new, register)
    order = list(Verdict)
    return sorted(found, key=lambda e: (order.index(e.verdict), e.who, e.agreement, e.dataset, e.field))


def _looks_up(dataset: Dataset, grant: Grant, register: Dataset) -> bool:
    """Whether the register's schema matters to a grant: its fields are delivered, its verdict decides or is shared, or what the
    rows are checked against is no longer there."""
    if any(f.name.startswith(REGISTER) for f in grant.fields) or any(_unchecked(dataset, register)):
        return True
    return bool(dataset.people) and _uses_verdict(grant)


def _uses_verdict(grant: Grant) -> bool:
    return bool(grant.verdicts) or grant.share_verdict


def _agreement(
    world: World, agreement: Agreement, grant: Grant, old: Dataset, new: Dataset, register: Dataset
) -> Iterator[Effect]:
    about = Effect(agreement.agency, agreement.id, grant.dataset, "", Verdict.NOTHING, "what it receives stays as it is")
    before_dataset = world.datasets[grant.dataset]
    dataset = new if grant.dataset == new.name else before_dataset
    before = compile_grant(before_dataset, world.register, agreement.id, grant, _NO_SECRET)
    if reasons := list(_refused(dataset, register, agreement, grant, _tags(before_dataset, world.register, grant))):
        yield from (replace(about, field=f, verdict=Verdict.FAILS, reason=r) for f, r in reasons)
        return
    after = compile_grant(dataset, register, agreement.id, grant, _NO_SECRET)
    subject = record_subject(topics.agency(agreement.id), after.schema)
    earlier = world.registered.get(subject) or {1: before.schema}
    recorded = world.recorded.get(subject) or evidence.generated(earlier)
    broken, agreed = delivered.judged(after.schema, earlier)
    effects = [*_delivered(about, broken), *_meanings(about, before, after), *_verdicts(about, grant, dataset, old, new)]
    effects += _keys(about, grant, old, new)
    if not any(e.verdict is Verdict.FAILS for e in effects):
        told = _tried(recorded, earlier, after.schema, {(u.version, u.direction) for u in agreed})
        effects += [replace(about, verdict=Verdict.FAILS, reason=t) for t in told if t]
    granted = {f.name.replace(".", "_"): f.name for f in grant.fields}
    for effect in _once(effects or [about]):
        yield replace(effect, field=granted.get(effect.field, effect.field), confirmed=recorded.words)


def _refused(dataset: Dataset, register: Dataset, agreement: Agreement, grant: Grant, tags: Tags) -> Iterator[tuple[str, str]]:
    """(field, reason) for everything in the grant that cannot be compiled, and for what the agreement would have to say."""
    for field in grant.fields:
        try:
            compile_grant(dataset, register, agreement.id, replace(grant, fields=(field,), where=()), _NO_SECRET)
        except GrantError as error:
            yield field.name, str(error)
    for column, values in grant.where:
        try:
            some = replace(grant, fields=grant.fields[:1], where=((column, values),))
            compile_grant(dataset, register, agreement.id, some, _NO_SECRET)
        except GrantError as error:
            if "row filter" in str(error):
                yield column, str(error)
    if _uses_verdict(grant) and not dataset.people:
        yield "", "it asks for verdicts, but nobody in these rows would be verified"
    yield from _unchecked(dataset, register)
    yield from _without_basis(agreement, grant, tags, _tags(dataset, register, grant))


def _unchecked(dataset: Dataset, register: Dataset) -> Iterator[tuple[str, str]]:
    """(field, reason) where people of the rows are checked against a field that the register has not. Nothing of such a dataset
    can be verified, and so nothing be delivered, to whom its verdict matters and to whom it does not."""
    renamed = {alias: f["name"] for f in register.row["fields"] for alias in f.get("aliases", ())}
    for theirs in sorted({theirs for role in dataset.people for theirs in role.match if theirs not in register.fields}):
        roles = ", ".join(role.name for role in dataset.people if theirs in role.match)
        now = f"is called {renamed[theirs]!r} now" if theirs in renamed else "is gone"
        yield f"{REGISTER}{theirs}", f"{roles} of {dataset.name}: checked against the register's {theirs!r}, which {now}"


def _without_basis(agreement: Agreement, grant: Grant, before: Tags, after: Tags) -> Iterator[tuple[str, str]]:
    """(field, reason) where a new tag asks for a law that the agreement does not name, or names one in vain."""
    laws = dict(grant.sensitive_basis)
    for name, tag in after.items():
        if tag == SENSITIVE and name not in laws:
            yield name, "it becomes sensitive personal data, and the agreement's sensitive_basis names no law for it"
        elif tag and not before.get(name) and not agreement.legal_basis:
            yield name, f"it becomes {tag} personal data, and the agreement names no legal basis"
        elif tag != SENSITIVE and name in laws:
            yield name, "it is no longer sensitive personal data: the agreement's sensitive_basis must not name it any more"


def _tags(dataset: Dataset, register: Dataset, grant: Grant) -> Tags:
    """Granted field -> its pii tag, '' for none."""
    ours, theirs = ({f["name"]: str(f.get("pii", "")) for f in d.row["fields"]} for d in (dataset, register))
    names = [f.name for f in grant.fields]
    return {n: theirs.get(n[len(REGISTER) :], "") if n.startswith(REGISTER) else ours.get(n, "") for n in names}


def _delivered(about: Effect, broken: Sequence[delivered.Unread]) -> Iterator[Effect]:
    """Where an earlier delivered schema and the new one do not read each other: what `bus up` would refuse."""
    for one in broken:
        who = (
            "its consumers cannot read what would come"
            if one.direction is Direction.FORWARD
            else "a consumer of the new schema cannot read what came before"
        )
        yield replace(about, field=one.field, verdict=Verdict.FAILS, reason=f"{who}: {one.message}")


def _tried(
    recorded: Evidence, earlier: Mapping[int, Any], after: Schema, apart: Set[tuple[int, Direction]]
) -> Iterator[str]:  # fmt: skip
    """Why values cannot be read, '' where they can. `apart`: versions that do not read, or are not read, as was agreed."""
    yield recorded.without([s for v, s in earlier.items() if (v, Direction.BACKWARD) in apart]).unreadable(after)
    for version, schema in earlier.items():
        if (version, Direction.FORWARD) not in apart:
            yield recorded.unreadable(schema, after)


def _meanings(about: Effect, before: Projection, after: Projection) -> Iterator[Effect]:
    """Fields whose bytes are read as before and stand for something else."""
    was = {p.name: p.masked.type for p in before.parts}
    for part in after.parts:
        one = was[part.name]
        if split(one)[:2] != split(part.masked.type)[:2]:
            words = f"was {type_words(one)}, becomes {type_words(part.masked.type)}; it is read without an error"
            yield replace(about, field=part.name, verdict=Verdict.CHANGES, reason=words)


def _verdicts(about: Effect, grant: Grant, dataset: Dataset, old: Dataset, new: Dataset) -> Iterator[Effect]:
    """Agreements that pass rows by their verdict, or share it, when what is verified is no longer the same."""
    if not _uses_verdict(grant):
        return
    if grant.dataset == new.name and not new.register:
        was, now = _checks(old, old), _checks(new, old)
        for role in sorted(was.keys() | now.keys()):
            if was.get(role) != now.get(role):
                reason = f"role {role!r} is verified otherwise, so the same row may get another verdict, and pass or not"
                yield replace(about, field=(now.get(role) or was[role])[0], verdict=Verdict.CHANGES, reason=reason)
    elif new.register:
        checked = {theirs for role in dataset.people for theirs in role.match}
        for change in differences(old.row, new.row):
            if change.what in (What.COMPARE, What.TYPE, What.MEANING) and change.field in checked:
                reason = "the register's field is compared otherwise, so the same row may get another verdict"
                yield replace(about, field=f"{REGISTER}{change.field}", verdict=Verdict.CHANGES, reason=reason)


def _checks(dataset: Dataset, earlier: Dataset) -> dict[str, tuple[str, dict[str, tuple[Any, ...]]]]:
    """Role -> what decides its verdict, under the names that columns had earlier."""
    names = {c.field: c.before for c in differences(earlier.row, dataset.row) if c.what is What.RENAMED}
    found = {}
    for role in dataset.people:
        match = {theirs: (names.get(ours, ours), _read_as(dataset.fields[ours])) for theirs, ours in role.match.items()}
        found[role.name] = (names.get(role.pin, role.pin), match)
    return found


def _read_as(avro_type: Any) -> tuple[Any, ...]:
    """What a value is to the comparison, which reads it as text: whole numbers of any size read alike."""
    base, logical, _ = split(avro_type)
    return ("int" if base == "long" else base, *logical)


def _keys(about: Effect, grant: Grant, old: Dataset, new: Dataset) -> Iterator[Effect]:
    """What stands outside the data: row_key and the record's key, by which consumers join and deduplicate."""
    if grant.dataset != new.name:
        return
    if old.primary_key != new.primary_key:
        yield replace(about, verdict=Verdict.CHANGES, reason="row_key of a row is another: what was delivered is not recognised")
    subjects = [d.people[0].pin if d.people else "" for d in (old, new)]
    if subjects[0] != subjects[1]:
        words = "the subject of a row is another person: records come under other keys, in other lanes"
        yield replace(about, field=subjects[1] or subjects[0], verdict=Verdict.CHANGES, reason=words)


def _readers(world: World, old: Dataset, new: Dataset, register: Dataset) -> Iterator[Effect]:
    """Whoever reads change.* or verified.* with a registered schema."""
    derived = {value_subject(new.topic): (derive.change(old), derive.change(new))}
    for one in world.datasets.values():
        if one.name == new.name or new.register:
            subject = value_subject(topics.verified(one.name))
            changed = new if one.name == new.name else one
            derived[subject] = (derive.verified(one, world.register), derive.verified(changed, register))
    for subject, (before, after) in derived.items():
        versions = world.registered.get(subject) or {1: before}
        recorded = world.recorded.get(subject) or evidence.generated(versions)
        for version, schema in versions.items():
            yield from _reader(subject, version, schema, after, recorded)


def _reader(subject: str, version: int, schema: Any, after: Schema, recorded: Evidence) -> Iterator[Effect]:
    dataset = subject.removesuffix("-value")
    about = Effect(f"readers of {dataset}, version {version}", "", dataset, "", Verdict.NOTHING, "reads what will come as before")
    about = replace(about, confirmed=recorded.words)
    if problems := reads(parse(schema), parse(after)):
        for reason in problems:
            field = field_at(schema, reason.location)
            yield replace(about, field=field, verdict=Verdict.FAILS, reason=f"cannot read what would come: {reason.message}")
        return
    effects = [replace(about, field=f, verdict=v, reason=r) for f, v, r in _columns(schema, after)]
    if told := recorded.unreadable(schema, after):
        effects.append(replace(about, verdict=Verdict.FAILS, reason=told))
    yield from _once(effects or [about])


def _columns(schema: Any, after: Schema) -> Iterator[tuple[str, Verdict, str]]:
    """(field, verdict, reason) for each column of the row, and of the person, that a reader had otherwise."""
    had, has = rows(schema), rows(after)
    for record, was in had.items():
        for change in differences(was, has.get(record, was)):
            if change.what in (What.REMOVED, What.RENAMED):
                name = change.field if change.what is What.REMOVED else str(change.before)
                yield name, Verdict.LOSES, "gone from the source; the reader goes on with its default"
            elif change.what in (What.MEANING, What.TYPE):
                words = f"was {type_words(change.before)}, becomes {type_words(change.after)}; it is read without an error"
                yield change.field, Verdict.CHANGES, words


def rows(schema: Any) -> dict[str, Schema]:
    """The row records inside an envelope, by full name: those whose namespace is a domain's."""
    found: dict[str, Schema] = {}
    for field in schema.get("fields", ()):
        for branch in field["type"] if isinstance(field["type"], list) else ():
            if isinstance(branch, dict) and branch.get("type") == "record":
                found[f"{branch.get('namespace', '')}.{branch['name']}"] = branch
    return found


def _once(effects: Sequence[Effect]) -> list[Effect]:
    """One effect a field: the gravest; where a field fails, what it would silently be does not matter."""
    order = list(Verdict)
    kept: dict[str, Effect] = {}
    for effect in sorted(effects, key=lambda e: order.index(e.verdict)):
        kept.setdefault(effect.field, effect)
    return list(kept.values())
