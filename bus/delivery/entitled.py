"""What today's text of an agreement opens of a delivery that was made under an earlier one. The later decision counts.

A delivery of today's text goes out as it is. Of an earlier one's only what today's text opens as well: fields that it grants in
the same form, a verdict if it shares it. What it may not open, a row that its filter or its verdicts could leave out, or anything
of a text that a party has rejected or revoked, is told as withdrawn: the number counts on, and nothing else is said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bus.core.agreement import Agreement, Grant, Mask
from bus.core.outcome import Op

Fields = Mapping[str, Any]
"""Field of a delivery's `data` -> its Avro type."""
_GONE = (Op.DELETE.value, Op.WITHDRAWN.value)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`earlier`: hash -> text, of those still known; `ended`: hashes that a party has taken back; `forms`: dataset -> today's."""

    agreement: Agreement
    earlier: Mapping[bytes, Agreement]
    ended: Collection[bytes]
    forms: Mapping[str, Fields]

    def view(self, delivery: Mapping[str, Any], dataset: str, written: Fields) -> Mapping[str, Any]:
        """What may be told. `written`: the fields of the schema that the delivery was written with."""
        if delivery["grant_hash"] == self.agreement.grant_hash:
            return delivery
        grant = _grant(self.agreement, dataset)
        if grant is None or delivery["grant_hash"] in self.ended:
            return _withdrawn(delivery)
        shared = delivery["verdict"] if grant.share_verdict else None
        if delivery["op"] in _GONE:
            return {**delivery, "verdict": shared}
        old = self.earlier.get(delivery["grant_hash"])
        then = _grant(old, dataset) if old else None
        data = self._data(delivery["data"], grant, then, written)
        if not (_within(grant, then, data) and _judged(grant, then, delivery["verdict"])):
            return _withdrawn(delivery)
        return {**delivery, "verdict": shared, "data": data}

    def _data(self, data: Mapping[str, Any], grant: Grant, then: Grant | None, written: Fields) -> dict[str, Any]:
        forms = self.forms.get(grant.dataset, {})
        now = _masks(grant)
        before = None if then is None else _masks(then)
        return {
            name: value
            for name, value in data.items()
            if name in now
            and written.get(name) == forms.get(name)
            and (now[name] == Mask.PLAIN or (before is not None and before.get(name) == now[name]))
        }


def _grant(agreement: Agreement, dataset: str) -> Grant | None:
    return next((grant for grant in agreement.grants if grant.dataset == dataset), None)


def _masks(grant: Grant) -> dict[str, Mask]:
    """By the names that fields have in a delivery."""
    return {field.name.replace(".", "_"): field.mask for field in grant.fields}


def _within(grant: Grant, then: Grant | None, data: Mapping[str, Any]) -> bool:
    """Whether today's row filter holds for certain."""
    before = dict(then.where) if then else {}
    plain = {name for name, mask in _masks(grant).items() if mask == Mask.PLAIN}
    for column, allowed in grant.where:
        asked = column in before and set(before[column]) <= set(allowed)
        if not asked and not (column in plain and _text(data.get(column)) in allowed):
            return False
    return True


def _judged(grant: Grant, then: Grant | None, verdict: str | None) -> bool:
    """Whether today's verdicts let it through for certain."""
    if not grant.verdicts or verdict in grant.verdicts:
        return True
    return then is not None and bool(then.verdicts) and set(then.verdicts) <= set(grant.verdicts)


def _text(value: Any) -> str | None:
    """As row filters spell values."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _withdrawn(delivery: Mapping[str, Any]) -> dict[str, Any]:
    return {**delivery, "op": Op.WITHDRAWN.value, "verdict": None, "data": None}
