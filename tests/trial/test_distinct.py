"""Counting different keys: exact while they fit, near beyond, and never of more than a bound."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bus.trial.distinct import Count, Distinct

KEYS = st.lists(st.binary(min_size=16, max_size=16), max_size=60)


@given(KEYS, st.integers(3, 40))
def test_up_to_its_bound_it_counts_as_a_set_does_and_beyond_it_says_that_it_estimates(keys: list[bytes], bound: int) -> None:
    """Whatever the keys and however often each comes."""
    counted = Distinct(bound)
    for key in keys:
        counted.add(key)
    different = len(set(keys))
    assert counted.count().exact == (different <= bound)
    assert len(counted._there) == len(counted._greatest) == min(different, bound)
    if different <= bound:
        assert counted.count() == Count(different, exact=True)


def test_an_estimate_is_within_five_standard_errors_and_repeats_change_nothing() -> None:
    rng = random.Random(7)
    keys = [rng.randbytes(16) for _ in range(50_000)]
    counted = Distinct(1_000)
    for key in [*keys, *rng.sample(keys, 20_000)]:
        counted.add(key)
    found = counted.count()
    assert not found.exact
    assert abs(found.number - 50_000) < 5 * 50_000 / 998**0.5
    assert str(found).startswith("about ")
