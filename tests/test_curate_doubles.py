"""Segments that show the same, and people that look the same: found, and in a time that thousands allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linker.curate.doubles import LEAST_SHARED, SAME_LIPS, same_lips


def agree(a: np.ndarray, b: np.ndarray) -> bool:
    """The definition: a correlation over SAME_LIPS at some shift."""
    pairs = [(a[max(0, s) : s + len(b)], b[max(0, -s) : len(a) - s]) for s in range(1 - len(b), len(a))]
    return any(np.corrcoef(x, y)[0, 1] > SAME_LIPS for x, y in pairs if len(x) >= LEAST_SHARED and x.std() > 0.001)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(40, 160), st.integers(40, 160), st.floats(0, 0.6))
def test_the_same_lips_are_found_at_any_shift(seed: int, long: int, other: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    whole = 0.03 * rng.random(300)
    a, b = whole[100 : 100 + long], whole[80 : 80 + other] + noise * 0.03 * rng.random(other)
    assert same_lips(a, b) == agree(a, b)


@pytest.mark.parametrize("still", [np.zeros(100), np.full(100, 0.02)])
def test_a_mouth_that_rests_says_nothing(still: np.ndarray) -> None:
    assert not same_lips(still, still)
