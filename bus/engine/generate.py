"""Writes the source of a plan's function.

Variables of the generated code, beside those of the walk (`b`, `i`, `i_…`) and of the verification (`p`, `g…`, `w…`):
e event id, r the rest of a shared head, s a sequence number, v the verdict (vb: the row's before the change), o<j> the outcome of
agreement j, t the tally. Order of work: all that can fail first, then what appends and counts, which cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bus.avro import derive, frame, varint
from bus.avro.dataset import Dataset
from bus.avro.memo import Memo
from bus.avro.projection import Projection, Spans
from bus.avro.walker import RUNTIME, indent, walk_source
from bus.core import identity, topics
from bus.core.agreement import Agreement, Grant
from bus.core.outcome import CHANGE_OPS, DELIVERY_OPS, OUTCOMES, VERDICTS, DeadCode, Outcome
from bus.engine import person, sequence
from bus.engine.verification import Verification

DELIVERED, ROW_FILTER, VERDICT, INVISIBLE, NOT_IN_FORCE = (
    OUTCOMES.index(o.value)
    for o in (Outcome.DELIVERED, Outcome.ROW_FILTER, Outcome.VERDICT, Outcome.INVISIBLE, Outcome.NOT_IN_FORCE)
)
_UPDATE, _DELETE = (2 * CHANGE_OPS.index(op) for op in "ud")
_OP_AT = frame.HEADER_BYTES + 16
_SEQ = f"(SMALL[s] if s<{sequence.STEP} else LOW[s%{sequence.STEP}]+HIGH[s//{sequence.STEP}])"
DECISION_BYTES = 16_777_216
"""Most memory for the lists of decisions that are kept ready."""
_ENTRY_BYTES = 256
"""What an entry of it takes beside tally and list, about."""
_NULL, _PRESENT = b"\0", b"\2"
"""Branches of a nullable field."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One agreement's grant on the dataset, compiled."""

    slot: int
    """Its index in `seqs` and `force`."""
    agreement: Agreement
    grant: Grant
    projection: Projection
    schema_id: int
    secret: bytes
    clear: bool
    """The subject's PIN is granted in the clear: keys and event ids are the bus's own."""


@dataclass(slots=True)
class Generator:
    """`source()` after construction; `constants` is the scope it runs in."""

    dataset: Dataset
    register: Dataset
    subscriptions: Sequence[Subscription]
    change_id: int
    verified_id: int
    secret: bytes
    max_record_bytes: int
    recorded: bool = False
    """The verdict on the row is `person_of.verdict`, as it was recorded, and not found anew."""
    constants: dict[str, Any] = field(default_factory=dict)
    _after: dict[str, tuple[str, str]] = field(default_factory=dict)
    _before: dict[str, tuple[str, str]] = field(default_factory=dict)
    _ts: tuple[str, str] = ("", "")

    @property
    def verifies(self) -> bool:
        return bool(self.dataset.people) and not self.dataset.register

    @property
    def minds_verdicts(self) -> bool:
        """Whether what the verdict was before an update matters."""
        return self.verifies and any(s.grant.verdicts or s.grant.share_verdict for s in self.subscriptions)

    def source(self) -> str:
        """The module: helper functions of the walk, then `handle`. Raises MatchError for columns that cannot be compared."""
        verification = self.verification() if self.verifies else None
        columns = self.columns(verification)
        wanted = [f"{side}.{c}" for side in ("before", "after") for c in columns]
        walk = walk_source(derive.change(self.dataset), ["source.ts_ms", *wanted])
        self._ts = walk.spans["source.ts_ms"]
        self._before = {c: walk.spans[f"before.{c}"] for c in columns}
        self._after = {c: walk.spans[f"after.{c}"] for c in columns}
        self.constants |= RUNTIME | walk.constants | self._scope()
        before, after = walk.branches["before"], walk.branches["after"]
        body = [
            *self._bounds(),
            "try:",
            *indent([f"i={frame.HEADER_BYTES}", *walk.lines], 1),
            "except (IndexError, UnicodeDecodeError): raise Malformed from None",
            "if i!=len(b): raise Malformed",
            *self._images(before, after),
            *(verification.lines(self._after, with_bytes=True) if verification else []),
            f"v={self._verdict(verification)}",
            f"e=b[{frame.HEADER_BYTES}:{_OP_AT}]; r=None",
            *self._deliveries(verification),
            *self._verified(verification),
        ]
        return "\n".join([*walk.functions, "def handle(b, key, person_of, seqs, force, out):", *indent(body, 1)]) + "\n"

    def _verdict(self, verification: Verification | None) -> str:
        if verification is None:
            return "-1"
        return "person_of.verdict" if self.recorded else verification.verdict()

    # -- what the code refers to

    def verification(self) -> Verification:
        roles = self.dataset.people
        pin = self.register.people[0].pin
        granted = {c for s in self.subscriptions for c in s.projection.register_columns()}
        checked = {f for r in roles[1:] for f in r.match}
        subject = person.reading(self.register, {pin, *roles[0].match, *granted}, "p", "q")
        other = person.reading(self.register, checked, "o", "k")
        return Verification(self.dataset, self.register, subject, other, self.secret, self.constants)

    def columns(self, verification: Verification | None) -> list[str]:
        """Columns of the row that are looked at."""
        pin = {self.dataset.people[0].pin} if self.dataset.people else set()
        granted = {c for s in self.subscriptions for c in s.projection.columns()}
        return sorted(pin | granted | set(self.dataset.primary_key) | set(verification.columns() if verification else ()))

    def _scope(self) -> dict[str, Any]:
        scope: dict[str, Any] = {f"_{code.value}": code for code in DeadCode}
        scope |= {"SMALL": sequence.SMALL, "LOW": sequence.LOW, "HIGH": sequence.HIGH}
        scope["HEADER"], scope["VERIFIED"] = frame.header(self.change_id), frame.header(self.verified_id)
        scope["ROW_KEY"] = identity.row_keys(self.secret, self.dataset.name)
        scope["SHARED"] = [b"\2" + varint.encode(v) for v in range(len(VERDICTS))]
        scope["DECISIONS"] = self.memo()
        for j, s in enumerate(self.subscriptions):
            head = varint.encode_text(s.agreement.id) + s.agreement.grant_hash
            scope |= {f"HEAD{j}": frame.header(s.schema_id), f"OF{j}": head}
            scope |= {f"OF{j}_{op}": head + varint.encode(DELIVERY_OPS.index(op)) for op in "cudw"}
            if not s.clear:
                scope[f"HASH{j}"] = identity.pseudonyms(s.secret)
                scope[f"ROW_KEY{j}"] = identity.row_keys(s.secret, self.dataset.name)
        return scope

    def memo(self) -> Memo[bytes, bytes]:
        """Tally -> the array `decisions`."""
        size, tally = _ENTRY_BYTES + sum(len(s.agreement.id) + 4 for s in self.subscriptions), 1 + len(self.subscriptions)
        return Memo(self.decisions, DECISION_BYTES // size, tally)

    def decisions(self, tally: bytes) -> bytes:
        """The array `decisions` of a tally."""
        ids = [s.agreement.id for s in self.subscriptions]
        made = b"".join(varint.encode_text(a) + varint.encode(o) for a, o in zip(ids, tally[1:], strict=True))
        return (varint.encode(len(ids)) + made if ids else b"") + b"\0"

    # -- what can fail

    def _bounds(self) -> list[str]:
        return [
            f"if not b or len(b)<{frame.HEADER_BYTES} or b[0]: raise Malformed(_BAD_FRAME)",
            f"if len(b)>{self.max_record_bytes}: raise Malformed(_TOO_LARGE)",
            f"if b[:{frame.HEADER_BYTES}]!=HEADER: raise Malformed(_UNKNOWN_SCHEMA)",
            f"if key is None or len(key)!={identity.KEY_BYTES}: raise Malformed",
        ]

    def _images(self, before: str, after: str) -> list[str]:
        """Each op has its images; of a deleted row the one before is the row. An update stays with its person and its row."""
        moves = {now: was for c, span in self._after.items() for now, was in zip(span, self._before[c], strict=True)}
        return [
            f"op=b[{_OP_AT}]",
            f"if op=={_UPDATE}:",
            f" if {before}!=2 or {after}!=2: raise Malformed",
            f" if {' or '.join([*self._another_person(), *self._another_row()])}: raise Malformed",
            f"elif op=={_DELETE}:",
            f" if {before}!=2 or {after}: raise Malformed",
            f" {','.join(moves)}, = {','.join(moves.values())},",
            f"elif {before} or {after}!=2: raise Malformed",
        ]

    def _another_person(self) -> list[str]:
        """True when the subject's PIN changes between two PINs, or between one and none: capture makes two events of that."""
        if not self.dataset.people:
            return []
        (a, a_end), (z, z_end) = (side[self.dataset.people[0].pin] for side in (self._before, self._after))
        shortest = self.shortest_pin()
        return [f"b[{a}:{a_end}]!=b[{z}:{z_end}] and ({a_end}-{a}>={shortest} or {z_end}-{z}>={shortest})"]

    def shortest_pin(self) -> int:
        """Bytes of the subject's PIN where there is one: a branch, a length, a digit."""
        return 3 if isinstance(self.dataset.fields[self.dataset.people[0].pin], list) else 2

    def _another_row(self) -> list[str]:
        """True when a column of the primary key changes: the agencies would keep the row under its old key."""
        spans = ((self._before[c], self._after[c]) for c in self.dataset.primary_key)
        return [f"b[{a}:{a_end}]!=b[{z}:{z_end}]" for (a, a_end), (z, z_end) in spans]

    # -- what cannot

    def _deliveries(self, verification: Verification | None) -> list[str]:
        if not self.subscriptions:
            return []
        update = self._before_verdict(verification)
        register = verification.subject.spans if verification else {}
        create, delete = [], []
        for j, s in enumerate(self.subscriptions):
            title = [f"# {s.agreement.id}"]
            update += title + self._update(j, s, register)
            delete += title + self._withhold(j, s) + indent(self._deliver(j, s, f"OF{j}_d", self._farewell(s)), 1)
            data = s.projection.data(self._after, register, self.constants)
            fresh = self._deliver(j, s, f"OF{j},w", self._tail(s, _PRESENT), *data)
            create += title + self._withhold(j, s, s.grant.verdicts) + indent(fresh, 1)
        return [
            f"if op=={_UPDATE}:",
            *indent(update, 1),
            f"elif op=={_DELETE}:",
            *indent(delete, 1),
            "else:",
            f" w=b[{_OP_AT}:{_OP_AT + 1}]",
            *indent(create, 1),
        ]

    def _withhold(self, j: int, s: Subscription, verdicts: Sequence[str] = ()) -> list[str]:
        """An if-chain over the reasons to withhold an event about one image, ending in `else:`.

        A delete is not asked for its verdict: that may have changed since the row was delivered, and the agency must learn of it.
        """
        made = [f"if not force[{s.slot}]: o{j}={NOT_IN_FORCE}"]
        if passes := s.projection.passes(self._after, self.constants):
            made.append(f"elif not ({passes}): o{j}={ROW_FILTER}")
        if verdicts:
            made.append(f"elif not ({_admits('v', s.grant)}): o{j}={VERDICT}")
        return [*made, "else:"]

    def _farewell(self, s: Subscription) -> str:
        """The tail of a delete: of a verdict that the agreement does not ask for nothing is told."""
        shared, nothing = self._tail(s, _NULL), repr(_NULL + _NULL)
        asked = _admits("v", s.grant)
        return f"({shared} if {asked} else {nothing})" if asked and shared != nothing else shared

    def _tail(self, s: Subscription, data: bytes) -> str:
        """Verdict and the branch byte of `data`."""
        if s.grant.share_verdict and self.verifies:
            return f"SHARED[v]+{data!r}"
        return repr(b"\0" + data)

    def _deliver(self, j: int, s: Subscription, head: str, *tail: str) -> list[str]:
        """`head`: agreement, grant hash and op; `tail`: verdict and data. Nothing here can fail."""
        made = [f"o{j}={DELIVERED}; seqs[{s.slot}]=s=seqs[{s.slot}]+1"]
        primary = "+".join(
            f"b[{self._after[c][0]}:{self._after[c][1]}]" for c in self.dataset.fields if c in self.dataset.primary_key
        )
        ts = f"b[{self._ts[0]}:{self._ts[1]}]"
        if s.clear:
            made.append(f"if r is None: r={ts}+ROW_KEY({primary})")
            event, rest, key = "e", "r", "key"
        else:
            event, rest, key = f"HASH{j}(e)", f"{ts},ROW_KEY{j}({primary})", f"HASH{j}(key)"
        parts = ",".join((f"HEAD{j}", event, _SEQ, head, rest, *tail))
        topic = topics.agency(s.agreement.id)
        return [*made, f'out.append(({topic!r},b"".join(({parts})),{key}))']

    def _before_verdict(self, verification: Verification | None) -> list[str]:
        """vb: the verdict that the row before the update has, by the register as it is now."""
        if verification is None or not self.minds_verdicts:
            return []
        differ = " or ".join(
            f"b[{a}:{a_end}]!=b[{z}:{z_end}]"
            for (a, a_end), (z, z_end) in ((self._before[c], self._after[c]) for c in verification.columns())
        )
        again = verification.lines(self._before, with_bytes=False)
        return ["vb=v", f"if {differ}:", *indent([*again, f"vb={verification.verdict()}"], 1)]

    def _update(self, j: int, s: Subscription, register: Spans) -> list[str]:
        """x, y: visible before and after; d: verdict and data."""
        constants, projection = self.constants, s.projection
        passes, passed = projection.passes(self._after, constants), projection.passes(self._before, constants)
        now = " and ".join(t for t in (passes, _admits("v", s.grant)) if t) or "True"
        was = " and ".join(t for t in (passed, _admits("vb", s.grant)) if t) or "True"
        new = ",".join(projection.data(self._after, register, constants))
        old = ",".join(projection.data(self._before, register, constants))
        same = f'd==b"".join(({old},))' + (" and v==vb" if s.grant.share_verdict and self.verifies else "")
        reason = str(VERDICT if s.grant.verdicts else ROW_FILTER)
        if s.grant.verdicts and passes:
            reason = f"{VERDICT} if {passes} or {passed} else {ROW_FILTER}"
        return [
            f"if not force[{s.slot}]: o{j}={NOT_IN_FORCE}",
            "else:",
            f" x={was}",
            f" if {now}:",
            f'  d=b"".join(({new},)); o{j}={DELIVERED}',
            f"  if not x: a=OF{j}_c",
            f"  elif {same}: o{j}={INVISIBLE}",
            f"  else: a=OF{j}_u",
            f"  d={self._tail(s, _PRESENT)}+d",
            f" elif x: o{j}={DELIVERED}; a=OF{j}_w; d={(_NULL + _NULL)!r}",
            f" else: o{j}={reason}",
            f" if o{j}=={DELIVERED}:",
            *indent(self._deliver(j, s, "a", "d"), 2),
        ]

    def _verified(self, verification: Verification | None) -> list[str]:
        """The change event's own bytes, then what was found out."""
        if verification:
            subject = verification.subject
            found = [*verification.encoded(), "DECISIONS[t]", rf'b"\0" if p is None else {subject.person}']
        else:
            found = [r'b"\0"', "DECISIONS[t]", r'b"\0"']
        tally = ",".join(["v+1", *(f"o{j}" for j in range(len(self.subscriptions)))])
        parts = ",".join(("VERIFIED", f"b[{frame.HEADER_BYTES}:]", *found))
        topic = topics.verified(self.dataset.name)
        return [f"t=bytes(({tally},))", f'out.append(({topic!r},b"".join(({parts})),key))', "return t"]


def _admits(verdict: str, grant: Grant) -> str:
    """Whether the agreement takes this verdict, '' where it takes any."""
    allowed = [VERDICTS.index(v) for v in grant.verdicts]
    if not allowed:
        return ""
    return f"{verdict}=={allowed[0]}" if len(allowed) == 1 else f"{verdict} in {tuple(allowed)}"
