"""What a test file leaves open of its agreement: each dataset, mask, side of a filter and of the verdicts, and a withdrawal."""

from __future__ import annotations

from collections.abc import Iterator

from bus.core.agreement import Grant, Mask
from bus.core.outcome import Op, Outcome
from bus.trial.cases import Case, Examples, Gets


def lacking(examples: Examples) -> list[str]:
    """In words, in the order of the agreement; nothing where everything is looked at."""
    found = [what for grant in examples.agreement.grants for what in _grant(grant, examples.cases)]
    limited = any(g.where or g.verdicts for g in examples.agreement.grants)
    withdrawn = any(isinstance(c.expected, Gets) and c.expected.op == Op.WITHDRAWN.value for c in examples.cases)
    return [*found, *(["a row that is withdrawn"] if limited and not withdrawn else [])]


def _grant(grant: Grant, cases: tuple[Case, ...]) -> Iterator[str]:
    own = [c for c in cases if c.dataset == grant.dataset]
    values = [c.expected.data for c in own if isinstance(c.expected, Gets) and c.expected.data is not None]
    if not values:
        yield f"{grant.dataset}: a delivery with values"
    for fields in (f for f in grant.fields if f.mask != Mask.PLAIN):
        name = fields.name.replace(".", "_")
        if not any(data.get(name) is not None for data in values):
            yield f"{grant.dataset}: {fields.name} behind its mask {fields.mask}"
    withheld = {c.expected for c in own if isinstance(c.expected, str)}
    if grant.where and Outcome.ROW_FILTER.value not in withheld:
        yield f"{grant.dataset}: a row that the row filter holds back"
    if grant.verdicts and Outcome.VERDICT.value not in withheld:
        yield f"{grant.dataset}: a row whose verdict is not asked for"
