"""Cones: distances, dual cones, triangles, and what multipliers prove."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from bilevel.problem.cones import (
    Cone,
    Kind,
    interior,
    into_dual,
    order,
    outside,
    symmetrizer,
    to_matrix,
    to_triangle,
)
from bilevel.problem.functions import Objective, Rows
from bilevel.response.best_response import continuous_program
from bilevel.response.duality import weak_bound

SEEDS = st.integers(0, 10_000)
EVERY = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
SIZES = {Kind.SECOND_ORDER: 4, Kind.EXPONENTIAL: 3, Kind.SEMIDEFINITE: 6}


def inside(kind, rng):
    """Return a random vector of a cone, by its definition."""
    if kind is Kind.SECOND_ORDER:
        u = rng.normal(size=3)
        return np.append(np.linalg.norm(u) + rng.exponential(), u)
    if kind is Kind.SEMIDEFINITE:
        root = rng.normal(size=(3, rng.integers(1, 4)))
        return to_triangle(root @ root.T)
    s, r = 0.1 + rng.exponential(), rng.normal()
    return np.array([r, s, s * np.exp(r / s) + rng.exponential()])


@EVERY
@given(SEEDS)
def test_a_member_is_inside_and_its_outside_is_outside(kind, seed):
    rng = np.random.default_rng(seed)
    member = inside(kind, rng)
    assert outside(member, kind) <= 1e-9 * max(1.0, abs(member).max())
    # A cone that contains a vector in its interior does not contain its negative.
    cone = Cone(sp.csr_array(np.eye(SIZES[kind])), np.zeros(SIZES[kind]), "cone", kind)
    assert outside(-member - 0.1 * interior(cone), kind) > 0


@EVERY
@given(SEEDS)
def test_the_dual_cone_has_no_obtuse_angle_with_the_cone(kind, seed):
    rng = np.random.default_rng(seed)
    z = into_dual(rng.normal(size=SIZES[kind]), kind)
    for _ in range(20):
        member = inside(kind, rng)
        assert z @ member >= -1e-9 * np.linalg.norm(z) * np.linalg.norm(member)
    again = into_dual(z, kind)
    np.testing.assert_allclose(again, z, atol=1e-9 * max(1.0, abs(z).max()))


@EVERY
@given(SEEDS)
def test_moving_by_the_violation_along_the_interior_reaches_the_cone(kind, seed):
    value = np.random.default_rng(seed).normal(size=SIZES[kind])
    cone = Cone(sp.csr_array(np.eye(SIZES[kind])), np.zeros(SIZES[kind]), "cone", kind)
    moved = value + cone.violation(value) * interior(cone)
    assert outside(moved, kind) <= 1e-9


@pytest.mark.parametrize(
    ("value", "distance"),
    [
        ([0.0, 1.0, 1.0], 0.0),
        ([0.0, 1.0, 0.5], 0.5),
        ([1.0, 1.0, 1.0], 1.0),
        ([-1.0, 0.0, 0.0], 0.0),
        ([0.0, -0.25, 1.0], 0.25),
        ([2000.0, 1.0, 5.0], 2000.0 - np.log(5)),
    ],
)
def test_exponential_cone_by_hand(value, distance):
    assert outside(np.array(value), Kind.EXPONENTIAL) == pytest.approx(distance)


@given(SEEDS)
def test_triangles(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 6))
    full = rng.normal(size=(n, n))
    symmetric = (full + full.T) / 2
    vector = to_triangle(symmetric)
    assert order(len(vector)) == n
    np.testing.assert_allclose(to_matrix(vector), symmetric)
    np.testing.assert_allclose(symmetrizer(n) @ full.ravel(order="F"), vector)
    other = to_triangle(np.eye(n) + symmetric)
    assert vector @ other == pytest.approx(np.trace(symmetric @ (np.eye(n) + symmetric)))


def entropy_program():
    """Return ``max c'y + entropy(y)`` on the simplex in conic form, and its value."""
    c = np.array([0.3, -1.0, 2.0])
    n = 3
    cost = np.concatenate([-c, -np.ones(n)])  # min -c'y - sum t, (t, y, 1) in the cone
    rows = Rows.empty(2 * n)
    line = sp.csr_array(np.concatenate([np.ones(n), np.zeros(n)])[None, :])
    rows = Rows(line, np.ones(1), np.ones(1, bool), rows.products, ("sum",))
    cones = []
    for i in range(n):
        A = np.zeros((3, 2 * n))
        A[0, n + i] = A[1, i] = 1.0
        cones.append(Cone(sp.csr_array(A), np.array([0.0, 0.0, -1.0]), "c", Kind.EXPONENTIAL))
    objective = Objective(sp.csr_array((2 * n, 2 * n)), cost)
    return continuous_program(objective, rows, cones=tuple(cones)), -np.log(np.exp(c).sum())


@given(SEEDS)
def test_no_multiplier_proves_more_than_the_value(seed):
    """Random multipliers, scaled so that stationarity holds nearly, bound from below."""
    rng = np.random.default_rng(seed)
    program, value = entropy_program()
    probability = rng.dirichlet(np.ones(3))
    v = np.concatenate([probability, -probability * np.log(probability)])
    lam = rng.normal(size=1)
    z = tuple(rng.normal(size=3) for _ in range(3))
    assert weak_bound(program, v, lam, z) <= value + 1e-9


def test_the_optimal_multipliers_prove_the_value():
    program, value = entropy_program()
    c = -program.objective.c[:3]
    y = np.exp(c) / np.exp(c).sum()
    v = np.concatenate([y, -y * np.log(y)])
    # d/dt: u = -1; on the boundary v = u + a log(a / w) with a = 1, w = y.
    z = tuple(np.array([-1.0, -1.0 - np.log(yi), yi]) for yi in y)
    lam = np.array([c[0] - 1.0 - np.log(y[0])])
    assert weak_bound(program, v, lam, z) == pytest.approx(value, abs=1e-9)


def test_cvxpy_agrees_with_the_triangle_of_a_matrix_inequality():
    """The compiled cone at a point holds the matrix's scaled triangle."""
    import bilevel as bl

    x = cp.Variable(name="x")
    Y = cp.Variable((3, 3), name="Y", symmetric=True)
    shift = np.arange(9.0).reshape(3, 3)
    follower = bl.Follower(cp.Minimize(cp.trace(Y)), [Y + x * (shift + shift.T) >> 0], [Y])
    form = bl.Problem(cp.Minimize(x), [x >= 1], followers=[follower]).compile()
    (cone,) = form.followers[0].cones
    assert cone.kind is Kind.SEMIDEFINITE
    w = np.random.default_rng(0).normal(size=form.n)
    problem_leaves = bl.Problem(cp.Minimize(x), [x >= 1], followers=[follower]).leaves
    matrix = problem_leaves[Y.id].read(w) + problem_leaves[x.id].read(w) * (shift + shift.T)
    np.testing.assert_allclose(cone.A @ w - cone.b, to_triangle(matrix), atol=1e-12)
