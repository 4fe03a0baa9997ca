"""What today's text of an agreement opens of a delivery that was made under an earlier one. The later decision counts.

A delivery of today's text goes out as it is. Of an earlier one's only what both texts open: fields that they grant in the same
form, a verdict if today's shares it. What today's text may not open, a row that its filter or its verdicts could leave out, or
anything of a text that is not known any more or that a party has rejected or revoked, is told as withdrawn: the number counts on,
and nothing else is said. Where the earlier text opened the PIN and today's does not, not even keys are told: they were the bus's
own, by which agencies could join their people.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from bus.core.agreement import Agreement, Grant, Mask
from bus.core.outcome import Op

Fields = Mapping[str, Any]
"""Field of a delivery's `data` -> its Avro type."""
_GONE = (Op.DELETE.value, Op.WITHDRAWN.value)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """`earlier`: hash -> text, of those still known; `ended`: hashes that a party has taken back; `forms`: dataset -> today's;
    `pins`: dataset -> the subject's PIN, of those with people."""

    agreement: Agreement
    earlier: Mapping[bytes, Agreement]
    ended: Collection[bytes]
    forms: Mapping[str, Fields]
    pins: Mapping[str, str] = field(default_factory=dict)

    def view(
        self, delivery: Mapping[str, Any], dataset: str, written: Fields, key: bytes, lane: int
    ) -> tuple[Mapping[str, Any], bytes]:
        """What may be told, and the key. `written`: the fields of the schema that the delivery was written with."""
        if delivery["grant_hash"] == self.agreement.grant_hash:
            return delivery, key
        grant = _grant(self.agreement, dataset)
        old = self.earlier.get(delivery["grant_hash"])
        then = _grant(old, dataset) if old else None
        if not self._clear(grant, dataset) and (then is None or self._clear(then, dataset)):
            return _unlinked(_withdrawn(delivery), lane)
        if grant is None or then is None or delivery["grant_hash"] in self.ended:
            return _withdrawn(delivery), key
        shared = delivery["verdict"] if grant.share_verdict else None
        if delivery["op"] in _GONE:
            return {**delivery, "verdict": shared}, key
        data = self._data(delivery["data"], grant, then, written)
        if not (_within(grant, then, data) and _judged(grant, then, delivery["verdict"])):
            return _withdrawn(delivery), key
        return {**delivery, "verdict": shared, "data": data}, key

    def _clear(self, grant: Grant | None, dataset: str) -> bool:
        """Whether the subject's PIN is granted as it is, and keys and ids are therefore the bus's own."""
        pin = self.pins.get(dataset)
        return grant is not None and any(one.name == pin and one.mask == Mask.PLAIN for one in grant.fields)

    def _data(self, data: Mapping[str, Any], grant: Grant, then: Grant, written: Fields) -> dict[str, Any]:
        forms = self.forms.get(grant.dataset, {})
        now, before = _masks(grant), _masks(then)
        return {
            name: value
            for name, value in data.items()
            if name in now and before.get(name) == now[name] and written.get(name) == forms.get(name)
        }


def _grant(agreement: Agreement, dataset: str) -> Grant | None:
    return next((grant for grant in agreement.grants if grant.dataset == dataset), None)


def _masks(grant: Grant) -> dict[str, Mask]:
    """By the names that fields have in a delivery."""
    return {one.name.replace(".", "_"): one.mask for one in grant.fields}


def _within(grant: Grant, then: Grant, data: Mapping[str, Any]) -> bool:
    """Whether today's row filter holds for certain. `data`: what both texts give in the same form."""
    before = dict(then.where)
    plain = {name for name, mask in _masks(grant).items() if mask == Mask.PLAIN}
    for column, allowed in grant.where:
        asked = column in before and set(before[column]) <= set(allowed)
        if not asked and not (column in plain and _text(data.get(column)) in allowed):
            return False
    return True


def _judged(grant: Grant, then: Grant, verdict: str | None) -> bool:
    """Whether today's verdicts let it through for certain."""
    if not grant.verdicts or verdict in grant.verdicts:
        return True
    return bool(then.verdicts) and set(then.verdicts) <= set(grant.verdicts)


def _text(value: Any) -> str | None:
    """As row filters spell values."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _withdrawn(delivery: Mapping[str, Any]) -> dict[str, Any]:
    return {**delivery, "op": Op.WITHDRAWN.value, "verdict": None, "data": None}


def _unlinked(delivery: Mapping[str, Any], lane: int) -> tuple[dict[str, Any], bytes]:
    """Constant over repeats, and of its place alone: it stands for nobody."""
    place = f"{delivery['agreement']}/{lane}/{delivery['seq']}".encode()
    stand_in = blake2b(place, digest_size=16).digest()
    return {**delivery, "event_id": stand_in, "row_key": stand_in}, stand_in
