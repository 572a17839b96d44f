"""Polynomials as sparse arrays against numpy with loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from bilevel.problem.functions import Cone, Monomials, Objective, Rows


@st.composite
def monomials(draw, n, rows, degree):
    count = draw(st.integers(0, 6))
    row = draw(st.lists(st.integers(0, rows - 1), min_size=count, max_size=count))
    flat = draw(st.lists(st.integers(0, n - 1), min_size=count * degree, max_size=count * degree))
    value = draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    factors = np.array(flat, int).reshape(count, degree)
    return np.array(row, int), factors, np.array(value, float)


def by_loop(row, factors, value, w, rows):
    total = np.zeros(rows)
    for r, f, v in zip(row, factors, value, strict=True):
        total[r] += v * np.prod(w[f])
    return total


N, M = 5, 3


@given(monomials(N, M, 2), st.integers(0, 2**31))
def test_collecting_changes_no_value(parts, seed):
    w = np.random.default_rng(seed).normal(size=N)
    terms = Monomials.collect(*parts)
    np.testing.assert_allclose(terms.evaluate(w, M), by_loop(*parts, w, M), atol=1e-12)
    assert (np.diff(terms.factors, axis=1) >= 0).all()
    assert terms.value.all()
    keys = np.column_stack([terms.row, terms.factors])
    assert len(np.unique(keys, axis=0)) == len(keys)


@given(monomials(N, M, 2), st.lists(st.booleans(), min_size=M, max_size=M), st.integers(0, 99))
def test_taking_rows(parts, keep, seed):
    w, mask = np.random.default_rng(seed).normal(size=N), np.array(keep)
    terms = Monomials.collect(*parts)
    taken = terms.take(mask).evaluate(w, int(mask.sum()))
    np.testing.assert_allclose(taken, terms.evaluate(w, M)[mask], atol=1e-12)


def random_rows(rng, parts):
    A = sp.csr_array(rng.integers(-2, 3, size=(M, N)).astype(float))
    return Rows(
        A, rng.normal(size=M), rng.random(M) < 0.5, Monomials.collect(*parts), ("a", "b", "c")
    )


@given(
    monomials(N, M, 2),
    st.sets(st.integers(0, N - 1)),
    st.integers(0, 2**31),
)
def test_projection_is_the_function_with_the_rest_fixed(parts, free, seed):
    rng = np.random.default_rng(seed)
    rows, w = random_rows(rng, parts), rng.normal(size=N)
    free = np.array(sorted(free), int)
    small = rows.project(free, w)
    other = w.copy()
    other[free] = rng.normal(size=len(free))
    np.testing.assert_allclose(small.evaluate(other[free]), rows.evaluate(other), atol=1e-9)
    assert small.A.shape == (M, len(free))
    assert small.names == rows.names


@given(monomials(N, M, 2), st.integers(0, 2**31))
def test_stack_take_and_pad(parts, seed):
    rng = np.random.default_rng(seed)
    rows, w = random_rows(rng, parts), rng.normal(size=N)
    both = Rows.stack(rows, Rows.empty(N), rows)
    np.testing.assert_allclose(both.evaluate(w), np.tile(rows.evaluate(w), 2))
    keep = np.array([True, False, True])
    np.testing.assert_allclose(rows.take(keep).evaluate(w), rows.evaluate(w)[keep])
    wide = rows.pad(N + 2)
    np.testing.assert_allclose(wide.evaluate(np.append(w, [7, 8])), rows.evaluate(w))


@given(monomials(N, M, 2), st.sets(st.integers(0, N - 1)), st.integers(0, 99))
def test_rows_that_touch_columns(parts, columns, seed):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, parts)
    mask = np.zeros(N, bool)
    mask[list(columns)] = True
    terms = Monomials.collect(*parts)
    expected = (rows.A.toarray()[:, mask] != 0).any(axis=1)
    for row, factors in zip(terms.row, terms.factors, strict=True):
        expected[row] |= bool(mask[factors].any())
    np.testing.assert_array_equal(rows.touches(mask), expected)


@given(monomials(N, M, 2), st.floats(1e-4, 1e5), st.integers(0, 99))
def test_violation_does_not_change_when_a_row_is_multiplied(parts, scale, seed):
    rng = np.random.default_rng(seed)
    rows, w = random_rows(rng, parts), rng.normal(size=N)
    terms = rows.products
    scaled = Rows(
        sp.csr_array(rows.A * scale),
        rows.b * scale,
        rows.equality,
        Monomials(terms.row, terms.factors, terms.value * scale),
        rows.names,
    )
    moving = np.asarray(abs(rows.A).sum(axis=1)).ravel() > 0  # a row without columns has no scale
    np.testing.assert_allclose(
        scaled.violation(w)[moving], rows.violation(w)[moving], rtol=1e-6, atol=1e-9
    )


def test_violation_by_hand():
    A = sp.csr_array(np.array([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]]))
    equality = np.array([False, True, False])
    rows = Rows(A, np.array([5.0, 17.0, 9.0]), equality, Monomials.empty(), ("a", "b", "c"))
    np.testing.assert_allclose(rows.violation(np.array([1.0, 3.0])), [2.0, 0.4, 0.0])


@given(monomials(N, 1, 3), st.sets(st.integers(0, N - 1), max_size=2), st.integers(0, 2**31))
def test_objective_with_cubic_terms_is_projected(parts, free, seed):
    rng = np.random.default_rng(seed)
    root = rng.integers(-2, 3, size=(N, N)).astype(float)
    _, factors, value = parts
    # At most two factors may be free (a follower's objective is quadratic in its own columns).
    free = np.array(sorted(free), int)
    keep = np.isin(factors, free).sum(axis=1) <= 2
    zeros = np.zeros(int(keep.sum()), int)
    cubic = Monomials.collect(zeros, factors[keep], value[keep])
    f = Objective(sp.csr_array(root + root.T), rng.normal(size=N), 1.5, cubic)
    w = rng.normal(size=N)
    other = w.copy()
    other[free] = rng.normal(size=len(free))
    direct = (
        0.5 * other @ (root + root.T) @ other
        + f.c @ other
        + 1.5
        + by_loop(zeros, factors[keep], value[keep], other, 1)[0]
    )
    assert f.evaluate(other) == pytest.approx(direct, abs=1e-9)
    assert f.project(free, w).evaluate(other[free]) == pytest.approx(direct, abs=1e-9)
    wide = f.pad(N + 1)
    if not len(cubic):
        assert wide.evaluate(np.append(other, 9.0)) == pytest.approx(direct, abs=1e-9)


def test_sign_and_linearity():
    c = np.array([1.0, 2.0])
    line = Objective(sp.csr_array((2, 2)), c, maximize=True)
    assert line.sign == -1
    assert line.is_linear
    assert not Objective(sp.eye_array(2, format="csr"), c).is_linear
    assert Objective(sp.csr_array((2, 2)), c).sign == 1


def test_cones():
    cone = Cone(sp.csr_array(np.array([[0.0, 0], [1, 0], [0, 1]])), np.array([-5.0, 0, 0]), "disc")
    assert cone.violation(np.array([3.0, 4.0])) == 0
    assert cone.violation(np.array([6.0, 8.0])) == pytest.approx(5)
    small = cone.project(np.array([1]), np.array([3.0, 0.0]))
    assert small.violation(np.array([4.0])) == pytest.approx(0, abs=1e-12)
    assert small.violation(np.array([4.1])) > 0
    wide = cone.pad(4)
    assert wide.violation(np.array([6.0, 8.0, 99.0, 99.0])) == pytest.approx(5)


def test_nothing():
    empty = Rows.empty(3)
    assert len(empty) == 0
    assert empty.evaluate(np.ones(3)).shape == (0,)
    assert empty.violation(np.ones(3)).max(initial=0.0) == 0
    assert len(Monomials.collect(np.empty(0, int), np.empty((0, 2), int), np.empty(0))) == 0
