"""A proof of infeasibility is found where there is one, and never where a point exists."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from bilevel.backends.farkas import HUGE, Farkas


def system(seed, shift):
    """Rows around a point, one of them moved; some columns and rows without bounds."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(2, 8), rng.integers(2, 6)
    A = rng.normal(size=(m, n))
    y = rng.normal(size=n)
    entries = np.concatenate([y, A @ y])
    low, high = entries - rng.uniform(0, 1, n + m), entries + rng.uniform(0, 1, n + m)
    free = rng.random(n + m)
    low[free < 0.4], high[free > 0.6] = -HUGE, HUGE
    fixed = rng.random(n + m) < 0.2
    low[fixed] = high[fixed] = entries[fixed]
    low[-1] = high[-1] = entries[-1] + shift
    return A, low, high


def has_point(A, low, high):
    n = A.shape[1]
    result = linprog(
        np.zeros(n),
        np.vstack([A, -A]),
        np.concatenate([high[n:], -low[n:]]),
        bounds=list(zip(low[:n], high[:n], strict=True)),
        method="highs",
    )
    return result.status == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_nothing_is_proved_about_a_system_with_a_point(seed):
    A, low, high = system(seed, 0.0)
    assert not Farkas(A).proves(low, high)


def test_agrees_with_highs_and_mostly_finds_a_proof():
    proofs = empty = 0
    for seed in range(150):
        A, low, high = system(seed, 50.0)
        proved = Farkas(A).proves(low, high)
        point = has_point(A, low, high)
        assert not (proved and point)
        proofs, empty = proofs + proved, empty + (not point)
    assert empty >= 30
    assert proofs >= 0.8 * empty


def test_one_object_answers_for_bounds_that_change():
    A, low, high = system(3, 0.0)
    judge = Farkas(A)
    n = A.shape[1]
    for _ in range(3):
        assert not judge.proves(low, high)
        crossed = low.copy(), high.copy()
        crossed[0][:n], crossed[1][:n] = 0.0, 0.0
        crossed[0][n:], crossed[1][n:] = 1.0, 2.0
        assert judge.proves(*crossed)


def test_broken_numbers_prove_nothing():
    A = np.array([[1.0, np.nan]])
    assert not Farkas(A).proves(np.array([0.0, 0.0, 5.0]), np.array([1.0, 1.0, 6.0]))
