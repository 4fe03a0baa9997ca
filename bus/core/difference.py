"""What two versions of an agreement open differently, in words."""

from __future__ import annotations

from bus.core.agreement import Agreement, Grant


def terms(old: Agreement, new: Agreement) -> tuple[str, ...]:
    """What changes of the agreement as a whole, beside its datasets."""
    pairs = {
        "purpose": (old.purpose, new.purpose),
        "legal basis": (old.legal_basis, new.legal_basis),
        "valid from": (old.valid_from_ms, new.valid_from_ms),
        "valid until": (old.valid_until_ms, new.valid_until_ms),
        "past": (old.past, new.past),
        "delivery": (old.delivery.way.value, new.delivery.way.value),
        "webhook": (old.delivery.url, new.delivery.url),
        "terms": (old.terms, new.terms),
        "sensitive basis": tuple(tuple(g.sensitive_basis for g in one.grants) for one in (old, new)),
    }
    return tuple(f"{what} changes" for what, (was, becomes) in pairs.items() if was != becomes)


def words(old: Agreement, new: Agreement) -> dict[str, tuple[str, ...]]:
    """Dataset -> what changes for it, in the order of the new agreement, then what only the old one has. Empty: nothing."""
    before, after = ({g.dataset: g for g in one.grants} for one in (old, new))
    listed = [*after, *(name for name in before if name not in after)]
    found = {name: _grant(before.get(name), after.get(name)) for name in listed}
    return {name: said for name, said in found.items() if said}


def _grant(old: Grant | None, new: Grant | None) -> tuple[str, ...]:
    if old is None:
        return ("the dataset is new",)
    if new is None:
        return ("the dataset is gone",)
    return (*_fields(old, new), *_filter(old, new), *_verdicts(old, new))


def _fields(old: Grant, new: Grant) -> list[str]:
    before, after = ({f.name: str(f.mask) for f in one.fields} for one in (old, new))
    said = [f"field {name} is new ({mask})" for name, mask in after.items() if name not in before]
    said += [f"field {name} is gone" for name in before if name not in after]
    both = [(name, mask, after[name]) for name, mask in before.items() if name in after]
    said += [f"field {name}: {was} becomes {mask}" for name, was, mask in both if was != mask]
    if not said and list(before) != list(after):
        said.append("the fields stand in another order")
    return said


def _filter(old: Grant, new: Grant) -> list[str]:
    before, after = dict(old.where), dict(new.where)
    columns = [*after, *(c for c in before if c not in after)]
    return [
        f"rows where {c}: {_either(before.get(c, ()))} becomes {_either(after.get(c, ()))}"
        for c in columns
        if before.get(c) != after.get(c)
    ]


def _verdicts(old: Grant, new: Grant) -> list[str]:
    said = []
    if old.verdicts != new.verdicts:
        said.append(f"verdicts: {_either(old.verdicts)} becomes {_either(new.verdicts)}")
    if old.share_verdict != new.share_verdict:
        said.append("the verdict is told" if new.share_verdict else "the verdict is no longer told")
    return said


def _either(values: tuple[str, ...]) -> str:
    return " or ".join(values) or "any"
